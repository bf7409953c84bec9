//! Scenarios: small clusters in the simulator's world in which nothing is left to chance but delays. A script reads like the
//! story that it tells; where a planted bug belongs to the story, the same script must find it.

use super::clock::{MS, SECOND, Time};
use super::history::{Action, Ending};
use super::kind::Kind;
use super::member::End;
use super::network::Filter;
use super::plan::{ClockPlan, DiskPlan, Load, NetworkPlan, Plan, Scale, WatchPlan};
use super::report::Options;
use super::world::{Due, World};
use super::{Bug, panic};
use crate::config::{self, Role};
use crate::ids::{Op, Revision, View};
use crate::message::{Command, Guard, Lifetime, Query, ReadMode};
use crate::replica::{Replica, Status};
use fastrand::Rng;
use std::cell::RefCell;
use std::time::Duration;

/// How long a script waits for what it expects.
const PATIENCE: Time = 60 * SECOND;
/// How often a story is told: delays and jitter differ.
const TIMES: u64 = 4;

/// A story by its name.
pub(super) type Tale = (&'static str, fn(&Teller));

/// The stories of a module, each a test.
macro_rules! stories {
    ($($name:ident,)*) => {
        pub(super) const STORIES: &[$crate::sim::scenario::Tale] = &[$((stringify!($name), $name)),*];

        #[cfg(test)]
        mod told {
            $(#[test]
            fn $name() {
                super::$name(&$crate::sim::scenario::Teller::default());
            })*
        }
    };
}
pub(super) use stories;

/// How stories are told: each must end well, and badly with its bug; or only with this bug, to see whether that is found out.
#[derive(Default)]
pub(super) struct Teller {
    only: Option<Bug>,
    found: RefCell<Option<String>>,
}

impl Teller {
    /// What goes wrong in a story if there is this bug. `None` if it is about another, or ends well.
    pub(super) fn finds(bug: Bug, story: fn(&Self)) -> Option<String> {
        let teller = Self { only: Some(bug), found: RefCell::default() };
        story(&teller);
        teller.found.into_inner()
    }
}

/// What a story is set in.
pub(super) struct Story {
    roles: Vec<Role>,
    bug: Option<Bug>,
    formed: bool,
    times: u64,
    adapt: Box<dyn Fn(&mut Plan)>,
}

impl Story {
    /// So many data members.
    pub(super) fn of(data: usize) -> Self {
        Self { roles: vec![Role::Data; data], bug: None, formed: true, times: TIMES, adapt: Box::new(|_| {}) }
    }

    /// One witness more.
    pub(super) fn and_a_witness(mut self) -> Self {
        self.roles.push(Role::Witness);
        self
    }

    /// Other limits, delays, clocks.
    pub(super) fn with(mut self, adapt: impl Fn(&mut Plan) + 'static) -> Self {
        self.adapt = Box::new(adapt);
        self
    }

    /// Nobody runs yet when the script begins, and all disks are empty.
    pub(super) const fn unformed(mut self) -> Self {
        self.formed = false;
        self
    }

    /// It is told once: there are many like it.
    pub(super) const fn once_only(mut self) -> Self {
        self.times = 1;
        self
    }

    /// The bug that this story brings to light.
    pub(super) const fn finds(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Tells it several times: it must end well always, and badly at least once with its bug.
    pub(super) fn tell(&self, teller: &Teller, script: impl Fn(&mut Cluster)) {
        if let Some(bug) = teller.only {
            let mut times = 0..if self.bug == Some(bug) { self.times } else { 0 };
            if let Some(found) = times.find_map(|seed| self.once(seed, self.bug, &script).err()) {
                teller.found.replace(Some(found.said));
            }
            return;
        }
        for seed in 0..self.times {
            if let Err(BadEnd { said, events }) = self.once(seed, None, &script) {
                panic!("{}\ntold with seed {seed}: {said}", events.join("\n"));
            }
        }
        let Some(bug) = self.bug else { return };
        let found = (0..self.times).any(|seed| self.once(seed, Some(bug), &script).is_err());
        assert!(found, "{bug:?} is not found out");
    }

    fn once(&self, seed: u64, bug: Option<Bug>, script: impl Fn(&mut Cluster)) -> Result<(), BadEnd> {
        let mut plan = calm(self.roles.clone());
        (self.adapt)(&mut plan);
        let options = Options { bug, trace: 60, ..Options::default() };
        let world = World::with_plan(seed, plan, Rng::with_seed(seed), &options);
        let mut cluster = Cluster { world };
        panic::catch(|| {
            if self.formed {
                cluster.begin();
            }
            script(&mut cluster);
            cluster.end();
        })
        .map_err(|said| {
            let report = cluster.world.into_report();
            let events = report.violation.map_or_else(Vec::new, |violation| violation.events);
            BadEnd { said, events }
        })
    }
}

/// How a story went wrong.
struct BadEnd {
    said: String,
    events: Vec<String>,
}

/// Good disks, a good network, exact clocks, no load, no faults.
fn calm(roles: Vec<Role>) -> Plan {
    Plan {
        roles,
        options: config::Options {
            pipeline: 4,
            max_key_bytes: 16,
            max_value_bytes: 2048,
            segment_bytes: 16 << 10,
            checkpoint_bytes: 64 << 10,
            ..config::Options::default()
        },
        in_memory: false,
        encoded: true,
        network: NetworkPlan {
            delay: MS / 2,
            jitter: MS / 10,
            loss: 0,
            duplication: 0,
            ordered: true,
            client_loss: 0,
        },
        disk: DiskPlan { latency: MS, hiccups: 0, tear_sectors: true, checkpoint: 5 * MS },
        clock: ClockPlan { drift: 0, wall_drift: 0, skew_ms: 0 },
        load: Load {
            clients: 2,
            keys: 1,
            in_flight: 8,
            pause: SECOND,
            absence: SECOND,
            deadline: Duration::from_secs(30),
            patience: 1,
            reads: 0,
            guarded: 0,
            brief: 0,
            bounded: None,
        },
        watching: WatchPlan::NONE,
        faults: Vec::new(),
        fault_gap: SECOND,
        fault_length: SECOND,
        chaos: SECOND,
        damage: None,
        heal_quorum_only: false,
        scale: Scale::SHORT,
    }
}

/// A call that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(usize);

/// The cluster of a story. Members and clients go by their numbers.
pub(super) struct Cluster {
    pub(super) world: World,
}

// -- time

impl Cluster {
    fn begin(&mut self) {
        for member in 0..self.len() {
            self.world.start_member(member);
        }
        self.run_until("a primary serves", |c| c.serving().is_some());
    }

    /// Whatever the script has done is undone; then all members agree, everybody can write, and the history fits.
    fn end(&mut self) {
        self.heal();
        for member in 0..self.len() {
            self.world.resume_all();
            self.unstall(member);
            if !self.world.members[member].wiped {
                self.start(member);
            }
        }
        self.settle();
        let last = self.put("last", "last");
        let seen = self.get("last");
        assert_eq!(seen.as_deref(), Some("last"), "written at {last:?}");
        self.settle();
        self.world.check_digests();
        self.world.check_history();
        self.fail_on_violation();
    }

    fn fail_on_violation(&self) {
        if let Some(((invariant, detail), at)) = &self.world.violation {
            panic!("{invariant} at {:?}: {detail}", Duration::from_nanos(*at));
        }
    }

    /// Goes on until it is so.
    pub(super) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.world.now + PATIENCE;
        while !done(self) {
            assert!(self.world.now < end, "waited in vain: {what}; {}", self.describe());
            self.world.step();
            self.fail_on_violation();
        }
    }

    /// Goes on for so many milliseconds.
    pub(super) fn run_for(&mut self, ms: u64) {
        let end = self.world.now + ms * MS;
        while self.world.next_at() <= end {
            self.world.step();
            self.fail_on_violation();
        }
        self.world.now = end;
    }

    /// Goes on until one member serves, no call is open, and all members that run hold the same.
    pub(super) fn settle(&mut self) {
        self.run_until("all agree", Self::is_settled);
    }

    fn is_settled(&self) -> bool {
        let Some(primary) = self.serving() else { return false };
        let head = self.replica(primary).head();
        let up = || self.world.members.iter().filter_map(|member| member.process.as_deref());
        if self.world.members.iter().any(|member| member.process.is_none() && !member.away) {
            return false;
        }
        self.world.clients.iter().all(super::clients::Client::is_idle)
            && up().all(|process| {
                let replica = &process.replica;
                let applied = process.state.as_ref().map(|state| state.applied());
                replica.commit() == head
                    && replica.head() == head
                    && replica.durable() == head
                    && applied.is_none_or(|applied| applied == head)
            })
    }

    fn describe(&self) -> String {
        let members = self.world.members.iter().map(|member| match &member.process {
            None => format!("{:?} is down", member.id),
            Some(process) => {
                let replica = &process.replica;
                let applied = process.state.as_ref().map(|state| state.applied().op);
                format!(
                    "{:?} {:?} head {:?} durable {:?} commit {:?} applied {applied:?} log_view {:?}",
                    member.id,
                    replica.standing(),
                    replica.head(),
                    replica.durable().op,
                    replica.commit().op,
                    replica.log_view(),
                )
            }
        });
        members.collect::<Vec<_>>().join("; ")
    }
}

// -- looking

impl Cluster {
    fn len(&self) -> usize {
        self.world.members.len()
    }

    /// The replica of a member that runs.
    pub(super) fn replica(&self, member: usize) -> &Replica {
        &self.world.members[member].process.as_ref().expect("the member runs").replica
    }

    /// Who serves in the newest view.
    pub(super) fn serving(&self) -> Option<usize> {
        self.world.serving_member()
    }

    /// Who serves. There must be one.
    pub(super) fn primary(&self) -> usize {
        self.serving().expect("a primary serves")
    }

    /// Everybody but the primary.
    pub(super) fn backups(&self) -> Vec<usize> {
        let primary = self.primary();
        (0..self.len()).filter(|member| *member != primary).collect()
    }

    /// The view of a member.
    pub(super) fn view(&self, member: usize) -> View {
        self.replica(member).view()
    }

    /// The last op of a member's log.
    pub(super) fn head(&self, member: usize) -> Op {
        self.replica(member).head().op
    }

    /// What a member knows to be committed.
    pub(super) fn commit(&self, member: usize) -> Op {
        self.replica(member).commit().op
    }

    /// What a member does.
    pub(super) fn status(&self, member: usize) -> Status {
        self.replica(member).standing().status
    }

    /// Goes on until a member has come that far.
    pub(super) fn wait_for(&mut self, member: usize, status: Status) {
        self.run_until("a status", |c| c.status(member) == status);
    }

    /// Goes on until a member has installed the log of the newest view.
    pub(super) fn wait_until_installed(&mut self, member: usize) {
        self.run_until("the view's log is installed", |c| {
            c.status(member) == Status::Normal
                && c.serving().is_some_and(|primary| c.view(member) == c.view(primary))
        });
    }

    /// Goes on until another than this member serves, and says who.
    pub(super) fn wait_for_another_primary(&mut self, than: usize) -> usize {
        self.run_until("another primary", |c| c.serving().is_some_and(|member| member != than));
        self.primary()
    }
}

// -- clients

impl Cluster {
    /// The first client writes, and is told so.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Revision {
        loop {
            let asked = self.begin_put(0, key, value);
            // Its session may have ended: then nothing has happened.
            if self.outcome(asked) != Ending::NotApplied {
                return self.done(asked);
            }
        }
    }

    /// The first client writes until it is so.
    pub(super) fn put_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let mut left = 100;
        while !done(self) {
            assert!(left > 0, "written in vain: {what}");
            left -= 1;
            self.put("k", &"w".repeat(500));
        }
    }

    /// The first client reads.
    pub(super) fn get(&mut self, key: &str) -> Option<String> {
        let asked = self.begin_get(0, key);
        self.value(asked)
    }

    /// A client asks for a write.
    pub(super) fn begin_put(&mut self, client: usize, key: &str, value: &str) -> Asked {
        self.begin_guarded_put(client, key, value, None)
    }

    /// A client asks for a write under a condition.
    pub(super) fn begin_guarded_put(
        &mut self,
        client: usize,
        key: &str,
        value: &str,
        guard: Option<Guard>,
    ) -> Asked {
        // No value is written twice: the checks tell writes apart by them.
        let value = format!("{value}#{}", self.world.history.calls().len()).into();
        let key = key.to_owned().into();
        Asked(
            self.world.begin_call(
                client,
                Action::Write(Command::Put { key, value, guard, life: Lifetime::FOREVER }),
            ),
        )
    }

    /// A client asks for a linearizable read.
    pub(super) fn begin_get(&mut self, client: usize, key: &str) -> Asked {
        Asked(self.world.begin_call(client, Action::Get { key: key.to_owned().into(), local: false }))
    }

    /// A client asks for what may be so many milliseconds old.
    pub(super) fn begin_bounded_get(&mut self, client: usize, key: &str, ms: u64) -> Asked {
        let query = Query::Get { key: key.to_owned().into(), at: None };
        let mode = ReadMode::MaxStaleness(Duration::from_millis(ms));
        Asked(self.world.begin_call(client, Action::Past { query, mode }))
    }

    /// How a call has ended, if it has.
    pub(super) fn ending(&self, asked: Asked) -> Option<Ending> {
        let call = self.world.history.call(asked.0).expect("the call was made");
        call.ended.as_ref().map(|ended| ended.ending.clone())
    }

    /// Waits for the end of a call.
    pub(super) fn outcome(&mut self, asked: Asked) -> Ending {
        self.run_until("the call ends", |c| c.ending(asked).is_some());
        self.ending(asked).expect("it has ended")
    }

    /// Waits until a write is done.
    pub(super) fn done(&mut self, asked: Asked) -> Revision {
        match self.outcome(asked) {
            Ending::Put(revision) => revision,
            other => panic!("the write ended with {other:?}"),
        }
    }

    /// Waits for what a read says.
    pub(super) fn value(&mut self, asked: Asked) -> Option<String> {
        match self.outcome(asked) {
            Ending::Value { record, .. } => {
                let text = record.map(|record| String::from_utf8_lossy(&record.value).into_owned());
                text.map(|text| text.split('#').next().unwrap_or_default().to_owned())
            }
            other => panic!("the read ended with {other:?}"),
        }
    }

    /// From now on a client reaches no member but this.
    pub(super) fn client_sees_only(&mut self, client: usize, member: usize) {
        let node = self.world.client_node(client);
        for other in (0..self.len()).filter(|other| *other != member) {
            self.world.network.cut(node, other);
            self.world.network.cut(other, node);
        }
    }
}

// -- what goes wrong

impl Cluster {
    /// The process ends; what its disk was given stays.
    pub(super) fn crash(&mut self, member: usize) {
        self.world.members[member].away = true;
        self.world.end_process(member, End::Kill);
    }

    /// The machine loses power: what was not synced is lost, kept or torn.
    pub(super) fn cut_power(&mut self, member: usize) {
        self.world.members[member].away = true;
        self.world.end_process(member, End::PowerCut);
    }

    /// The process starts from what is on its disk.
    pub(super) fn start(&mut self, member: usize) {
        self.world.members[member].away = false;
        self.world.start_member(member);
        self.fail_on_violation();
    }

    /// Ends and starts.
    pub(super) fn restart(&mut self, member: usize) {
        self.crash(member);
        self.start(member);
    }

    /// Nothing passes from one member to another.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.world.network.cut(from, to);
    }

    /// Nothing passes between a member and the others.
    pub(super) fn isolate(&mut self, member: usize) {
        for other in (0..self.len()).filter(|other| *other != member) {
            self.cut(member, other);
            self.cut(other, member);
        }
    }

    /// Every link is whole again, and every message arrives; what was held back is lost.
    pub(super) fn heal(&mut self) {
        self.world.network.heal();
    }

    /// Messages of this kind get lost on this link (`None`: from everybody, to everybody).
    pub(super) fn lose(&mut self, kind: Kind, from: Option<usize>, to: Option<usize>) {
        self.world.network.add_filter(Filter { from, to, kind, hold: false });
    }

    /// Messages of this kind are held back on this link until [`release`](Self::release).
    pub(super) fn hold(&mut self, kind: Kind, from: Option<usize>, to: Option<usize>) -> Filter {
        let filter = Filter { from, to, kind, hold: true };
        self.world.network.add_filter(filter);
        filter
    }

    /// What was held back arrives.
    pub(super) fn release(&mut self, filter: Filter) {
        self.world.unfilter(filter);
    }

    /// The disk of a member finishes no write.
    pub(super) fn stall(&mut self, member: usize) {
        self.world.stall_disk(member);
    }

    /// The disk of a member goes on.
    pub(super) fn unstall(&mut self, member: usize) {
        self.world.unstall_disk(member);
    }

    /// A process does nothing for so long.
    pub(super) fn pause(&mut self, member: usize, ms: u64) {
        let until = self.world.now + ms * MS;
        self.world.pause(member, until);
    }

    /// A member believes that its connection to another broke.
    pub(super) fn lose_connection(&mut self, member: usize, peer: usize) {
        self.world.schedule_due(self.world.now, member, Due::PeerLost(peer));
    }

    /// A member is asked to give its role away.
    pub(super) fn hand_over(&mut self, member: usize) {
        self.world.schedule_due(self.world.now, member, Due::Handover);
    }

    /// The next sync of a disk fails, and only that one.
    pub(super) fn fail_next_sync(&mut self, member: usize) {
        let slot = &mut self.world.members[member];
        slot.disk_stops = true;
        slot.disk.fail_next(super::storage::Kind::Sync);
    }

    /// This sync of the state from now on fails (1 is the next), and only that one.
    pub(super) fn fail_sync_of_state(&mut self, member: usize, count: u32) {
        let slot = &mut self.world.members[member];
        slot.disk_stops = true;
        assert!(slot.disk.fail_sync_of("state", count), "there is a state on disk");
    }

    /// The disk fails at this operation from now (1 is the next): the process ends there, and comes back.
    pub(super) fn fail_at(&mut self, member: usize, operation: u64) {
        let slot = &mut self.world.members[member];
        slot.disk_stops = true;
        slot.disk.fail_after(operation);
    }

    /// A member that is down loses everything on its disk.
    pub(super) fn wipe(&mut self, member: usize) {
        self.world.checker.on_wiped(member);
        let slot = &mut self.world.members[member];
        assert!(slot.process.is_none(), "the member is down");
        slot.disk = super::storage::Disk::new();
        slot.wiped = true;
    }

    /// A wall clock is set forward, or back.
    pub(super) fn step_clock(&mut self, member: usize, ms: i64) {
        let now = self.world.now;
        self.world.checker.see_clocks(self.world.members.iter().map(|member| member.clock.read(now).wall));
        self.world.members[member].clock.step(ms);
    }

    /// The bytes of a value rot in the journal of a member that is down.
    pub(super) fn damage_value(&mut self, member: usize, value: &str) {
        let slot = &mut self.world.members[member];
        assert!(slot.process.is_none(), "the member is down");
        let mut found = false;
        for file in slot.disk.names().into_iter().filter(|name| name.starts_with("journal")) {
            let bytes = slot.disk.contents(&file).unwrap_or_default();
            let places = bytes.windows(value.len()).enumerate();
            for (at, _) in places.filter(|(_, window)| *window == value.as_bytes()) {
                found |= slot.disk.flip_bit(&file, at as u64, 0);
            }
        }
        assert!(found, "{value} is not in the journal");
        slot.flipped = true;
    }
}
