//! Whole clusters for the tests of an application. A test shows what the application does when the primary (the member
//! that orders all writes) fails, messages are lost, or a member is cut off.
//!
//! A [`TestCluster`] runs the same nodes as in production, but with an in-memory network and in-memory disks. Its
//! clients are ordinary clients. This module requires the feature `testing`.
//!
//! # Time
//! Run the test on a tokio runtime with one thread, and pause its clock: `#[tokio::test(start_paused = true)]`. Then no
//! timer waits in real time: when there is nothing else to do, the clock jumps to the next timer. Each node also has
//! threads of its own. While one of them works, the clock stands still, so that a slow machine does not look like a
//! failed member. The time of day that the nodes see follows the runtime's clock. A test works without a paused clock
//! too.
//!
//! # Seeds
//! The seed determines everything random: jitter, what a power cut destroys, and which messages
//! [`faults`](TestCluster::faults) affect. But each node has its own threads, and the operating system schedules these
//! threads. So the same seed gives a similar run, not an identical run.
//!
//! ```
//! use kv_core::testing::TestCluster;
//!
//! /// The code under test: counts an order, whatever happens.
//! async fn order(client: &kv_core::Client) -> Result<i64, kv_core::error::WriteError> {
//!     Ok(client.add("orders", 1).await?.sum)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # tokio::time::pause();
//! let mut cluster = TestCluster::in_memory(3).seed(7).start().await;
//! let client = cluster.client().await;
//! assert_eq!(order(&client).await.unwrap(), 1);
//!
//! let killed = cluster.kill_primary().await;
//! assert_eq!(order(&client).await.unwrap(), 2, "a backup has taken over, and each order is counted once");
//!
//! cluster.restart(killed).await;
//! cluster.settle().await;
//! # }
//! ```

use crate::client::Client;
use crate::config::{Cluster, Options, Role};
use crate::node::{MemberState, MemberStatus, Node, Test};
use crate::storage::simulated::Disk;
use crate::wire;
use kv_transport::{Fault, Faults, Faulty, Memory, Scope};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long to wait for any condition.
const WITHIN: Duration = Duration::from_secs(120);
/// The time between two checks of a condition.
const LOOK: Duration = Duration::from_millis(5);
/// The name of every test cluster.
const NAME: &str = "test";

/// Configures a cluster; [`start`](Self::start) starts it.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before it is started"]
pub struct TestClusterBuilder {
    members: u8,
    witnesses: u8,
    seed: u64,
    options: Options,
}

impl TestClusterBuilder {
    /// Sets the [seed](crate::testing#seeds) for everything random. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Adds this many witnesses (members that vote but store no data). The ids of the witnesses follow the ids of the
    /// data members. Default 0.
    pub fn witnesses(mut self, witnesses: u8) -> Self {
        self.witnesses = witnesses;
        self
    }

    /// Sets the options of all members. Default: [`Options::default`], but with journal files of 4 MiB
    /// (`segment_bytes`).
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Starts all members, and waits until they have formed a cluster.
    ///
    /// # Panics
    /// If the numbers of members and witnesses are not allowed, or the options are out of range.
    pub async fn start(self) -> TestCluster {
        let mut builder = Cluster::builder(NAME);
        for id in 0..self.members {
            builder = builder.member(id, address(id));
        }
        for id in self.members..self.members.saturating_add(self.witnesses) {
            builder = builder.witness(id, address(id));
        }
        let config = builder.build().unwrap_or_else(|error| panic!("no such cluster: {error}"));
        let seed = |id: u64| self.seed.wrapping_mul(257).wrapping_add(id);
        let member = |id| Member { disk: Disk::new(), faults: Faults::new(seed(id)), node: None };
        let mut cluster = TestCluster {
            members: (0..config.len() as u64).map(member).collect(),
            config,
            options: self.options,
            network: Memory::new(),
            outside: Faults::new(seed(256)),
            clients: AtomicU64::new(0),
            origin: Instant::now(),
            rng: fastrand::Rng::with_seed(self.seed),
        };
        for id in 0..self.members + self.witnesses {
            cluster.restart(id).await;
        }
        for node in cluster.members.iter().filter_map(|member| member.node.as_ref()) {
            node.wait_formed().await.unwrap_or_else(|reason| panic!("member {}: {reason}", node.id()));
        }
        cluster
    }
}

/// A cluster in this process.
///
/// The ids of the members start at 0. A method panics if you use it wrongly, for example if you pass an id that does
/// not exist, or kill a member twice. A method that waits for a condition panics if the condition does not hold within
/// two minutes.
#[derive(Debug)]
pub struct TestCluster {
    config: Cluster,
    options: Options,
    network: Memory,
    members: Vec<Member>,
    /// The faults between the clients and the members.
    outside: Faults,
    clients: AtomicU64,
    origin: Instant,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Member {
    disk: Disk,
    /// The faults between this member and all other members and clients.
    faults: Faults,
    /// `None` if the member does not run.
    node: Option<Node>,
}

/// The primary of the newest view. (A primary that is cut off may not know that it has been replaced.)
fn serving(running: &[MemberStatus]) -> Option<&MemberStatus> {
    let newest = running.iter().map(|status| status.view).max()?;
    running.iter().find(|status| status.state == MemberState::Primary && status.view == newest)
}

fn address(id: u8) -> String {
    format!("member-{id}:1")
}

impl TestCluster {
    /// Configures a cluster with this many data members.
    pub fn in_memory(members: u8) -> TestClusterBuilder {
        let options = Options { segment_bytes: 4 << 20, ..Options::default() };
        TestClusterBuilder { members, witnesses: 0, seed: 0, options }
    }

    /// Returns a new client that knows the addresses of all members. The [`faults`](Self::faults) of the cluster affect
    /// the client's connections too. The client's calls have a deadline of two minutes.
    pub async fn client(&self) -> Client {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let network = self.network.named(&format!("client-{number}"));
        let transport = Faulty::new(network, self.outside.clone(), wire::framing()).spare_first();
        let mut builder = Client::builder(NAME).transport(Arc::new(transport)).seed(number);
        for member in self.config.members() {
            builder = builder.address(&member.address);
        }
        let connected = builder.deadline(WITHIN).connect_timeout(WITHIN).connect().await;
        connected.unwrap_or_else(|error| panic!("no member answers a client: {error}"))
    }

    /// Returns the node of a running member. You can call [`Node::client`], [`Node::status`], [`Node::handover`] and
    /// [`Node::shutdown`] on it.
    pub fn node(&self, id: u8) -> &Node {
        self.member(id).node.as_ref().unwrap_or_else(|| panic!("member {id} does not run"))
    }

    /// Waits until a member serves as the primary, and returns its id.
    pub async fn primary(&self) -> u8 {
        self.wait("a primary", |running| serving(running).map(|it| it.id.get())).await
    }

    /// Kills the primary, like `kill -9`, and returns its id.
    pub async fn kill_primary(&mut self) -> u8 {
        let primary = self.primary().await;
        self.kill(primary);
        primary
    }

    /// Kills a member, like `kill -9`. All data that the member has written is still there when the member restarts,
    /// even if the data was not yet durable.
    pub fn kill(&mut self, id: u8) {
        let node = self.member_mut(id).node.take();
        drop(node.unwrap_or_else(|| panic!("member {id} does not run")));
    }

    /// Cuts the power of a running member. Data that was not yet durable is kept, lost, or torn (kept in part),
    /// depending on the seed.
    pub fn cut_power(&mut self, id: u8) {
        self.kill(id);
        let mut rng = self.rng.fork();
        self.member_mut(id).disk.crash(&mut rng);
    }

    /// Restarts a killed member with the data on its disk. To wait until the member has caught up, call
    /// [`settle`](Self::settle).
    pub async fn restart(&mut self, id: u8) {
        let test = Test { origin: self.origin, seed: self.rng.u64(..) };
        let member = self.member(id);
        assert!(member.node.is_none(), "member {id} runs");
        let network = self.network.named(&address(id));
        let transport = Faulty::new(network, member.faults.clone(), wire::framing()).spare_first();
        let node = Node::builder(self.config.clone(), id)
            .transport(Arc::new(transport))
            .on(member.disk.storage())
            .options(self.options.clone())
            .test(test)
            .start()
            .await;
        self.member_mut(id).node = Some(node.unwrap_or_else(|error| panic!("member {id}: {error}")));
    }

    /// Cuts these members off from all other members, in both directions. Connections stay open, as if a cable were
    /// pulled. The members in `apart` still reach each other, and clients still reach all members. Earlier partitions
    /// remain.
    pub fn partition(&self, apart: &[u8]) {
        for one in (0..).zip(&self.members).filter(|(id, _)| apart.contains(id)) {
            for other in (0..).zip(&self.members).filter(|(id, _)| !apart.contains(id)) {
                one.1.faults.cut(Scope::peer(address(other.0)));
                other.1.faults.cut(Scope::peer(address(one.0)));
            }
        }
    }

    /// Applies a fault, for example `Fault::new().loss(0.1)`, to every message between two members and between a client
    /// and a member. The fault acts at both ends of a connection, so in this example, a message is lost with a
    /// probability of about 0.19. The first message in each direction of a connection (the hello or its answer) may be
    /// delayed, but is never lost at random, duplicated, reordered or corrupted. This call replaces the fault of an
    /// earlier call.
    pub fn faults(&self, fault: &Fault) {
        for faults in self.all_faults() {
            faults.set(Scope::all(), fault.clone());
        }
    }

    /// Returns the object that sets and removes faults at this member's end of its connections. Use it to affect single
    /// links of this member.
    pub fn faults_of(&self, id: u8) -> &Faults {
        &self.member(id).faults
    }

    /// Removes all faults and partitions.
    pub fn heal(&self) {
        self.all_faults().for_each(Faults::heal);
    }

    /// Waits for a primary. Then waits until every running member has received and applied everything that was
    /// committed when the primary was found. (A witness applies nothing.)
    pub async fn settle(&self) {
        let running = self.members.iter().filter(|member| member.node.is_some()).count();
        let goal = self.wait("a primary", |all| serving(all).map(|it| it.commit)).await;
        self.wait("all members level", |all| {
            let is_level = |it: &MemberStatus| {
                matches!(it.state, MemberState::Primary | MemberState::Backup)
                    && it.commit >= goal
                    && (it.applied >= goal || it.role == Role::Witness)
            };
            (all.len() == running && all.iter().all(is_level)).then_some(())
        })
        .await;
    }

    /// Checks the status of the running members again and again, until `check` returns `Some`, and returns the value.
    async fn wait<T>(&self, what: &str, check: impl Fn(&[MemberStatus]) -> Option<T>) -> T {
        let until = Instant::now() + WITHIN;
        loop {
            let nodes = self.members.iter().filter_map(|member| member.node.as_ref());
            let seen: Vec<_> = nodes.map(Node::status).collect();
            if let Some(found) = check(&seen) {
                return found;
            }
            assert!(
                Instant::now() < until,
                "not within {WITHIN:?}: {what}; the status of the members: {seen:#?}"
            );
            sleep(LOOK).await;
        }
    }

    fn all_faults(&self) -> impl Iterator<Item = &Faults> {
        self.members.iter().map(|member| &member.faults).chain([&self.outside])
    }

    fn member(&self, id: u8) -> &Member {
        self.members.get(usize::from(id)).unwrap_or_else(|| panic!("there is no member {id}"))
    }

    fn member_mut(&mut self, id: u8) -> &mut Member {
        self.members.get_mut(usize::from(id)).unwrap_or_else(|| panic!("there is no member {id}"))
    }
}
