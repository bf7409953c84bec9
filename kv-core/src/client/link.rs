//! Connections to members: opening one, the hello, and what comes in.

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

/// How long opening a connection may take, the hello included.
pub(super) const DIAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a client logs that its certificate ends soon.
const REMIND_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything needed to open connections.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) cluster: String,
    pub(super) name: String,
    pub(super) transport: Option<Arc<dyn Transport>>,
    pub(super) local: Option<LocalMember>,
    /// When it last logged that the certificate ends soon.
    pub(super) expiry_logged: Mutex<Option<Instant>>,
    /// Somebody looks for new certificates.
    pub(super) refreshing: Arc<AtomicBool>,
}

/// A connection on which both ends have exchanged hellos.
pub(super) struct Dialed {
    pub(super) reader: FrameReader<Reader>,
    pub(super) writer: FrameWriter<Writer>,
    pub(super) welcome: Welcome,
}

/// Why a member could not be connected to.
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
    /// Opens a connection to whoever listens at `address`.
    pub(super) async fn dial(&self, address: &str) -> Result<Dialed, DialError> {
        let dialed = async {
            let transport = self.transport.as_ref().ok_or(DialError::NoTransport)?;
            self.refresh(transport).await;
            self.warn_of_expiry(&**transport);
            let connection = transport.connect(address, Lane::Client).await?;
            self.greet(connection).await
        };
        timeout(DIAL_TIMEOUT, dialed).await.map_err(|_| DialError::Timeout)?
    }

    /// Opens a connection to this member, and makes sure that it is this one.
    pub(super) async fn dial_member(&self, member: &MemberInfo) -> Result<Dialed, DialError> {
        let dialed = match &self.local {
            Some(local) if local.id == member.id => {
                let greeted = timeout(DIAL_TIMEOUT, self.greet((local.connect)())).await;
                greeted.map_err(|_| DialError::Timeout)??
            }
            _ => return self.dial_as(member.id, &member.address).await,
        };
        Self::expect(dialed, member.id, &member.address)
    }

    /// Opens a connection to whoever listens at `address`, and makes sure that it is the member `id`.
    pub(super) async fn dial_as(&self, id: MemberId, address: &str) -> Result<Dialed, DialError> {
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

    async fn greet(&self, connection: Connection) -> Result<Dialed, DialError> {
        let Connection { peer, reader, writer, .. } = connection;
        self.prove(&peer, None)?;
        let mut writer = FrameWriter::new(writer);
        let mut reader = FrameReader::new(reader, wire::DEFAULT_MAX_FRAME);
        let hello = Hello::client(ClusterId::of_name(&self.cluster), self.name.clone());
        writer.push(wire::encode_hello(&hello));
        writer.flush().await.map_err(WireError::Io)?;
        let reply = match reader.read_hello_reply().await {
            // It will not speak another version next time.
            Err(error @ WireError::Version { .. }) => {
                return Err(DialError::Refused { reason: error.to_string(), temporary: false });
            }
            reply => reply?,
        };
        match reply {
            HelloReply::Ok(welcome) => {
                self.prove(&peer, Some(welcome.member))?;
                Ok(Dialed { reader, writer, welcome })
            }
            HelloReply::Refused { reason, temporary } => Err(DialError::Refused { reason, temporary }),
        }
    }

    /// Takes over new certificates, if there are any. Those that cannot be used are left alone: perhaps they are just being
    /// replaced. While somebody looks, nobody else does: a disk that does not return holds one thread.
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
            // There is no thread: perhaps the next time.
            Err(_) => self.refreshing.store(false, Ordering::Release),
        }
    }

    /// Logs once a day that this client's certificate ends soon. If it has ended, members refuse it.
    fn warn_of_expiry(&self, transport: &dyn Transport) {
        let Some(ends) = transport.expires() else { return };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let left = ends.saturating_sub(now);
        // A member logs that of its own itself.
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

    /// The other end must prove to be a member, and the one that it claims to be, if this end has a certificate.
    fn prove(&self, peer: &Peer, id: Option<MemberId>) -> Result<(), DialError> {
        let own = self.transport.as_ref().map_or(Peer::Unauthenticated, |transport| transport.identity());
        wire::prove_member(&own, peer, &self.cluster, id)
            .map_err(|reason| DialError::Refused { reason, temporary: false })
    }
}

/// What happens on a connection, in this order: `Open` at most once, then any number of `Message`s, `Closed` last.
pub(super) enum LinkEvent {
    /// The hellos are exchanged: from now on it can be written to.
    Open(FrameWriter<Writer>),
    /// An answer came.
    Message(ServerMessage),
    /// It could not be opened, or has ended.
    Closed(String),
}

enum State {
    Dialing(Arc<Dialer>, MemberInfo),
    Reading(FrameReader<Reader>),
    Ended,
}

/// Opens a connection to a member and reads from it.
pub(super) fn open(dialer: Arc<Dialer>, member: MemberInfo) -> BoxStream<'static, LinkEvent> {
    stream::unfold(State::Dialing(dialer, member), next).boxed()
}

/// Reads from a connection that is open already.
pub(super) fn read(reader: FrameReader<Reader>) -> BoxStream<'static, LinkEvent> {
    stream::unfold(State::Reading(reader), next).boxed()
}

async fn next(state: State) -> Option<(LinkEvent, State)> {
    let closed = |reason: String| Some((LinkEvent::Closed(reason), State::Ended));
    match state {
        State::Dialing(dialer, member) => match dialer.dial_member(&member).await {
            Ok(dialed) => Some((LinkEvent::Open(dialed.writer), State::Reading(dialed.reader))),
            Err(error) => closed(error.to_string()),
        },
        State::Reading(mut reader) => match reader.read_server_message().await {
            Ok(Some(message)) => Some((LinkEvent::Message(message), State::Reading(reader))),
            Ok(None) => closed("closed by the member".to_owned()),
            Err(error) => closed(error.to_string()),
        },
        State::Ended => None,
    }
}
