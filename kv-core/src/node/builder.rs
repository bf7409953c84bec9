//! Configures and starts a node.

use super::clock::Clock;
use super::counters::Recorder;
use super::credentials::{self, ClientList};
use super::fence::Fence;
use super::idle::IdleTracker;
use super::members::{Members, member_infos};
use super::shared::{Shared, SharedParts};
use super::stored::{Choice, Stored, Wanted};
use super::transfer::has_data_peer;
use super::writer::StateOpener;
use super::{Node, StartError, applier, folder, joining};
use crate::config::{Cluster, DiskId, FixedOptions, Options, Role};
use crate::ids::{Epoch, MemberId};
use crate::journal::{Identity, Journal, JournalOptions, OpenError, Owned};
use crate::kv::{self, Receiver, StateMachine};
use crate::message::{CheckpointAlignment, FormationStep, MembersAnswer, Membership, Recovered};
use crate::replica::{Replica, ReplicaConfig};
use crate::storage::{Directory, DirectoryError, Storage};
use crate::wire::{Expectation, Limits};
use crate::{detached, engine};
use kv_transport::{Listener, Peer, Transport, TransportError};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::Instrument as _;

/// How long a start waits for an address or a directory that a node that was just dropped, or a cancelled start, still
/// uses. The old node releases the address when its tasks next run. The old node or start releases the directory when
/// its current disk operation ends.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);
/// How long to wait before the next attempt.
const RETRY: Duration = Duration::from_millis(5);
/// How many bytes of durable entries a witness keeps in memory for peers: a witness should need little memory.
const CACHE_BYTES: usize = 8 << 20;
const WITNESS_CACHE_BYTES: usize = 1 << 20;

/// Configures a [`Node`]; [`start`](Self::start) starts it.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing before it is started"]
pub struct NodeBuilder {
    name: String,
    /// The configured member list.
    cluster: Option<Cluster>,
    me: MemberId,
    options: Options,
    transport: Option<Arc<dyn Transport>>,
    disk: Option<Disk>,
    listen: Option<String>,
    clients: Option<PathBuf>,
    /// Addresses of members of a cluster that runs already, which an empty directory joins.
    join: Box<[String]>,
    #[cfg(feature = "testing")]
    test: Option<Test>,
}

/// The settings of a node in a test that differ from those of other nodes.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Test {
    /// The time at which the simulated time of its cluster began.
    pub(crate) origin: Instant,
    /// The seed for its random numbers.
    pub(crate) seed: u64,
}

/// Where the node stores its data.
#[derive(Clone, Debug)]
enum Disk {
    Directory(PathBuf),
    #[cfg(any(feature = "internals", feature = "testing"))]
    Storage(Arc<dyn Storage>),
}

impl Disk {
    /// What the directory says before it is opened, and whether it contains a state. Changes nothing. Blocks.
    fn look(&self, cluster: &str, me: MemberId) -> Result<(Stored, bool), StartError> {
        let (owned, has_state) = match self {
            Self::Directory(path) => (Owned::at(path)?, path.join(engine::STATE).exists()),
            #[cfg(any(feature = "internals", feature = "testing"))]
            Self::Storage(storage) => (Owned::read(&**storage)?, storage.open(engine::STATE).is_ok()),
        };
        Ok((Stored::of(owned, cluster, me)?, has_state))
    }
}

impl NodeBuilder {
    pub(super) fn new(name: String, cluster: Option<Cluster>, me: MemberId) -> Self {
        Self {
            name,
            cluster,
            me,
            options: Options::default(),
            transport: None,
            disk: None,
            listen: None,
            clients: None,
            join: Box::default(),
            #[cfg(feature = "testing")]
            test: None,
        }
    }

    /// If the data directory is empty, joins the running cluster that has these members. They are asked for the member
    /// list, in which this member must be a standby: add it first ([`Client::change_members`]). A configured list is
    /// not used for that. If several addresses are given, one of these members must answer, within five seconds. The
    /// member then follows the others without a vote, until it is promoted.
    ///
    /// A directory that is not empty is opened as usual, so this setting may stay.
    ///
    /// An id stands for what its member has stored. So a member that has lost its directory does not join again under
    /// its id: add a member with another id, and let it replace the lost one.
    ///
    /// [`Client::change_members`]: crate::Client::change_members
    pub fn join(mut self, addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.join = addresses.into_iter().map(Into::into).collect();
        self
    }

    /// Runs the node in a test: its wall clock is tokio's clock, and a paused clock waits for the threads of the
    /// node.
    #[cfg(feature = "testing")]
    pub(crate) fn test(mut self, test: Test) -> Self {
        self.test = Some(test);
        self
    }

    fn clock(&self) -> (Clock, IdleTracker, u64) {
        #[cfg(feature = "testing")]
        if let Some(Test { origin, seed }) = self.test {
            return (Clock::of_test(origin), IdleTracker::watched(), seed);
        }
        (Clock::start(), IdleTracker::default(), random())
    }

    /// Sets the transport, which is required. The argument is a transport or an `Arc` of a transport, including
    /// `Arc<dyn Transport>`.
    ///
    /// If the transport has a certificate (TLS over TCP, or QUIC), it must be the certificate of this member. All other
    /// members and clients must then have a certificate for this cluster. The certificate of a member must contain the
    /// id that the member has in the configuration. If the certificate files are replaced, the member loads the new
    /// certificates within about a second, and open connections stay open.
    pub fn transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Sets the directory for the data of the member, which is required. The start creates the directory and its
    /// parents if they do not exist.
    pub fn data_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.disk = Some(Disk::Directory(path.into()));
        self
    }

    /// Stores the data of the member in this storage, instead of a directory. Nothing else may use the storage at the
    /// same time.
    #[cfg(feature = "internals")]
    pub fn storage(self, storage: Arc<dyn Storage>) -> Self {
        self.on(storage)
    }

    #[cfg(any(feature = "internals", feature = "testing"))]
    pub(crate) fn on(mut self, storage: Arc<dyn Storage>) -> Self {
        self.disk = Some(Disk::Storage(storage));
        self
    }

    /// Sets the time-outs and limits. Default: [`Options::default`].
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// Listens on this address, such as `0.0.0.0:7000`, instead of the address in the member list.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Accepts only the clients that this file names, one name per line. Empty lines and lines that begin with `#` are
    /// ignored. A name is the `NAME` in the client's certificate, `kv://CLUSTER/client/NAME`, without `%` encoding.
    /// Members are always accepted. Default: every client with a certificate for this cluster.
    ///
    /// The member checks the file about every second. A new list takes effect after the file has not changed for about
    /// two seconds. If the new list lacks a name, the member refuses the client with this name, and closes its
    /// connections. If the file cannot be read, the member keeps the previous list, and logs the failure.
    pub fn clients(mut self, file: impl Into<PathBuf>) -> Self {
        self.clients = Some(file.into());
        self
    }

    /// Starts the member on the current tokio runtime, with separate threads for everything that waits for the disk.
    /// The start checks as much as possible before it changes anything on disk: see [`StartError`].
    ///
    /// This method returns as soon as the member runs. [`Node::wait_formed`] waits until the cluster has formed.
    ///
    /// # Errors
    /// [`StartError`] names in one line what is wrong and what to do.
    ///
    /// # Panics
    /// If the future runs outside a tokio runtime, or in a runtime whose timer or I/O is not enabled.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the start. If a thread of the start uses the disk at that moment, the thread
    /// continues until its next access to the disk. This access fails, the thread ends, and then the directory is free.
    /// Another start waits up to one second for the directory.
    pub async fn start(self) -> Result<Node, StartError> {
        let (clock, idle, seed) = self.clock();
        let Self { name, cluster, me, options, transport, disk, listen, clients, join, .. } = self;
        options.check()?;
        let transport = transport.ok_or(StartError::NoTransport)?;
        let disk = disk.ok_or(StartError::NoStorage)?;
        credentials::check(&*transport, &name, me, clients.is_some())?;
        let authenticated = transport.identity() != Peer::Unauthenticated;
        let clients = clients.map(ClientList::open).transpose()?;
        let span = tracing::info_span!("member", id = %me);

        let stored = {
            let (disk, name) = (disk.clone(), name.clone());
            open_detached(&idle, move || disk.look(&name, me)).await??
        };
        let wanted = Wanted { name, me, configured: cluster, join, listen };
        let choice = wanted.choose(stored, &transport).instrument(span.clone()).await?;
        // The node binds before it opens the disk. So a start that is refused because the address is in use has changed
        // nothing.
        let listener = bind(&*transport, &choice.address).await?;
        let members = first_members(&choice, me, (&options, authenticated), &transport).await?;
        let Choice { cluster, joined, role, .. } = choice;
        let (opened, fence) = {
            let (cluster, options, span) = (cluster.clone(), options.clone(), span.clone());
            let open = move |fence| {
                let opened = Opened::open(disk.clone(), &cluster, (me, role), &options, fence)?;
                opened.join_if_empty(&cluster, me, joined.as_ref())
            };
            open_when_free(&idle, move |fence| span.in_scope(|| open(fence))).await?
        };
        members.enter_if_later(opened.recovered.membership.as_ref().map(|it| &it.configuration));

        let durable_op = opened.recovered.floor.op.advance(opened.recovered.entries.len() as u64);
        let config = replica_config(cluster, me, options.clone(), (&opened, seed));
        let shared = Shared::new(SharedParts {
            me,
            role,
            members,
            options,
            transport,
            clients,
            span,
            fence,
            log: opened.journal.reader(),
            syncs: opened.syncs,
            durable_op,
            clock,
            quiet: idle,
            seed,
        });
        let applied = opened.recovered.checkpoint.op;
        let replica = Replica::new(config, opened.recovered, shared.clock.now());
        if let Some(data) = opened.data {
            applier::give_state(&shared, data);
        }
        let node = Node::run(shared, replica, applied, opened.journal, opened.opener, listener)?;
        node.shared.tasks.spawn(folder::run(node.shared.clone(), opened.storage));
        Ok(node)
    }
}

/// The members as the node knows them at first. If this member joins, one of them is asked whether it is accepted.
async fn first_members(
    choice: &Choice,
    me: MemberId,
    (options, authenticated): (&Options, bool),
    transport: &Arc<dyn Transport>,
) -> Result<Members, StartError> {
    let formed = expectation(&choice.cluster, me, options);
    let expectation = Expectation { authenticated, life: random(), ..formed };
    let members = Members::new(me, choice.cluster.clone(), expectation);
    members.enter_if_later(choice.configuration.as_ref());
    if let Some(answer) = &choice.joined {
        joining::introduce(&members.now(), &answer.configuration, transport).await?;
    }
    Ok(members)
}

fn replica_config(
    cluster: Cluster,
    me: MemberId,
    options: Options,
    (opened, seed): (&Opened, u64),
) -> ReplicaConfig {
    // The replica does not get the seed of the node, so that the two do not use the same random numbers for their
    // jitter.
    let mut config = ReplicaConfig::new(cluster, me, options, !seed);
    config.disk = random_disk();
    config.stateless = opened.data.as_ref().is_some_and(|data| data.state.is_none());
    config.staged = opened.data.as_ref().and_then(|data| data.receiver.progress());
    config
}

/// Opens the disk. A node that was just dropped, or a start that was cancelled, may still use it.
async fn open_when_free(
    idle: &IdleTracker,
    open: impl Fn(Arc<AtomicBool>) -> Result<Opened, StartError> + Clone + Send + 'static,
) -> Result<(Opened, Arc<AtomicBool>), StartError> {
    let until = Instant::now() + RELEASED_WITHIN;
    loop {
        let giving_up = FenceOnDrop(Some(Arc::default()));
        let fence = giving_up.fence();
        let opening = {
            let (open, fence) = (open.clone(), fence.clone());
            move || open(fence)
        };
        let opened = open_detached(idle, opening).await?;
        giving_up.disarm();
        match opened {
            Err(StartError::Directory(DirectoryError::Locked(_))) if Instant::now() < until => {
                sleep(RETRY).await;
            }
            opened => return Ok((opened?, fence)),
        }
    }
}

/// Uses the disk on a thread that no runtime waits for. In a test, the paused clock waits for this thread.
async fn open_detached<T: Send + 'static>(
    idle: &IdleTracker,
    opening: impl FnOnce() -> Result<T, StartError> + Send + 'static,
) -> Result<Result<T, StartError>, StartError> {
    idle.begin();
    let busy = idle.clone();
    let opened = detached::run("kv-open", move || {
        let opened = opening();
        busy.end();
        opened
    });
    opened.await.map_err(StartError::Thread)
}

/// Fences the disk when the future of a start is dropped.
struct FenceOnDrop(Option<Arc<AtomicBool>>);

impl FenceOnDrop {
    fn fence(&self) -> Arc<AtomicBool> {
        self.0.clone().expect("it is armed until it is disarmed")
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for FenceOnDrop {
    fn drop(&mut self) {
        if let Some(fence) = &self.0 {
            fence.store(true, Ordering::SeqCst);
        }
    }
}

/// The opened data of a member.
struct Opened {
    journal: Journal,
    recovered: Recovered,
    /// What a formatted data member opened.
    data: Option<applier::Opened>,
    /// How to create the state, on a data member that is not formatted yet.
    opener: Option<StateOpener>,
    /// Counts the syncs of the journal.
    syncs: Arc<Recorder>,
    /// The storage, for as long as any of the others holds it.
    storage: Weak<dyn Storage>,
}

impl Opened {
    /// Opens everything. Blocks.
    fn open(
        disk: Disk,
        cluster: &Cluster,
        (me, role): (MemberId, Role),
        options: &Options,
        fence: Arc<AtomicBool>,
    ) -> Result<Self, StartError> {
        let storage: Arc<dyn Storage> = match disk {
            Disk::Directory(path) => Directory::open(path)?,
            #[cfg(any(feature = "internals", feature = "testing"))]
            Disk::Storage(storage) => storage,
        };
        let syncs = Arc::<Recorder>::default();
        let storage: Arc<dyn Storage> = Arc::new(Fence::new(storage, fence, syncs.clone()));
        let weak = Arc::downgrade(&storage);
        let identity = Identity {
            cluster: cluster.id(),
            cluster_name: cluster.name().to_owned(),
            fingerprint: cluster.fingerprint(),
            member: me,
            options: FixedOptions::from(options),
        };
        let cache_bytes = match role {
            Role::Data => CACHE_BYTES,
            Role::Witness => WITNESS_CACHE_BYTES,
        };
        let sizes = JournalOptions { segment_bytes: options.segment_bytes, cache_bytes };
        let opened = Journal::open(storage.clone(), identity, sizes);
        let (mut journal, mut recovered) = opened.map_err(|mut error| {
            if let OpenError::OtherConfiguration { fingerprint, difference, .. } = &mut error {
                *difference = cluster.difference(*fingerprint);
            }
            error
        })?;
        let limits = kv::Limits::from(options);
        let (mut data, mut opener) = (None, None);
        match role {
            Role::Witness => {}
            Role::Data if recovered.formation == FormationStep::Empty => {
                opener = Some(StateOpener { storage, limits });
            }
            Role::Data => {
                let opened = open_state(&storage, &limits, (cluster, me), &mut journal, &mut recovered)?;
                let receiver = Receiver::open(storage.clone(), limits)?;
                data = Some(applier::Opened { state: opened, receiver, storage });
            }
        }
        Ok(Self { journal, recovered, data, opener, syncs, storage: weak })
    }

    /// Formats an empty directory as that of a standby of the cluster that has sent this answer. Blocks.
    fn join_if_empty(
        mut self,
        cluster: &Cluster,
        me: MemberId,
        answer: Option<&MembersAnswer>,
    ) -> Result<Self, StartError> {
        let answer = answer.filter(|_| self.recovered.formation == FormationStep::Empty);
        let Some(MembersAnswer { configuration, ended, .. }) = answer.cloned() else { return Ok(self) };
        let membership = Membership { configuration, disk: random_disk(), retired: false, ended };
        self.recovered = self.journal.join(membership).map_err(OpenError::from)?;
        if let Some(StateOpener { storage, limits }) = self.opener.take() {
            let found = (cluster, me);
            let state = open_state(&storage, &limits, found, &mut self.journal, &mut self.recovered)?;
            let receiver = Receiver::open(storage.clone(), limits)?;
            self.data = Some(applier::Opened { state, receiver, storage });
        }
        Ok(self)
    }
}

/// Opens the state and aligns it with the log. `None` means that the state is lost, and that a state must be fetched
/// from another member.
fn open_state(
    storage: &Arc<dyn Storage>,
    limits: &kv::Limits,
    (cluster, me): (&Cluster, MemberId),
    journal: &mut Journal,
    recovered: &mut Recovered,
) -> Result<Option<StateMachine>, StartError> {
    // If no other member has a state, the state of this member is left untouched.
    let alone = !has_data_peer(cluster, me);
    let opened = match alone {
        true => Some(StateMachine::open(storage.clone(), limits.clone())?),
        false => StateMachine::open_or_set_aside(storage, limits)?,
    };
    let Some(state) = opened else { return Ok(None) };
    let (found, recorded) = (state.checkpoint(), recovered.checkpoint);
    match recovered.alignment(found) {
        CheckpointAlignment::OnLog => {
            recovered.checkpoint = found;
            Ok(Some(state))
        }
        CheckpointAlignment::Ahead => {
            *recovered = journal.rebase_log(state.point(), state.configuration(), random_disk())?;
            Ok(Some(state))
        }
        CheckpointAlignment::Lost if alone => {
            Err(StartError::StateLost { found: found.op, recorded: recorded.op })
        }
        CheckpointAlignment::Lost => {
            tracing::warn!(
                found = %found.op,
                recorded = %recorded.op,
                "the state is missing, or older than the oldest entry of the log: fetching the state of another member"
            );
            Ok(None)
        }
    }
}

/// Listens on the address. The tasks of a node that was just dropped may hold the address until the runtime runs
/// them.
async fn bind(transport: &dyn Transport, address: &str) -> Result<Box<dyn Listener>, TransportError> {
    let until = Instant::now() + RELEASED_WITHIN;
    loop {
        match transport.bind(address).await {
            Err(TransportError::Bind { source, .. })
                if source.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until =>
            {
                sleep(RETRY).await;
            }
            bound => return bound,
        }
    }
}

/// What the hello of a caller is checked against.
pub(super) fn expectation(cluster: &Cluster, me: MemberId, options: &Options) -> Expectation {
    let small = |bytes: usize| u32::try_from(bytes).expect("checked by Options::check");
    Expectation {
        cluster: cluster.name().to_owned(),
        me,
        members: member_infos(cluster),
        fingerprint: cluster.fingerprint(),
        epoch: Epoch::ZERO,
        former: Vec::new(),
        options: FixedOptions::from(options),
        limits: Limits {
            max_key_bytes: small(options.max_key_bytes),
            max_value_bytes: small(options.max_value_bytes),
            max_in_flight_per_session: small(options.max_in_flight_per_session),
            session_ttl: options.session_ttl,
            client_idle_timeout: options.client_idle_timeout,
        },
        life: 0,
        authenticated: false,
    }
}

/// The id of a disk that has none yet. It counts from when the superblock contains it.
fn random_disk() -> DiskId {
    DiskId(u128::from(random()) << 64 | u128::from(random()))
}

/// Random bits of the operating system, without a dependency: each `RandomState` has random keys.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster::builder("demo").member(0, "a:1").build().expect("it is valid")
    }

    #[test]
    fn seeds_differ() {
        assert_ne!(random(), random());
    }

    #[tokio::test]
    async fn a_builder_reports_missing_parts() {
        let error =
            |builder: NodeBuilder| async { builder.start().await.expect_err("it cannot start").to_string() };
        assert!(error(Node::builder(cluster(), 0)).await.contains("NodeBuilder::transport"));
        let transport = Arc::new(kv_transport::Memory::new());
        assert!(
            error(Node::builder(cluster(), 0).transport(transport.clone()))
                .await
                .contains("NodeBuilder::data_dir")
        );
        let folder = tempfile::tempdir().expect("a temporary directory");
        let nowhere = folder.path().join("data");
        let unlisted = Node::builder(cluster(), 7).transport(transport.clone()).data_dir(&nowhere);
        assert!(error(unlisted).await.contains("member 7 is not in the configuration"));
        let without_list = Node::added("demo", 7).transport(transport).data_dir(&nowhere);
        assert!(error(without_list).await.contains("NodeBuilder::join"));
        assert!(!nowhere.exists(), "nothing was created");
    }
}
