//! What the script of a scenario can do: a small cluster in the simulator's world, in which nothing is random but
//! delays. A script reads like the execution that it describes. If a seeded bug belongs to it, the same script must
//! detect the bug: see [`Scenario`](super::scenario::Scenario).

use super::clock::{MS, SECOND, Time};
use super::events::{Due, Event};
use super::history::{Action, Ending};
use super::kind::Kind;
use super::member::End;
use super::network::Filter;
use super::world::World;
use kv_core::ids::{Op, Revision, View};
use kv_core::message::{Command, Condition, Lifetime, Message, Query, ReadMode};
use kv_core::replica::{Replica, Status};
use std::time::Duration;

/// How long a script waits for what it expects.
const PATIENCE: Time = 60 * SECOND;

/// A call that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(usize);

/// The cluster of a scenario. Members and clients are identified by their numbers.
pub(super) struct Cluster {
    pub(super) world: World,
}

// -- time

impl Cluster {
    pub(super) fn begin(&mut self) {
        for member in 0..self.len() {
            self.world.start_member(member);
        }
        self.run_until("a primary serves", |c| c.serving().is_some());
    }

    /// Undoes everything that the script has done; then all members must agree, every client must be able to write, and
    /// the history must be correct.
    pub(super) fn end(&mut self) {
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

    /// Runs until `done` is true.
    pub(super) fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.world.now + PATIENCE;
        while !done(self) {
            assert!(self.world.now < end, "waited in vain: {what}; {}", self.describe());
            self.world.step();
            self.fail_on_violation();
        }
    }

    /// Runs for this many milliseconds.
    pub(super) fn run_for(&mut self, ms: u64) {
        let end = self.world.now + ms * MS;
        while self.world.next_at() <= end {
            self.world.step();
            self.fail_on_violation();
        }
        self.world.now = end;
    }

    /// Runs until one member serves, no call is open, and all running members hold the same.
    pub(super) fn settle(&mut self) {
        self.run_until("all agree", Self::is_settled);
    }

    fn is_settled(&self) -> bool {
        let Some(primary) = self.serving() else { return false };
        let head = self.replica(primary).head();
        let needed = (0..self.len()).filter(|member| self.world.is_needed(*member));
        let needed: Vec<_> = needed.map(|member| self.world.members[member].process.as_deref()).collect();
        let up = || needed.iter().flatten();
        if needed.iter().any(Option::is_none) {
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
                    replica.status(),
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

    /// The replica of a running member.
    pub(super) fn replica(&self, member: usize) -> &Replica {
        &self.world.members[member].process.as_ref().expect("the member runs").replica
    }

    /// The member that serves in the newest view.
    pub(super) fn serving(&self) -> Option<usize> {
        self.world.serving_member()
    }

    /// The member that serves. There must be one.
    pub(super) fn primary(&self) -> usize {
        self.serving().expect("a primary serves")
    }

    /// All members except the primary.
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

    /// The status of a member.
    pub(super) fn status(&self, member: usize) -> Status {
        self.replica(member).status().status
    }

    /// Runs until a member has this status.
    pub(super) fn wait_for(&mut self, member: usize, status: Status) {
        self.run_until("a status", |c| c.status(member) == status);
    }

    /// Runs until a member has installed the log of the newest view.
    pub(super) fn wait_until_installed(&mut self, member: usize) {
        self.run_until("the view's log is installed", |c| {
            c.status(member) == Status::Normal
                && c.serving().is_some_and(|primary| c.view(member) == c.view(primary))
        });
    }

    /// Runs until another member serves, and returns it.
    pub(super) fn wait_for_another_primary(&mut self, than: usize) -> usize {
        self.run_until("another primary", |c| c.serving().is_some_and(|member| member != than));
        self.primary()
    }
}

// -- clients

impl Cluster {
    /// The first client writes, and receives the answer.
    pub(super) fn put(&mut self, key: &str, value: &str) -> Revision {
        loop {
            let asked = self.begin_put(0, key, value);
            // Its session may have ended; then nothing has happened.
            if self.outcome(asked) != Ending::NotApplied {
                return self.done(asked);
            }
        }
    }

    /// The first client writes until `done` is true.
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

    /// A client begins a write.
    pub(super) fn begin_put(&mut self, client: usize, key: &str, value: &str) -> Asked {
        self.begin_guarded_put(client, key, value, None)
    }

    /// A client begins a write under a condition.
    pub(super) fn begin_guarded_put(
        &mut self,
        client: usize,
        key: &str,
        value: &str,
        condition: Option<Condition>,
    ) -> Asked {
        // No value is written twice, because the checks distinguish writes by their values.
        let value = format!("{value}#{}", self.world.history.calls().len()).into();
        let key = key.to_owned().into();
        Asked(self.world.begin_call(
            client,
            Action::Write(Command::Put { key, value, condition, life: Lifetime::FOREVER }),
        ))
    }

    /// A client begins a linearizable read.
    pub(super) fn begin_get(&mut self, client: usize, key: &str) -> Asked {
        Asked(self.world.begin_call(client, Action::Get { key: key.to_owned().into(), local: false }))
    }

    /// A client begins a read of a state that may be this many milliseconds old.
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

    /// Waits for the result of a read.
    pub(super) fn value(&mut self, asked: Asked) -> Option<String> {
        match self.outcome(asked) {
            Ending::Value { record, .. } => {
                let text = record.map(|record| String::from_utf8_lossy(&record.value).into_owned());
                text.map(|text| text.split('#').next().unwrap_or_default().to_owned())
            }
            other => panic!("the read ended with {other:?}"),
        }
    }

    /// From now on a client reaches only this member.
    pub(super) fn client_sees_only(&mut self, client: usize, member: usize) {
        let node = self.world.client_node(client);
        for other in (0..self.len()).filter(|other| *other != member) {
            self.world.network.cut(node, other);
            self.world.network.cut(other, node);
        }
    }
}

// -- faults

impl Cluster {
    /// Ends a process. Its disk keeps everything written.
    pub(super) fn crash(&mut self, member: usize) {
        self.world.members[member].away = true;
        self.world.end_process(member, End::Kill);
    }

    /// Cuts the power of a machine: what was not synced is lost, kept or torn.
    pub(super) fn cut_power(&mut self, member: usize) {
        self.world.members[member].away = true;
        self.world.end_process(member, End::PowerCut);
    }

    /// Starts a process from what is on its disk.
    pub(super) fn start(&mut self, member: usize) {
        self.world.members[member].away = false;
        self.world.start_member(member);
        self.fail_on_violation();
    }

    /// Ends and starts a process.
    pub(super) fn restart(&mut self, member: usize) {
        self.crash(member);
        self.start(member);
    }

    /// Cuts the link from one member to another.
    pub(super) fn cut(&mut self, from: usize, to: usize) {
        self.world.network.cut(from, to);
    }

    /// Cuts the link between two members in both directions.
    pub(super) fn cut_both_ways(&mut self, one: usize, other: usize) {
        self.cut(one, other);
        self.cut(other, one);
    }

    /// Removes such a cut.
    pub(super) fn mend_both_ways(&mut self, one: usize, other: usize) {
        self.world.network.mend(one, other);
        self.world.network.mend(other, one);
    }

    /// Cuts all links between a member and the others.
    pub(super) fn isolate(&mut self, member: usize) {
        for other in (0..self.len()).filter(|other| *other != member) {
            self.cut_both_ways(member, other);
        }
    }

    /// The clients that want the lock begin to compete for it.
    pub(super) fn contend(&mut self) {
        let clients = 0..self.world.clients.len();
        clients.for_each(|client| self.world.holder_turn(client));
    }

    /// From now on, clients call only when the script requests it.
    pub(super) fn stop_contending(&mut self) {
        self.world.healed = Some(self.world.now);
    }

    /// Makes messages from one member to another slower by this much from now on.
    pub(super) fn slow_down(&mut self, from: usize, to: usize, ms: u64) {
        self.world.network.lag(from, to, ms * MS);
    }

    /// Holds back messages from one member to another until [`unclog`](Self::unclog).
    pub(super) fn clog(&mut self, from: usize, to: usize) {
        self.world.network.clog(from, to);
    }

    /// Delivers what was held back.
    pub(super) fn unclog(&mut self, from: usize, to: usize) {
        self.world.release(from, to);
    }

    /// Repairs every link. Messages that were held back are lost.
    pub(super) fn heal(&mut self) {
        self.world.network.heal();
    }

    /// Loses messages of this kind on this link (`None`: from all, to all).
    pub(super) fn lose(&mut self, kind: Kind, from: Option<usize>, to: Option<usize>) {
        self.world.network.add_filter(Filter { from, to, kind, hold: false });
    }

    /// Holds back messages of this kind on this link until [`release`](Self::release).
    pub(super) fn hold(&mut self, kind: Kind, from: Option<usize>, to: Option<usize>) -> Filter {
        let filter = Filter { from, to, kind, hold: true };
        self.world.network.add_filter(filter);
        filter
    }

    /// Delivers what was held back.
    pub(super) fn release(&mut self, filter: Filter) {
        self.world.unfilter(filter);
    }

    /// The disk of a member completes no write from now on.
    pub(super) fn stall(&mut self, member: usize) {
        self.world.stall_disk(member);
    }

    /// The disk of a member works again.
    pub(super) fn unstall(&mut self, member: usize) {
        self.world.unstall_disk(member);
    }

    /// Pauses a process for this long.
    pub(super) fn pause(&mut self, member: usize, ms: u64) {
        let until = self.world.now + ms * MS;
        self.world.pause(member, until);
    }

    /// A member believes that its connection to another broke.
    pub(super) fn lose_connection(&mut self, member: usize, peer: usize) {
        self.world.schedule_due(self.world.now, member, Due::PeerLost(peer));
    }

    /// A member receives a message that claims to be from another.
    pub(super) fn receive(&mut self, member: usize, from: usize, message: Message) {
        let now = self.world.now;
        self.world.schedule(now, Event::Deliver { from, to: member, message: Box::new(message) });
    }

    /// Asks a member to hand over its role.
    pub(super) fn hand_over(&mut self, member: usize) {
        self.world.schedule_due(self.world.now, member, Due::Handover(None));
    }

    /// Fails only the next sync of a disk.
    pub(super) fn fail_next_sync(&mut self, member: usize) {
        let slot = &mut self.world.members[member];
        slot.disk_stops = true;
        slot.disk.fail_next(kv_core::storage::simulated::Kind::Sync);
    }

    /// Fails only this sync of the state, counted from now (1 is the next).
    pub(super) fn fail_sync_of_state(&mut self, member: usize, count: u32) {
        let slot = &mut self.world.members[member];
        slot.disk_stops = true;
        assert!(slot.disk.fail_sync_of("state", count), "there is a state on disk");
    }

    /// Fails the disk at this operation from now (1 is the next): the process ends there, and is restarted.
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
        slot.disk = kv_core::storage::simulated::Disk::new();
        (slot.wiped, slot.joined) = (true, member < self.world.plan.roles.len());
        slot.disks_lost += 1;
    }

    /// Sets a wall clock forward or back.
    pub(super) fn step_clock(&mut self, member: usize, ms: i64) {
        self.world.step_clock(member, ms);
    }

    /// Damages the bytes of a value in the journal of a member that is down.
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

    /// Damages every block of the state of a member that is down, except its manifest.
    pub(super) fn damage_state(&mut self, member: usize) {
        let slot = &mut self.world.members[member];
        assert!(slot.process.is_none(), "the member is down");
        let files: Vec<String> =
            slot.disk.names().into_iter().filter(|name| name.starts_with("state-")).collect();
        assert!(!files.is_empty(), "it has made a checkpoint");
        for file in files {
            let bytes = slot.disk.contents(&file).unwrap_or_default().len() as u64;
            (0..bytes).step_by(100).for_each(|at| _ = slot.disk.flip_bit(&file, at, 2));
        }
        (slot.flipped, slot.state_hurt) = (true, true);
    }
}
