//! Whole clusters within an application's own tests: what does it do when the primary dies, when messages are lost, when a member is cut off?
//!
//! [`Cluster::in_memory`] starts the same nodes as in production, on the in-memory network and on disks in memory, and hands out ordinary
//! clients. Feature `testing`.
//!
//! # Time
//! Run the test on one thread with the clock paused, `#[tokio::test(start_paused = true)]` (tokio's feature `test-util`): then nobody
//! waits for a time-out. The clock leaps to the next timer when nothing else is to be done, and stands still while any thread of a node is at
//! work, so that a slow machine is not taken for a dead member. The wall clock of the nodes goes with it. On a running clock it works too.
//!
//! # Seeds
//! The seed decides all that is random: jitter, and the fate of messages under [`faults`](Cluster::faults). Each node has threads of its
//! own, the interleaving of which is the operating system's: the same seed makes much the same run, not the same steps.
//!
//! ```
//! use kv_core::testing::Cluster;
//!
//! /// What is to be tested: counts an order, whatever happens.
//! async fn order(client: &kv_core::Client) -> Result<i64, kv_core::error::WriteError> {
//!     Ok(client.add("orders", 1).await?.sum)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! # tokio::time::pause();
//! let mut cluster = Cluster::in_memory(3).seed(7).start().await;
//! let client = cluster.client().await;
//! assert_eq!(order(&client).await.unwrap(), 1);
//!
//! let killed = cluster.kill_primary().await;
//! assert_eq!(order(&client).await.unwrap(), 2, "a backup has taken over, and the order is counted once");
//!
//! cluster.restart(killed).await;
//! cluster.settle().await;
//! # }
//! ```

use crate::client::Client;
use crate::config::{self, Options};
use crate::message::MemberStatus;
use crate::node::{Node, Test};
use crate::sim::storage::Disk;
use crate::wire;
use kv_transport::{Fault, Faults, Faulty, Memory, Scope};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long anything is waited for.
const WITHIN: Duration = Duration::from_secs(120);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// The name of every cluster here.
const NAME: &str = "test";

/// Describes a cluster; [`start`](Self::start) starts it.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before it is started"]
pub struct ClusterBuilder {
    members: u8,
    witnesses: u8,
    seed: u64,
    options: Options,
}

impl ClusterBuilder {
    /// Decides all that is random. Default 0.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// So many witnesses besides: they vote and hold no data. Their ids come after those of the others. Default none.
    pub fn witnesses(mut self, witnesses: u8) -> Self {
        self.witnesses = witnesses;
        self
    }

    /// The members' options. Default: [`Options::default`] with journal files of 4 MiB.
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Starts all members, and waits until they have formed a cluster.
    ///
    /// # Panics
    /// Where the number of members or the options are not allowed.
    pub async fn start(self) -> Cluster {
        let mut builder = config::Cluster::builder(NAME);
        for id in 0..self.members {
            builder = builder.member(id, address(id));
        }
        for id in self.members..self.members.saturating_add(self.witnesses) {
            builder = builder.witness(id, address(id));
        }
        let config = builder.build().unwrap_or_else(|error| panic!("no such cluster: {error}"));
        let seed = |id: u64| self.seed.wrapping_mul(257).wrapping_add(id);
        let member = |id| Member { disk: Disk::new(), faults: Faults::new(seed(id)), node: None };
        let mut cluster = Cluster {
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
/// Members are named by their ids, from 0. Methods panic where a test is wrong (an id that is not there, a member killed
/// twice) and where what they wait for has not come about after two minutes.
#[derive(Debug)]
pub struct Cluster {
    config: config::Cluster,
    options: Options,
    network: Memory,
    members: Vec<Member>,
    /// Between the clients and the members.
    outside: Faults,
    clients: AtomicU64,
    origin: Instant,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Member {
    disk: Disk,
    /// Between it and everybody else.
    faults: Faults,
    /// None: it does not run.
    node: Option<Node>,
}

/// The primary of the newest view. (One that was cut off may not know yet that it is none any more.)
fn serving(running: &[MemberStatus]) -> Option<&MemberStatus> {
    let newest = running.iter().map(|status| status.view).max()?;
    running.iter().find(|status| status.state == "primary" && status.view == newest)
}

fn address(id: u8) -> String {
    format!("member-{id}:1")
}

impl Cluster {
    /// Begins to describe a cluster of so many data members.
    pub fn in_memory(members: u8) -> ClusterBuilder {
        let options = Options { segment_bytes: 4 << 20, ..Options::default() };
        ClusterBuilder { members, witnesses: 0, seed: 0, options }
    }

    /// A client that knows all members, and reaches them over the network with its faults. Its calls have a deadline of two minutes.
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

    /// A member that runs: for [`Node::client`], [`Node::status`], [`Node::handover`], [`Node::shutdown`].
    pub fn node(&self, id: u8) -> &Node {
        self.member(id).node.as_ref().unwrap_or_else(|| panic!("member {id} does not run"))
    }

    /// Waits for a member that serves as primary.
    pub async fn primary(&self) -> u8 {
        self.wait("a primary", |running| serving(running).map(|it| it.id.get())).await
    }

    /// Kills the primary as `kill -9` does, and says which member that was.
    pub async fn kill_primary(&mut self) -> u8 {
        let primary = self.primary().await;
        self.kill(primary);
        primary
    }

    /// Kills a member as `kill -9` does: what it has told the operating system to write is there when it is started again.
    pub fn kill(&mut self, id: u8) {
        let node = self.member_mut(id).node.take();
        drop(node.unwrap_or_else(|| panic!("member {id} does not run")));
    }

    /// Cuts a member's power: what it had not made durable is kept, lost or torn, as the seed will have it.
    pub fn cut_power(&mut self, id: u8) {
        self.kill(id);
        let mut rng = self.rng.fork();
        self.member_mut(id).disk.crash(&mut rng);
    }

    /// Starts a member that was killed, on what is on its disk. [`settle`](Self::settle) waits until it has caught up.
    pub async fn restart(&mut self, id: u8) {
        let test = Test { origin: self.origin, seed: self.rng.u64(..) };
        let member = self.member(id);
        assert!(member.node.is_none(), "member {id} runs");
        let network = self.network.named(&address(id));
        let transport = Faulty::new(network, member.faults.clone(), wire::framing()).spare_first();
        let node = Node::builder(self.config.clone(), id)
            .transport(Arc::new(transport))
            .storage(member.disk.storage())
            .options(self.options.clone())
            .test(test)
            .start()
            .await;
        self.member_mut(id).node = Some(node.unwrap_or_else(|error| panic!("member {id}: {error}")));
    }

    /// Cuts these members off from all others, both ways and without a word, as when a cable is pulled. Clients reach all. What was cut
    /// before stays cut.
    pub fn partition(&self, apart: &[u8]) {
        for one in (0..).zip(&self.members).filter(|(id, _)| apart.contains(id)) {
            for other in (0..).zip(&self.members).filter(|(id, _)| !apart.contains(id)) {
                one.1.faults.cut(Scope::peer(address(other.0)));
                other.1.faults.cut(Scope::peer(address(one.0)));
            }
        }
    }

    /// Puts a fault on every message, among members and between them and clients, in place of what this put there before:
    /// `Fault::new().loss(0.1)`, for example.
    pub fn faults(&self, fault: &Fault) {
        for faults in self.all_faults() {
            faults.set(Scope::all(), fault.clone());
        }
    }

    /// What is between a member and everybody else, to be steered link by link.
    pub fn faults_of(&self, id: u8) -> &Faults {
        &self.member(id).faults
    }

    /// Takes off all faults and partitions.
    pub fn heal(&self) {
        self.all_faults().for_each(Faults::heal);
    }

    /// Waits until there is a primary and every member that runs has all that was committed until now.
    pub async fn settle(&self) {
        let running = self.members.iter().filter(|member| member.node.is_some()).count();
        let goal = self.wait("a primary", |all| serving(all).map(|it| it.commit)).await;
        self.wait("all members level", |all| {
            let is_level = |it: &MemberStatus| {
                (it.state == "primary" || it.state == "backup")
                    && it.commit >= goal
                    && (it.applied >= goal || it.role == "witness")
            };
            (all.len() == running && all.iter().all(is_level)).then_some(())
        })
        .await;
    }

    /// Looks at the members that run until `check` finds what it looks for.
    async fn wait<T>(&self, what: &str, check: impl Fn(&[MemberStatus]) -> Option<T>) -> T {
        let until = Instant::now() + WITHIN;
        loop {
            let nodes = self.members.iter().filter_map(|member| member.node.as_ref());
            let seen: Vec<_> = nodes.map(Node::status).collect();
            if let Some(found) = check(&seen) {
                return found;
            }
            assert!(Instant::now() < until, "not within {WITHIN:?}: {what}; the members stand so: {seen:#?}");
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
