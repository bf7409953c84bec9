//! How a client is configured and started.

use super::Client;
use crate::error::ConnectError;
use crate::ids::MemberId;
use crate::wire::{Limits, MemberInfo};
use kv_transport::{Connection, Transport};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Reaches a member of the own process without the transport.
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
    cluster: String,
    addresses: Vec<String>,
    transport: Option<Arc<dyn Transport>>,
    local: Option<LocalMember>,
    name: String,
    deadline: Duration,
    connect_timeout: Duration,
    seed: Option<u64>,
}

impl ClientBuilder {
    pub(super) fn new(cluster: String) -> Self {
        Self {
            cluster,
            addresses: Vec::new(),
            transport: None,
            local: None,
            name: String::new(),
            deadline: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            seed: None,
        }
    }

    /// Adds the address of a member. One that answers is enough: the others are learned from it.
    #[must_use]
    pub fn address(mut self, address: impl Into<String>) -> Self {
        self.addresses.push(address.into());
        self
    }

    /// How members are reached. Required.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transport = Some(transport);
        self
    }

    /// A name for the members' logs. Default: empty.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long an operation may take, retries included, unless it is given a deadline of its own. Default 10 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long [`connect`](Self::connect) may take. Default 5 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Seeds the client's jitter and nonces, for tests that must run the same way twice. Default: random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Reaches the member `id` by `connect` instead of the transport.
    #[must_use]
    pub(crate) fn local_member(
        mut self,
        id: MemberId,
        connect: impl Fn() -> Connection + Send + Sync + 'static,
    ) -> Self {
        self.local = Some(LocalMember { id, connect: Box::new(connect) });
        self
    }

    /// Finds a member that answers, and starts the client. Tries the addresses in turn until one answers.
    ///
    /// # Errors
    /// [`ConnectError`] if none does in time, or one says that this is not its client.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is left behind.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let _ = (
            &self.cluster,
            &self.addresses,
            &self.transport,
            &self.local,
            &self.name,
            self.deadline,
            self.connect_timeout,
            self.seed,
        );
        unimplemented!()
    }

    /// Starts the client of members that are known already; connects when it is first used.
    ///
    /// # Panics
    /// Without a transport, without a data member, or outside a tokio runtime.
    pub(crate) fn start(self, members: Vec<MemberInfo>, limits: Limits) -> Client {
        let _ = (members, limits);
        unimplemented!()
    }
}
