//! Configures and starts a client.

use super::Client;
use super::driver::{Channels, Driver, KnownMembers};
use super::handle::MAX_DEADLINE;
use super::link::{DialError, Dialed, Dialer};
use crate::error::ConnectError;
use crate::ids::MemberId;
use crate::message::{Answer, Query, ReadMode};
use crate::wire::{Limits, MemberInfo};
use kv_transport::{Connection, Transport, TransportError};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// The client sends at most this many bytes of its name to members.
const MAX_NAME: usize = 100;

/// If no address answers, all addresses are tried again after this pause.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// A member that runs in the same process as the client.
pub(crate) trait LocalMember: Send + Sync {
    fn id(&self) -> MemberId;

    /// Opens a connection to the member, without the transport.
    fn connect(&self) -> Connection;

    /// Answers a read at once, from the member's memory. Returns `None` if the member cannot do so, for example because
    /// the read may need more than this memory. In that case, the read must be sent to a member as a message.
    fn read(&self, mode: ReadMode, query: &Query) -> Option<Answer>;
}

impl fmt::Debug for dyn LocalMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMember").field("id", &self.id()).finish_non_exhaustive()
    }
}

/// Configures a [`Client`]. [`connect`](Self::connect) starts the client.
#[derive(Debug)]
pub struct ClientBuilder {
    /// The addresses to try first. If an address has a member id, the client later uses the address to reach that
    /// member.
    addresses: Vec<(Option<MemberId>, String)>,
    dialer: Dialer,
    deadline: Duration,
    connect_timeout: Duration,
    seed: Option<u64>,
}

impl ClientBuilder {
    pub(super) fn new(cluster: String) -> Self {
        Self {
            addresses: Vec::new(),
            dialer: Dialer {
                cluster,
                name: String::new(),
                transport: None,
                local: None,
                expiry_logged: Mutex::default(),
                refreshing: Arc::default(),
            },
            deadline: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            seed: None,
        }
    }

    /// Adds the address of a member. One member that answers is enough: the client learns the addresses of the other
    /// members from that member.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push((None, address.into()));
        self
    }

    /// Adds the address at which this client reaches the member `id`. Use this method behind NAT, port forwarding or a
    /// proxy, if this client cannot use the address that the cluster reports for the member.
    ///
    /// If a different member answers at the address, the client does not use the address. If no address was given for a
    /// member, the client reaches that member at the address that the cluster reports. If this method is called twice
    /// for one member, the second address replaces the first.
    #[must_use]
    pub fn member_address(mut self, id: MemberId, address: impl Into<String>) -> Self {
        self.addresses.retain(|(member, _)| *member != Some(id));
        self.addresses.push((Some(id), address.into()));
        self
    }

    /// Sets the transport, which is required. The argument is a transport or an `Arc` of a transport, including
    /// `Arc<dyn Transport>`.
    ///
    /// If the transport has a certificate, each member that the client connects to must prove that it belongs to the
    /// cluster. QUIC and TLS over TCP use certificates. If the certificate files are replaced, the client loads the new
    /// certificates before it opens the next connection.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.dialer.transport = Some(Arc::new(transport));
        self
    }

    /// Sets the name of this client, which appears in the members' logs. The client sends at most the first 100 bytes.
    /// Default: empty.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        let mut name = name.into();
        name.truncate(name.floor_char_boundary(MAX_NAME));
        self.dialer.name = name;
        self
    }

    /// Sets how long an operation without its own deadline may take, retries included. Default 10 s; at most a year.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline.min(MAX_DEADLINE);
        self
    }

    /// Sets how long [`connect`](Self::connect) may take. Default 5 s; at most a year.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.min(MAX_DEADLINE);
        self
    }

    /// Sets the seed of the client's random choices (jitter and nonces), for tests that must be repeatable. Each client
    /// needs a different seed. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Makes the client reach this member inside the process, not through the transport.
    #[must_use]
    pub(crate) fn local_member(mut self, member: impl LocalMember + 'static) -> Self {
        self.dialer.local = Some(Arc::new(member));
        self
    }

    /// Tries the addresses in turn until a member accepts this client. Then starts the client. If no address answers,
    /// all of them are tried again.
    ///
    /// # Errors
    /// [`ConnectError`] if no member answers in time. If a member refuses this client for good, the remaining addresses
    /// are still tried once. If none of them accepts the client, `connect` reports the refusal without another round.
    /// `connect` also returns a [`ConnectError`] if there is no address or no transport, if the cluster has no data
    /// member (a member that stores data), or if a [member address](Self::member_address) has an unknown id.
    ///
    /// # Panics
    /// If the future runs outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel safe: dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        if self.addresses.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        if self.dialer.transport.is_none() {
            return Err(ConnectError::NoTransport);
        }
        let (address, dialed) = self.find_member().await?;
        let (mut members, limits) = (dialed.welcome.members.clone(), dialed.welcome.limits);
        for (id, reached_at) in &self.addresses {
            let Some(id) = *id else { continue };
            match members.iter_mut().find(|member| member.id == id) {
                Some(member) => member.address.clone_from(reached_at),
                None => return Err(ConnectError::UnknownMember { id, address }),
            }
        }
        if !members.iter().any(MemberInfo::holds_data) {
            return Err(ConnectError::NoDataMember { address });
        }
        let epoch = dialed.welcome.epoch();
        Ok(self.spawn((members, epoch), limits, Some(dialed)))
    }

    /// Tries the addresses in turn, again and again, until a member accepts this client or the time is over. Gives up
    /// earlier if a member has refused this client for good and, in the same round, no other address has accepted it.
    async fn find_member(&self) -> Result<(String, Dialed), ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let mut reasons = vec!["not tried".to_owned(); self.addresses.len()];
        let mut refused = None;
        let rounds = async {
            loop {
                for ((id, address), reason) in self.addresses.iter().zip(&mut reasons) {
                    match self.dialer.dial_given(*id, address).await {
                        Ok(dialed) => return Some((address.clone(), dialed)),
                        Err(
                            DialError::Refused { reason, temporary: false }
                            | DialError::Transport(TransportError::Handshake { reason, .. }),
                        ) => {
                            refused = Some(ConnectError::Refused { address: address.clone(), reason });
                        }
                        Err(error) => *reason = error.to_string(),
                    }
                }
                // A member refuses this client, and none of the other addresses has answered: give up now.
                if refused.is_some() {
                    return None;
                }
                sleep(ROUND_PAUSE).await;
            }
        };
        let found = timeout_at(deadline, rounds).await.ok().flatten();
        found.ok_or_else(|| {
            refused.unwrap_or_else(|| {
                let list: Vec<_> = self
                    .addresses
                    .iter()
                    .zip(reasons)
                    .map(|((_, address), why)| describe(address, &why))
                    .collect();
                ConnectError::Unreachable(list.join("; "))
            })
        })
    }

    /// Starts a client that already knows the members. The client connects when it is first used.
    ///
    /// # Panics
    /// If `members` contains no data member, or if this is called outside a tokio runtime.
    pub(crate) fn start(self, members: Vec<MemberInfo>, epoch: u64, limits: Limits) -> Client {
        self.spawn((members, epoch), limits, None)
    }

    fn spawn(
        self,
        (members, epoch): (Vec<MemberInfo>, u64),
        limits: Limits,
        first: Option<Dialed>,
    ) -> Client {
        let (commands, commands_end) = mpsc::channel(super::handle::MAX_COMMANDS);
        let (cancels, cancels_end) = mpsc::unbounded_channel();
        let (ended, ended_end) = watch::channel(());
        let channels = Channels { commands: commands_end, cancels: cancels_end };
        let local = self.dialer.local.clone();
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let members = KnownMembers::new(members);
        let mut driver =
            Driver::new(seed, self.dialer, (members.clone(), epoch), self.addresses, &limits, channels);
        if let Some(dialed) = first {
            driver.add_connection(dialed);
        }
        tokio::spawn(async move {
            driver.run().await;
            drop(ended);
        });
        Client::new(commands, cancels, ended_end, members, limits, local, self.deadline)
    }
}

/// Puts the address before the reason, if the reason does not contain the address.
fn describe(address: &str, reason: &str) -> String {
    if reason.contains(address) { reason.to_owned() } else { format!("{address}: {reason}") }
}
