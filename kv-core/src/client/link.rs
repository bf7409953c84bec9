//! Opens connections to members, exchanges hellos (the first messages on a connection), and receives messages.

use super::LocalMember;
use crate::detached;
use crate::ids::{ClusterId, MemberId};
use crate::message::ServerMessage;
use crate::wire::{self, FrameReader, FrameWriter, Hello, HelloReply, MemberInfo, Welcome, WireError};
use futures::stream::{self, BoxStream, StreamExt};
use kv_transport::{Connection, EXPIRY_WARNING, Lane, Peer, Reader, Transport, TransportError, Writer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};

/// How long opening a connection may take, including the hello.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest time between two warnings in the log that the client's certificate expires soon.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What is needed to open connections.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) cluster: String,
    pub(super) name: String,
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) local: Option<Arc<dyn LocalMember>>,
    /// When the client last logged that its certificate expires soon.
    pub(super) expiry_logged: Mutex<Option<Instant>>,
    /// Whether a check for new certificates is in progress.
    pub(super) refreshing: Arc<AtomicBool>,
}

/// A connection on which both ends have exchanged hellos.
pub(super) struct Dialed {
    pub(super) reader: FrameReader<Reader>,
    pub(super) writer: FrameWriter<Writer>,
    pub(super) welcome: Welcome,
}

/// Why a connection to a member failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("no transport was given")]
    NoTransport,
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("no answer within {DIAL_TIMEOUT:?}")]
    Timeout,
    #[error("{reason}")]
    Refused { reason: String, temporary: bool },
}

impl Dialer {
    /// Connects to the member that listens at `address`, whichever member it is.
    async fn dial(&self, address: &str) -> Result<Dialed, DialError> {
        let dialed = async {
            let transport = self.transport.as_ref().ok_or(DialError::NoTransport)?;
            self.refresh(transport).await;
            self.warn_of_expiry(&**transport);
            let connection = transport.connect(address, Lane::Client).await?;
            self.handshake(connection).await
        };
        timeout(DIAL_TIMEOUT, dialed).await.map_err(|_| DialError::Timeout)?
    }

    /// Connects to `member`, and verifies that the other end is this member.
    pub(super) async fn dial_member(&self, member: &MemberInfo) -> Result<Dialed, DialError> {
        match &self.local {
            Some(local) if local.id() == member.id => {
                let greeted = timeout(DIAL_TIMEOUT, self.handshake(local.connect())).await;
                Self::expect(greeted.map_err(|_| DialError::Timeout)??, member.id, &member.address)
            }
            _ => self.dial_as(member.id, &member.address).await,
        }
    }

    /// Connects to an address that the application gave: of a certain member, or of any.
    pub(super) async fn dial_given(&self, id: Option<MemberId>, address: &str) -> Result<Dialed, DialError> {
        match id {
            Some(id) => self.dial_as(id, address).await,
            None => self.dial(address).await,
        }
    }

    /// Connects to `address`, and verifies that the member there is member `id`.
    async fn dial_as(&self, id: MemberId, address: &str) -> Result<Dialed, DialError> {
        Self::expect(self.dial(address).await?, id, address)
    }

    fn expect(dialed: Dialed, id: MemberId, address: &str) -> Result<Dialed, DialError> {
        let found = dialed.welcome.member;
        if found != id {
            let reason = format!("{address} is member {found}, not {id}");
            return Err(DialError::Refused { reason, temporary: false });
        }
        Ok(dialed)
    }

    async fn handshake(&self, connection: Connection) -> Result<Dialed, DialError> {
        let Connection { peer, reader, writer, .. } = connection;
        self.verify_member(&peer, None)?;
        let mut writer = FrameWriter::new(writer);
        let mut reader = FrameReader::new(reader, wire::DEFAULT_MAX_FRAME);
        let hello = Hello::client(ClusterId::of_name(&self.cluster), self.name.clone());
        writer.push(wire::encode_hello(&hello));
        writer.flush().await.map_err(WireError::Io)?;
        let reply = match reader.read_hello_reply().await {
            // The next attempt would fail too, because the member would still speak the same version.
            Err(error @ WireError::Version { .. }) => {
                return Err(DialError::Refused { reason: error.to_string(), temporary: false });
            }
            reply => reply?,
        };
        match reply {
            HelloReply::Ok(welcome) => {
                self.verify_member(&peer, Some(welcome.member))?;
                Ok(Dialed { reader, writer, welcome })
            }
            HelloReply::Refused { reason, temporary } => Err(DialError::Refused { reason, temporary }),
        }
    }

    /// Loads new certificates, if there are any. Unusable certificates are ignored, because an operator may be
    /// replacing the files at this moment. Only one check runs at a time, so a disk that hangs blocks only one thread.
    async fn refresh(&self, transport: &Arc<dyn Transport>) {
        if transport.identity() == Peer::Unauthenticated || self.refreshing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (transport, refreshing) = (transport.clone(), self.refreshing.clone());
        let refreshed = detached::run("kv-credentials", move || {
            let refreshed = transport.refresh();
            refreshing.store(false, Ordering::Release);
            refreshed
        });
        match refreshed.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot use the new certificates: the old ones stay in use");
            }
            // No thread could be started. A later check may succeed.
            Err(_) => self.refreshing.store(false, Ordering::Release),
        }
    }

    /// Logs, at most once a day, that this client's certificate expires soon. Members refuse an expired certificate.
    fn warn_of_expiry(&self, transport: &dyn Transport) {
        let Some(ends) = transport.expires() else { return };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = ends.saturating_sub(now);
        // If the certificate is a member's certificate, the member itself logs this.
        if left >= EXPIRY_WARNING || !matches!(transport.identity(), Peer::Client { .. }) {
            return;
        }
        let mut logged = self.expiry_logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.is_none_or(|logged| logged.elapsed() >= REMIND_EVERY) {
            *logged = Some(Instant::now());
            tracing::warn!(
                days_left = left.as_secs() / 86_400,
                hours_left = left.as_secs() / 3_600,
                "the certificate of this client expires soon: replace its files (kv certs --renew); the next connection uses them"
            );
        }
    }

    /// Checks that the other end's certificate is for a member of this cluster and, if `id` is given, for member `id`.
    /// If neither end has a certificate, accepts the connection without a check.
    fn verify_member(&self, peer: &Peer, id: Option<MemberId>) -> Result<(), DialError> {
        let own = self.transport.as_ref().map_or(Peer::Unauthenticated, |transport| transport.identity());
        wire::prove_member(&own, peer, &self.cluster, id)
            .map_err(|reason| DialError::Refused { reason, temporary: false })
    }
}

/// What happens on a connection, in this order: `Open` at most once, then any number of `Message`s, and `Closed` last.
pub(super) enum LinkEvent {
    /// The hellos are exchanged, so messages can be written.
    Open(FrameWriter<Writer>, Box<Welcome>),
    /// An answer has arrived.
    Message(ServerMessage),
    /// The connection could not be opened, or has ended.
    Closed(String),
}

enum LinkReader {
    Dialing(Arc<Dialer>, MemberInfo),
    Reading(FrameReader<Reader>),
    Ended,
}

/// Opens a connection to a member and reads from it.
pub(super) fn open(dialer: Arc<Dialer>, member: MemberInfo) -> BoxStream<'static, LinkEvent> {
    stream::unfold(LinkReader::Dialing(dialer, member), next).boxed()
}

/// Reads from an open connection.
pub(super) fn read(reader: FrameReader<Reader>) -> BoxStream<'static, LinkEvent> {
    stream::unfold(LinkReader::Reading(reader), next).boxed()
}

async fn next(state: LinkReader) -> Option<(LinkEvent, LinkReader)> {
    let closed = |reason: String| Some((LinkEvent::Closed(reason), LinkReader::Ended));
    match state {
        LinkReader::Dialing(dialer, member) => match dialer.dial_member(&member).await {
            Ok(Dialed { reader, writer, welcome }) => {
                Some((LinkEvent::Open(writer, Box::new(welcome)), LinkReader::Reading(reader)))
            }
            Err(error) => closed(error.to_string()),
        },
        LinkReader::Reading(mut reader) => match reader.read_server_message().await {
            Ok(Some(message)) => Some((LinkEvent::Message(message), LinkReader::Reading(reader))),
            Ok(None) => closed("closed by the member".to_owned()),
            Err(error) => closed(error.to_string()),
        },
        LinkReader::Ended => None,
    }
}
