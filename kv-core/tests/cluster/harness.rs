//! A cluster to be tested.

#[cfg(feature = "certs")]
use super::pki::Pki;
use super::storage::Ailment;
use kv_core::config::{Cluster, Options, Role};
use kv_core::ids::MemberId;
use kv_core::message::{MemberState, MemberStatus};
use kv_core::node::{Node, StartError};
use kv_core::storage::Directory;
#[cfg(feature = "certs")]
use kv_core::transport::tls::Identity;
use kv_core::transport::{Faults, Faulty, Memory, Transport};
use kv_core::{Client, wire};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

/// The longest time of a test, even on a slow machine.
const TEST_WITHIN: Duration = Duration::from_secs(120);
/// No condition takes longer to come true.
const WITHIN: Duration = Duration::from_secs(30);

/// Fails a test that hangs.
pub(crate) async fn bounded(test: impl Future<Output = ()>) {
    timeout(TEST_WITHIN, test).await.expect("the test ends in time");
}

/// Waits for a condition.
pub(crate) async fn eventually(what: &str, condition: impl AsyncFnMut() -> bool) {
    within(WITHIN, what, condition).await;
}

/// Waits so long for a condition.
pub(crate) async fn within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < until, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// Which network.
#[derive(Clone, Debug)]
pub(crate) enum Net {
    Memory(Memory),
    #[cfg(feature = "tcp")]
    Tcp,
    #[cfg(all(feature = "tcp", feature = "certs"))]
    TcpTls(Arc<Pki>),
    #[cfg(all(feature = "quic", feature = "certs"))]
    Quic(Arc<Pki>),
}

impl Net {
    pub(crate) fn memory() -> Self {
        Self::Memory(Memory::new())
    }

    #[cfg(feature = "tcp")]
    pub(crate) fn tcp() -> Self {
        Self::Tcp
    }

    #[cfg(all(feature = "tcp", feature = "certs"))]
    pub(crate) fn tcp_tls() -> Self {
        Self::TcpTls(Arc::new(Pki::new("test")))
    }

    #[cfg(all(feature = "quic", feature = "certs"))]
    pub(crate) fn quic() -> Self {
        Self::Quic(Arc::new(Pki::new("test")))
    }

    /// The certificates that it uses.
    #[cfg(feature = "certs")]
    pub(crate) fn pki(&self) -> &Pki {
        match self {
            #[cfg(feature = "tcp")]
            Self::TcpTls(pki) => pki,
            #[cfg(feature = "quic")]
            Self::Quic(pki) => pki,
            _ => panic!("a network without certificates"),
        }
    }

    /// The same network, as used by the owner of these certificates.
    #[cfg(feature = "certs")]
    pub(crate) fn transport_with(&self, identity: Identity) -> Arc<dyn Transport> {
        match self {
            #[cfg(feature = "tcp")]
            Self::TcpTls(_) => Arc::new(kv_core::transport::tcp::Tcp::with_tls(identity)),
            #[cfg(feature = "quic")]
            Self::Quic(_) => Arc::new(kv_core::transport::quic::Quic::new(identity)),
            _ => panic!("a network without certificates"),
        }
    }

    /// Remembers the member of the address: the transport there gets this member's certificate.
    pub(crate) fn name_member(&self, address: &str, id: u8) {
        match self {
            #[cfg(all(feature = "tcp", feature = "certs"))]
            Self::TcpTls(pki) => pki.name_member(address, id),
            #[cfg(all(feature = "quic", feature = "certs"))]
            Self::Quic(pki) => pki.name_member(address, id),
            _ => _ = (address, id),
        }
    }

    /// An address that nobody has.
    pub(crate) fn address(&self) -> String {
        match self {
            Self::Memory(_) => format!("member:{}", next_port()),
            #[cfg(all(feature = "quic", feature = "certs"))]
            Self::Quic(_) => free(|address| std::net::UdpSocket::bind(address).is_ok()),
            #[cfg(feature = "tcp")]
            _ => free(|address| std::net::TcpListener::bind(address).is_ok()),
        }
    }

    /// The network as seen from `address`. With certificates, an address that is no member's belongs to the client of
    /// this name.
    pub(crate) fn transport(&self, address: &str) -> Arc<dyn Transport> {
        match self {
            Self::Memory(memory) => Arc::new(memory.named(address)),
            #[cfg(feature = "tcp")]
            Self::Tcp => Arc::new(kv_core::transport::tcp::Tcp::new()),
            #[cfg(all(feature = "tcp", feature = "certs"))]
            Self::TcpTls(pki) => self.transport_with(pki.identity(&pki.name_of(address))),
            #[cfg(all(feature = "quic", feature = "certs"))]
            Self::Quic(pki) => self.transport_with(pki.identity(&pki.name_of(address))),
        }
    }
}

/// An address that is free by this test.
#[cfg(any(feature = "tcp", all(feature = "quic", feature = "certs")))]
fn free(is_free: impl Fn(&str) -> bool) -> String {
    loop {
        let address = format!("127.0.0.1:{}", next_port());
        if is_free(&address) {
            return address;
        }
    }
}

/// Ports below those that the system gives to outgoing connections, different in processes that run at once.
fn next_port() -> u16 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let port = 10_000 + (std::process::id().wrapping_mul(97) + next) % 20_000;
    u16::try_from(port).expect("below 30,000")
}

/// Members, their directories, and those of them that run.
pub(crate) struct Harness {
    pub(crate) net: Net,
    pub(crate) cluster: Cluster,
    pub(crate) options: Options,
    /// The faults between each member and the rest, both ways.
    pub(crate) faults: Vec<Faults>,
    pub(crate) dirs: Vec<TempDir>,
    /// What ails the members' disks.
    pub(crate) ailments: Vec<Option<Ailment>>,
    pub(crate) nodes: Vec<Option<Node>>,
    /// The client list, if there is one.
    pub(crate) clients: Option<PathBuf>,
}

/// Time-outs that suit a busy machine: no test depends on how fast a failover is.
pub(crate) fn options() -> Options {
    let mut options = Options::default();
    options.segment_bytes = 4 << 20;
    options
}

/// Time-outs so long that no pause of a busy machine is taken for a fault: for tests that count views.
pub(crate) fn patient_options() -> Options {
    let mut options = options();
    options.failure_timeout_min = Duration::from_secs(2);
    options.failure_timeout_max = Duration::from_secs(6);
    options
}

pub(crate) fn cluster(net: &Net, roles: &[Role]) -> Cluster {
    let mut builder = Cluster::builder("test");
    for (id, role) in (0..).zip(roles) {
        let address = net.address();
        net.name_member(&address, id);
        builder = builder.with(id, address, *role);
    }
    builder.build().expect("the configuration is valid")
}

impl Harness {
    /// Members with these roles, none of them running.
    pub(crate) fn new(net: Net, roles: &[Role], options: Options) -> Self {
        Self {
            cluster: cluster(&net, roles),
            net,
            options,
            faults: (0..roles.len() as u64).map(Faults::new).collect(),
            dirs: roles.iter().map(|_| tempfile::tempdir().expect("a temporary directory")).collect(),
            ailments: roles.iter().map(|_| None).collect(),
            nodes: roles.iter().map(|_| None).collect(),
            clients: None,
        }
    }

    /// A running cluster of three data members whose disks can be made to fail.
    pub(crate) async fn ailing(net: Net, options: Options) -> Self {
        let mut harness = Self::new(net, &[Role::Data; 3], options);
        harness.ailments = (0..3).map(|_| Some(Ailment::default())).collect();
        harness.start_all().await;
        harness
    }

    pub(crate) fn ailment(&self, member: usize) -> &Ailment {
        self.ailments[member].as_ref().expect("its disk can be made to ail")
    }

    /// A running cluster.
    pub(crate) async fn with(net: Net, roles: &[Role], options: Options) -> Self {
        let mut harness = Self::new(net, roles, options);
        harness.start_all().await;
        harness
    }

    /// A running cluster of three data members.
    pub(crate) async fn three(net: Net) -> Self {
        Self::with(net, &[Role::Data; 3], options()).await
    }

    pub(crate) fn address(&self, member: usize) -> String {
        self.cluster.member(id(member)).expect("it is a member").address.clone()
    }

    /// Starts a member.
    pub(crate) async fn try_start(&mut self, member: usize) -> Result<(), StartError> {
        let address = self.address(member);
        let transport =
            Faulty::new(self.net.transport(&address), self.faults[member].clone(), wire::framing())
                .spare_first();
        let builder = Node::builder(self.cluster.clone(), id(member).get())
            .transport(Arc::new(transport))
            .options(self.options.clone());
        let builder = match &self.clients {
            None => builder,
            Some(file) => builder.clients(file),
        };
        let path = self.dirs[member].path();
        let builder = match &self.ailments[member] {
            None => builder.data_dir(path),
            Some(ailment) => builder.storage(ailment.of(Directory::open(path)?)),
        };
        let node = builder.start().await?;
        self.nodes[member] = Some(node);
        Ok(())
    }

    /// Starts a member.
    pub(crate) async fn start(&mut self, member: usize) {
        self.try_start(member).await.unwrap_or_else(|error| panic!("member {member}: {error}"));
    }

    /// Starts the members that do not run, and waits until they serve.
    pub(crate) async fn start_all(&mut self) {
        for member in 0..self.nodes.len() {
            if self.nodes[member].is_none() {
                self.start(member).await;
            }
        }
        for node in self.nodes.iter().flatten() {
            node.wait_formed().await.expect("the cluster forms");
        }
    }

    pub(crate) fn node(&self, member: usize) -> &Node {
        self.nodes[member].as_ref().expect("it runs")
    }

    pub(crate) fn status(&self, member: usize) -> MemberStatus {
        self.node(member).status()
    }

    /// Kills a member, as `kill -9` would.
    pub(crate) fn kill(&mut self, member: usize) {
        drop(self.nodes[member].take().expect("it runs"));
    }

    /// The member that reports itself as serving primary, once there is one.
    pub(crate) async fn primary(&self) -> usize {
        let mut found = 0;
        eventually("a primary", async || {
            let primary = |node: &Option<Node>| {
                node.as_ref().is_some_and(|it| it.status().state == MemberState::Primary)
            };
            let member = self.nodes.iter().position(primary);
            found = member.unwrap_or_default();
            member.is_some()
        })
        .await;
        found
    }

    /// A running member that is not primary, and holds data.
    pub(crate) async fn backup(&self) -> usize {
        let primary = self.primary().await;
        (0..self.nodes.len())
            .find(|member| {
                *member != primary && self.nodes[*member].is_some() && self.status(*member).role == Role::Data
            })
            .expect("a backup runs")
    }

    /// A client that reaches all members through the network.
    pub(crate) async fn client(&self) -> Client {
        self.client_over(self.net.transport("client")).await
    }

    pub(crate) async fn client_over(&self, transport: Arc<dyn Transport>) -> Client {
        let mut builder = Client::builder(self.cluster.name())
            .transport(transport)
            .deadline(WITHIN)
            .connect_timeout(WITHIN);
        for member in self.cluster.members() {
            builder = builder.address(&member.address);
        }
        builder.connect().await.expect("a member answers")
    }

    /// Waits until the status of the running members is as expected.
    async fn all_say(&self, what: &str, wanted: impl Fn(&[MemberStatus]) -> bool) {
        let until = Instant::now() + WITHIN;
        loop {
            let status: Vec<_> = self.nodes.iter().flatten().map(Node::status).collect();
            if wanted(&status) {
                return;
            }
            assert!(Instant::now() < until, "never: {what}: {status:#?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until all that run are part of the view, so that the next one may be killed.
    pub(crate) async fn level_enough(&self) {
        self.all_say("all members serve again", |status| {
            status.iter().all(|it| {
                (it.state == MemberState::Primary || it.state == MemberState::Backup) && it.primary.is_some()
            })
        })
        .await;
    }

    /// Waits until every running member has applied everything that the primary has, and the cluster is idle.
    pub(crate) async fn level(&self) {
        self.all_say("the members are level", |status| {
            let primary = status.iter().find(|it| it.state == MemberState::Primary);
            primary.is_some_and(|primary| {
                primary.head == primary.commit
                    && status.iter().all(|it| it.applied == primary.head && it.head == primary.head)
            })
        })
        .await;
    }
}

pub(crate) fn id(member: usize) -> MemberId {
    MemberId::new(u8::try_from(member).expect("few members"))
}
