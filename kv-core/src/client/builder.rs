//! Configures and starts a client.

use super::Client;
use super::driver::{Channels, Driver};
use super::handle::MAX_DEADLINE;
use super::link::{DialError, Dialed, Dialer};
use crate::error::ConnectError;
use crate::ids::MemberId;
use crate::wire::{Limits, MemberInfo};
use kv_transport::{Connection, Transport, TransportError};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};

/// The longest name that is sent to members, in bytes.
const MAX_NAME: usize = 100;

/// The pause between two rounds over the addresses.
const ROUND_PAUSE: Duration = Duration::from_millis(100);

/// How to reach a member in this process without the transport.
pub(crate) struct LocalMember {
    pub(crate) id: MemberId,
    pub(crate) connect: Box<dyn Fn() -> Connection + Send + Sync>,
}

impl fmt::Debug for LocalMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalMember").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Configures a [`Client`]; [`connect`](Self::connect) starts it.
#[derive(Debug)]
pub struct ClientBuilder {
    /// The addresses to try first. Addresses with a member id are also used to reach that member later.
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

    /// Adds the address of a member. One address that answers is enough: the client learns the others from that member.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push((None, address.into()));
        self
    }

    /// Adds the address at which this client reaches the member `id`. Use it behind NAT, port forwarding or a proxy, if
    /// this client cannot use the address that the cluster reports for the member.
    ///
    /// If another member answers at the address, the client does not use the address. The client reaches the other
    /// members at the addresses that the cluster reports. If this is called twice for one member, the later address
    /// counts.
    #[must_use]
    pub fn member_address(mut self, id: MemberId, address: impl Into<String>) -> Self {
        self.addresses.retain(|(member, _)| *member != Some(id));
        self.addresses.push((Some(id), address.into()));
        self
    }

    /// Sets the transport: a value or an `Arc`, including `Arc<dyn Transport>`. Required.
    ///
    /// If the transport has a certificate (TLS over TCP, or QUIC), the other end must prove that it is a member of the
    /// cluster. New certificates in the same files are loaded before the next connection is opened.
    #[must_use]
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.dialer.transport = Some(Arc::new(transport));
        self
    }

    /// Sets the name of this client in the members' logs. Only the first 100 bytes are sent. Default: empty.
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

    /// Sets the seed of the client's jitter and nonces, for tests that must be repeatable. Each client needs a
    /// different seed. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Reaches the member `id` through `connect` instead of the transport.
    #[must_use]
    pub(crate) fn local_member(
        mut self,
        id: MemberId,
        connect: impl Fn() -> Connection + Send + Sync + 'static,
    ) -> Self {
        self.dialer.local = Some(LocalMember { id, connect: Box::new(connect) });
        self
    }

    /// Finds a member that answers, and starts the client. Tries the addresses in turn until one answers.
    ///
    /// # Errors
    /// [`ConnectError`] if no member answers in time, or if a member refuses this client.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
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
        Ok(self.spawn(members, limits, Some(dialed)))
    }

    /// Tries the addresses in turn until one answers.
    async fn find_member(&self) -> Result<(String, Dialed), ConnectError> {
        let deadline = Instant::now() + self.connect_timeout;
        let mut reasons = vec!["not tried".to_owned(); self.addresses.len()];
        let mut refused = None;
        let rounds = async {
            loop {
                for ((id, address), reason) in self.addresses.iter().zip(&mut reasons) {
                    let dialed = match id {
                        Some(id) => self.dialer.dial_as(*id, address).await,
                        None => self.dialer.dial(address).await,
                    };
                    match dialed {
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
                // The other addresses have been tried too, so trying again would not help.
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

    /// Starts a client of known members. The client connects when it is first used.
    ///
    /// # Panics
    /// Without a data member, or outside a tokio runtime.
    pub(crate) fn start(self, members: Vec<MemberInfo>, limits: Limits) -> Client {
        self.spawn(members, limits, None)
    }

    fn spawn(self, members: Vec<MemberInfo>, limits: Limits, first: Option<Dialed>) -> Client {
        let (commands, commands_end) = mpsc::channel(super::handle::MAX_COMMANDS);
        let (cancels, cancels_end) = mpsc::unbounded_channel();
        let (ended, ended_end) = watch::channel(());
        let channels = Channels { commands: commands_end, cancels: cancels_end };
        let local = self.dialer.local.as_ref().map(|local| local.id);
        let seed = self.seed.unwrap_or_else(|| fastrand::u64(..));
        let mut driver = Driver::new(seed, self.dialer, &members, &limits, channels);
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

/// Adds the address, unless the reason contains it.
fn describe(address: &str, reason: &str) -> String {
    if reason.contains(address) { reason.to_owned() } else { format!("{address}: {reason}") }
}
