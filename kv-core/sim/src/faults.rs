//! Faults: what goes wrong, for how long, and the healing.

use super::clients::Client;
use super::clock::{SECOND, Time};
use super::events::{Due, Event, Undo};
use super::kind::Kind;
use super::member::End;
use super::network::Filter;
use super::plan::{Fault, around, pick};
use super::world::World;
use fastrand::Rng;
use kv_core::config::Role;
use kv_core::replica::Input;
use kv_core::storage::simulated::Disk;

impl World {
    /// The next fault of the plan.
    pub(super) fn next_fault(&mut self) {
        if self.healed.is_some() {
            return;
        }
        let total: u32 = self.plan.faults.iter().map(|(_, weight)| weight).sum();
        if total > 0 {
            let mut choice = self.rng.u32(0..total);
            let chosen = self.plan.faults.iter().find(|(_, weight)| {
                let here = choice < *weight;
                choice = choice.wrapping_sub(*weight);
                here
            });
            if let Some(&(fault, _)) = chosen {
                self.trace.note(60, fault as u64, 0, || format!("{:?} fault: {fault:?}", self.now));
                self.inject(fault);
            }
        }
        let gap = around(&mut self.rng, self.plan.fault_gap);
        self.schedule(self.now + gap, Event::Fault);
    }

    fn any_member(&mut self) -> usize {
        self.rng.usize(0..self.members.len())
    }

    /// The serving primary, or any member if there is none.
    fn primary_or_any(&mut self) -> usize {
        self.serving_member().unwrap_or_else(|| self.any_member())
    }

    fn inject(&mut self, fault: Fault) {
        let end = self.now + around(&mut self.rng, self.plan.fault_length);
        match fault {
            Fault::Kill | Fault::KillPrimary | Fault::PowerCut | Fault::PowerCutAll | Fault::DiskStop => {
                self.inject_end(fault);
            }
            Fault::Partition
            | Fault::OneWay
            | Fault::Isolate
            | Fault::IsolatePrimary
            | Fault::DeafenPrimary
            | Fault::MutePrimary
            | Fault::CutClient => {
                let links = self.links_of(fault);
                for &(from, to) in &links {
                    self.network.cut(from, to);
                }
                self.schedule(end, Event::Undo(Undo::Mend(links)));
            }
            Fault::LoseKind | Fault::HoldKind => {
                let filter = self.filter_of(fault);
                self.network.add_filter(filter);
                self.schedule(end, Event::Undo(Undo::Unfilter(filter)));
            }
            Fault::Clog | Fault::Lag => self.inject_delay(fault, end),
            Fault::Pause => {
                let member = self.any_member();
                self.pause(member, end);
            }
            Fault::PausePrimary => {
                let member = self.primary_or_any();
                self.pause(member, end);
            }
            Fault::SlowDisk => {
                let member = self.any_member();
                self.members[member].slowness = *pick(&mut self.rng, &[5, 50, 500]);
                self.schedule(end, Event::Undo(Undo::Hasten(member)));
            }
            Fault::StallDisk => {
                let member = self.any_member();
                self.stall_disk(member);
                self.schedule(end, Event::Undo(Undo::Unstall(member)));
            }
            Fault::ClockStep | Fault::ClockFreeze | Fault::ClockDrift => {
                self.inject_clock_fault(fault, end);
            }
            Fault::SetClocks | Fault::SetClocksWhileDown => self.set_clocks(fault, end),
            Fault::ChangeDelay => self.change_delay(),
            Fault::DiskError | Fault::FullDisk | Fault::WipeDisk | Fault::Rot => {
                self.inject_disk_fault(fault, end)
            }
            Fault::Handover => {
                let member = self.primary_or_any();
                // Drawn apart, so that the other draws of a seed stay the same.
                let mut apart = Rng::with_seed(self.rng.get_seed() ^ 0x5ccc);
                let to = apart.bool().then(|| apart.usize(..self.members.len()));
                self.schedule_due(self.now, member, Due::Handover(to));
            }
            Fault::Reset => self.inject_reset(),
        }
    }

    /// A member is asked to hand over its role, perhaps to this member.
    pub(super) fn hand_over(&mut self, member: usize, to: Option<usize>) {
        let input = to.map_or(Input::Handover, |to| Input::HandoverTo { successor: self.members[to].id });
        self.input(member, input);
    }

    /// Faults that end processes.
    fn inject_end(&mut self, fault: Fault) {
        let victims: Vec<usize> = match fault {
            Fault::PowerCutAll => (0..self.members.len()).collect(),
            Fault::KillPrimary => vec![self.primary_or_any()],
            _ => vec![self.any_member()],
        };
        for member in victims {
            if !self.members[member].is_up() {
                continue;
            }
            match fault {
                Fault::DiskStop => {
                    let after = self.rng.u64(1..60);
                    self.members[member].disk.fail_after(after);
                    self.members[member].disk_stops = true;
                }
                Fault::Kill | Fault::KillPrimary => self.end_process(member, End::Kill),
                _ => self.end_process(member, End::PowerCut),
            }
        }
    }

    fn inject_clock_fault(&mut self, fault: Fault, end: Time) {
        let member = self.any_member();
        let now = self.now;
        match fault {
            Fault::ClockStep => {
                let step = *pick(&mut self.rng, &[-3_600_000, -1000, -10, 10, 1000, 3_600_000]);
                self.step_clock(member, step);
            }
            Fault::ClockFreeze => {
                self.members[member].clock.freeze(now);
                self.checker.stamps.stands_or_goes_on(member, now);
                self.schedule(end, Event::Undo(Undo::Thaw(member)));
            }
            _ => {
                let clock = &mut self.members[member].clock;
                clock.drift(now, &mut self.rng, self.plan.scale.most_drift);
                self.checker.stamps.goes_at(clock.rate());
            }
        }
        self.set_timer(member);
    }

    /// The wall clock of a member is set.
    pub(super) fn step_clock(&mut self, member: usize, by_ms: i64) {
        self.checker.stamps.stepped(member, self.now, by_ms);
        self.members[member].clock.step(by_ms);
    }

    fn thaw(&mut self, member: usize) {
        let catches_up = self.rng.bool();
        let slot = &mut self.members[member];
        let leap = slot.clock.thaw(self.now, catches_up);
        // A process that does not run has not measured any time.
        if slot.is_up() {
            let most = Time::try_from(slot.options.failure_timeout_max.as_nanos()).unwrap_or(Time::MAX);
            self.checker.stamps.leapt(member, self.now, leap.min(most));
        }
        self.set_timer(member);
    }

    /// Faults of a disk that the process notices.
    fn inject_disk_fault(&mut self, fault: Fault, end: Time) {
        let member = self.any_member();
        let slot = &mut self.members[member];
        match fault {
            Fault::FullDisk => {
                slot.disk.set_capacity(Some(slot.disk.used() + self.rng.u64(0..20_000)));
                slot.full = true;
                self.schedule(end, Event::Undo(Undo::MakeRoom(member)));
            }
            Fault::WipeDisk => self.wipe(member),
            Fault::Rot => self.damage_under_way(member),
            _ if slot.is_up() => {
                use kv_core::storage::simulated::Kind;
                let kinds = [Kind::Write, Kind::Sync, Kind::Sync, Kind::Name, Kind::SyncDirectory];
                // Syncs of the state are rare compared to those of the journal.
                let count = self.rng.u32(1..5);
                let of_state = self.rng.u32(0..3) == 0 && slot.disk.fail_sync_of("state", count);
                if !of_state {
                    slot.disk.fail_next(*pick(&mut self.rng, &kinds));
                }
                slot.disk_stops = true;
            }
            _ => {}
        }
    }

    /// A member loses its disk permanently, if the others can do without it. It reports disk loss when it hears of
    /// them.
    fn wipe(&mut self, member: usize) {
        let newest = self.checker.rosters.newest();
        let formed = newest.voters.iter().all(|member| self.checker.is_formed(*member));
        let lost = newest.voters.iter().any(|member| self.members[*member].wiped);
        let changes = self.is_changing();
        let is_listed = newest.lists(member);
        let few = newest.voters.len() < 3;
        if few || lost || !formed || changes || !is_listed || self.plan.damage.is_some() {
            return;
        }
        // Nobody starts a founder again that was wiped and removed: it might form another cluster.
        let (founders, members) = (self.plan.roles.len(), &self.members);
        if (0..founders).any(|member| members[member].wiped && !members[member].away) {
            return;
        }
        if self.members[member].is_up() {
            self.end_process(member, End::PowerCut);
        }
        self.trace.note(63, member as u64, 0, || format!("{:?} the disk of m{member} is wiped", self.now));
        self.checker.count("disks wiped");
        self.checker.on_wiped(member);
        let disk = Disk::new();
        let is_founder = member < self.plan.roles.len();
        let slot = &mut self.members[member];
        (slot.disk, slot.wiped, slot.joined, slot.joining) = (disk, true, is_founder, false);
        slot.disks_lost += 1;
        self.lost_at = Some(self.now);
    }

    /// The links that a network fault cuts.
    fn links_of(&mut self, fault: Fault) -> Vec<(usize, usize)> {
        let members = self.members.len();
        let one = match fault {
            Fault::IsolatePrimary | Fault::DeafenPrimary | Fault::MutePrimary => self.primary_or_any(),
            _ => self.any_member(),
        };
        let others = (0..members).filter(|&other| other != one);
        match fault {
            Fault::Partition => {
                let left: Vec<bool> = (0..members).map(|_| self.rng.bool()).collect();
                let pairs = (0..members).flat_map(|from| (0..members).map(move |to| (from, to)));
                pairs.filter(|&(from, to)| left[from] != left[to]).collect()
            }
            Fault::OneWay => {
                let other = self.any_member();
                if other == one { Vec::new() } else { vec![(one, other)] }
            }
            Fault::DeafenPrimary => others.map(|other| (other, one)).collect(),
            Fault::MutePrimary => others.map(|other| (one, other)).collect(),
            Fault::CutClient => {
                let client = members + self.rng.usize(0..self.clients.len());
                match self.rng.u32(0..3) {
                    0 => vec![(client, one)],
                    1 => vec![(one, client)],
                    _ => vec![(client, one), (one, client)],
                }
            }
            _ => others.flat_map(|other| [(one, other), (other, one)]).collect(),
        }
    }

    fn inject_delay(&mut self, fault: Fault, end: Time) {
        let (mut from, mut to) = (self.any_member(), self.any_member());
        if self.rng.u32(0..4) == 0 {
            let client = self.members.len() + self.rng.usize(0..self.clients.len());
            *(if self.rng.bool() { &mut from } else { &mut to }) = client;
        }
        if fault == Fault::Clog {
            self.network.clog(from, to);
            self.schedule(end, Event::Undo(Undo::Release(from, to)));
        } else {
            let lag = *pick(&mut self.rng, &self.plan.scale.lags);
            self.network.lag(from, to, lag);
            self.schedule(end, Event::Undo(Undo::Quicken(from, to)));
        }
    }

    /// The peers of a member believe that its connections broke.
    fn inject_reset(&mut self) {
        let one = self.any_member();
        for other in 0..self.members.len() {
            if other != one && self.rng.bool() {
                self.schedule_due(self.now, other, Due::PeerLost(one));
            }
        }
    }

    /// A fault ends.
    pub(super) fn undo(&mut self, undo: Undo) {
        if self.healed.is_some() {
            return;
        }
        match undo {
            Undo::Mend(links) => links.into_iter().for_each(|(from, to)| self.network.mend(from, to)),
            Undo::Release(from, to) => self.release(from, to),
            Undo::Quicken(from, to) => self.network.lag(from, to, 0),
            Undo::Unfilter(filter) => self.unfilter(filter),
            Undo::Hasten(member) => self.members[member].slowness = 1,
            Undo::Unstall(member) => self.unstall_disk(member),
            Undo::Thaw(member) => self.thaw(member),
            Undo::MakeRoom(member) => self.make_room(member),
            Undo::SetBack(members, by_ms) => {
                members.iter().for_each(|member| self.step_clock(*member, -by_ms))
            }
        }
    }

    fn make_room(&mut self, member: usize) {
        self.members[member].disk.set_capacity(None);
        self.members[member].full = false;
    }

    /// A kind of message to lose or hold back: everywhere, on one link, or from one member.
    fn filter_of(&mut self, fault: Fault) -> Filter {
        let kind = *pick(&mut self.rng, Kind::ALL);
        let one_sender = self.rng.bool().then(|| self.any_member());
        let one_receiver = self.rng.bool().then(|| self.any_member());
        Filter { from: one_sender, to: one_receiver, kind, hold: fault == Fault::HoldKind }
    }

    /// Removes a filter. What it held back is delivered now.
    pub(super) fn unfilter(&mut self, filter: Filter) {
        self.network.take_filter(filter);
        if filter.hold {
            for from in 0..self.members.len() {
                for to in 0..self.members.len() {
                    self.release_held(from, to);
                }
            }
        }
    }

    /// Delivers what is held back from one node to another.
    pub(super) fn release(&mut self, from: usize, to: usize) {
        self.network.unclog(from, to);
        self.release_held(from, to);
    }

    fn release_held(&mut self, from: usize, to: usize) {
        for event in self.network.release(from, to) {
            let at = self.network.release_at(&mut self.rng, self.now, (from, to), event.lane());
            self.schedule(at, event);
        }
    }

    /// Ends the faults: everything is repaired, but some members may stay away. Then the clients make their last calls.
    pub(super) fn heal(&mut self) {
        self.trace.note(61, 0, 0, || format!("{:?} healed", self.now));
        self.healed = Some(self.now);
        self.network.heal();
        for member in 0..self.members.len() {
            self.members[member].slowness = 1;
            self.make_room(member);
            self.thaw(member);
            self.unstall_disk(member);
        }
        self.resume_all();
        for member in self.absentees() {
            self.members[member].away = true;
            if self.members[member].is_up() {
                self.end_process(member, End::PowerCut);
            }
        }
        for member in 0..self.members.len() {
            self.schedule(self.now + SECOND / 10, Event::Start { member });
        }
        for watcher in 0..self.watchers.len() {
            // Slow watchers become fast.
            self.schedule_watcher(watcher, self.now);
        }
        self.begin_finals();
        self.schedule(self.now, Event::Probe);
    }

    /// Members that stay away: a formed cluster needs only a quorum. With damaged disks it may need more; see `excuse`.
    fn absentees(&mut self) -> Vec<usize> {
        let newest = self.checker.rosters.newest();
        let formed = newest.voters.iter().all(|member| self.checker.is_formed(*member));
        let wiped = newest.voters.iter().any(|member| self.members[*member].wiped);
        let changes = self.is_changing();
        let quorum = newest.cluster.replication_quorum().max(newest.cluster.view_change_quorum());
        let mut back = newest.voters.clone();
        if !self.plan.heal_quorum_only || !formed || wiped || changes || quorum == back.len() {
            return Vec::new();
        }
        self.rng.shuffle(&mut back);
        let count = back.len();
        let away = back.split_off(self.rng.usize(quorum..count));
        // A member with an intact state comes back: the parts of the others' states may not be enough.
        let whole =
            |member: &usize| self.members[*member].role == Role::Data && !self.members[*member].state_hurt;
        if back.iter().any(whole) { away } else { Vec::new() }
    }

    /// What is still missing for the cluster to have converged.
    pub(super) fn unsettled(&mut self) -> Option<String> {
        self.help_lost_clients();
        if let Some(client) = self.clients.iter().position(|client| !client.is_idle()) {
            return Some(format!("calls of client {client} do not end"));
        }
        self.drive_finals();
        if let Some(client) = self.clients.iter().position(|client| !client.is_satisfied()) {
            return Some(format!("a last call of client {client} does not succeed"));
        }
        if let Some(lagging) = self.lagging_watcher() {
            return Some(lagging);
        }
        let Some(primary) = self.serving_member() else { return Some("no primary serves".into()) };
        let commit = self.members[primary].process.as_ref().map(|process| process.replica.commit());
        let now = self.clock_of(primary);
        let stamp = self.members[primary].process.as_ref().and_then(|process| process.replica.stamp(now));
        if let (Some(stamp), Some(process)) = (stamp, &self.members[primary].process) {
            let checked = self.checker.stamps.goes_on(primary, process.replica.view(), stamp, self.now);
            self.check(checked);
        }
        if let Some(overdue) = stamp.and_then(|stamp| self.checker.model().overdue(stamp)) {
            return Some(format!("its time is over, and it is still there: {overdue}"));
        }
        let epoch = self.checker.rosters.newest().configuration.epoch;
        for (index, member) in self.members.iter().enumerate() {
            if !self.checker.rosters.newest().lists(index) && !self.is_gone(index) {
                return Some(format!("{:?} was removed, and does not stop", member.id));
            }
            if !self.is_needed(index) {
                continue;
            }
            let Some(process) = &member.process else { return Some(format!("{:?} is not up", member.id)) };
            if process.replica.view().epoch() != epoch {
                let view = process.replica.view();
                return Some(format!("{:?} is in {view:?}, and the last epoch is {epoch:?}", member.id));
            }
            if Some(process.replica.commit()) != commit {
                let theirs = process.replica.commit();
                return Some(format!("{:?} has committed {theirs:?}, the primary {commit:?}", member.id));
            }
            let applied = process.state.as_ref().map(|state| state.applied());
            if applied.is_some() && applied != commit {
                return Some(format!("{:?} has applied {applied:?} of {commit:?}", member.id));
            }
        }
        let not_ended = self.not_ended();
        if not_ended.is_none() && self.clients.iter().any(Client::has_changes_to_make) {
            self.begin_last_changes();
            return Some("a last change of the member list is not done".into());
        }
        not_ended
    }
}
