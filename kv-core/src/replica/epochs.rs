//! The end of an epoch and the beginning of the next: how a member learns that its epoch is over, enters the next one,
//! or leaves the cluster (rules M1 to M5, M9, M12 and M13).

use super::backup::Backup;
use super::outside::{Entering, Retired};
use super::state::ReplicaState;
use super::view_change::ViewChange;
use super::{Halt, Output, Replica};
use crate::config::{Configuration, DiskId};
use crate::ids::{Anchor, Epoch, MemberId, View};
use crate::message::{Entry, FormationStep, LogPoint, Message};
use std::cmp::Ordering;
use tracing::{debug, info};

/// What a member tells of the epoch that it is in.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) from: MemberId,
    pub(super) configuration: Configuration,
    pub(super) settled: bool,
    pub(super) ended: u64,
    pub(super) view: View,
    pub(super) checkpoint: Option<LogPoint>,
}

impl Replica {
    // -- messages

    /// Rule M4: a message in a view of another epoch is not acted upon. Whoever is in the earlier epoch is told.
    pub(super) fn is_of_this_epoch(&mut self, from: MemberId, message: &Message) -> bool {
        // What is committed is the same in every epoch.
        let Some(view) = message.view().filter(|_| !matches!(message, Message::SnapshotChunk { .. })) else {
            return true;
        };
        match view.epoch().cmp(&self.cx.epoch()) {
            Ordering::Equal => self.cx.epochs.knows(from),
            Ordering::Less => self.cx.tell_epoch(from),
            Ordering::Greater => self.cx.ask_epoch(from),
        }
        view.epoch() == self.cx.epoch()
    }

    pub(super) fn on_ask_epoch(&mut self, from: MemberId, epoch: Epoch, disk: DiskId) {
        // In epoch 0 it is durable only with the change: after a restart, the member may have another one.
        if epoch > Epoch::ZERO && self.cx.cluster.member(from).is_some() {
            self.cx.epochs.disks.insert(from, disk);
        }
        match epoch.cmp(&self.cx.epoch()) {
            Ordering::Greater => return self.cx.ask_epoch(from),
            Ordering::Equal => self.cx.epochs.knows(from),
            Ordering::Less => {}
        }
        self.cx.tell_epoch(from);
    }

    /// A member has entered this epoch.
    pub(super) fn on_epoch(&mut self, told: &Told) {
        let from = told.from;
        match (told.configuration.epoch.cmp(&self.cx.epoch()), &mut self.state) {
            // Rule F4: in every later epoch, the cluster is formed. The founders may all be gone.
            (_, ReplicaState::Forming(forming)) => {
                forming.on_formation(&mut self.cx, from, FormationStep::Formed, false);
            }
            (_, ReplicaState::Entering(_)) => {}
            (Ordering::Less, _) => self.cx.tell_epoch(from),
            (Ordering::Equal, state) => {
                self.cx.epochs.knows(from);
                if let ReplicaState::Retired(retired) = state
                    && told.settled
                {
                    retired.on_settled(&mut self.cx);
                }
            }
            // The epoch that removed this member has ended with a stop of its own.
            (Ordering::Greater, ReplicaState::Retired(retired)) => retired.on_settled(&mut self.cx),
            (Ordering::Greater, _) => self.on_later_epoch(told),
        }
    }

    /// The present epoch is over. What ends it is committed, and may be missing here.
    fn on_later_epoch(&mut self, told: &Told) {
        let Told { from, configuration, ended, view, checkpoint, .. } = told;
        let ended = *ended;
        self.cx.epochs.ended = self.cx.epochs.ended.max(ended);
        if self.cx.own_stop() == Some(configuration.stop) {
            // Rule M2: the log has that very entry.
            self.cx.epochs.proven = configuration.stop;
            return self.cx.commit_what_is_proven();
        }
        // Rule M13: what is committed comes from members of the later epoch. A primary of this one may not have it,
        // unless its view began after all that has committed anything.
        if self.cx.view.number() <= ended {
            self.enter_view_change(View::of(self.cx.epoch(), ended + 1));
        }
        self.cx.fall_behind(*from, (configuration, ended), *view, *checkpoint);
        self.cx.fetch_epoch();
    }

    /// Committed entries up to the end of this epoch, from a member of a later one. An own entry that differs was never
    /// committed. Returns true if the answer was awaited.
    pub(super) fn on_committed_entries(&mut self, nonce: u64, entries: &[Entry]) -> bool {
        if !self.cx.epochs.has_asked(nonce) {
            return false;
        }
        // What is being installed contains the same entries, and two hands must not change one log. But those that are
        // asked for the installation may all be gone.
        if self.state.install_mut().is_some() {
            if self.cx.epochs.has_waited_enough() {
                self.enter_view_change(self.cx.view.next());
            }
            return true;
        }
        if self.cx.transfer.is_rebasing() {
            return true;
        }
        let (before, written) = (self.cx.proven(), self.cx.writes.last);
        let changes_log = |entry: &Entry| {
            let ours = self.cx.log.hash(entry.header.op);
            match self.state {
                // It orders what comes behind its log.
                ReplicaState::Primary(_) => ours != Some(entry.header.hash()),
                _ => ours.is_some_and(|ours| ours != entry.header.hash()),
            }
        };
        if matches!(self.state, ReplicaState::Primary(_) | ReplicaState::Backup(_))
            && entries.iter().filter(|entry| entry.header.op > before).any(changes_log)
        {
            // The log is no longer that of the view.
            self.enter_view_change(self.cx.view.next());
        }
        for entry in entries.iter().filter(|entry| entry.header.op > before) {
            if !self.cx.take_committed(entry) {
                break;
            }
        }
        if let ReplicaState::ViewChange(change) = &mut self.state
            && self.cx.writes.last > written
        {
            change.on_appended(&self.cx);
        }
        if self.cx.proven() > before {
            self.cx.commit_what_is_proven();
            self.cx.fetched_epoch();
            self.cx.fetch_epoch();
        }
        true
    }

    /// A source of the state is in a later epoch. Before anything of it is stored, no primary is followed any more that
    /// may lack what it contains.
    pub(super) fn on_piece_of_later_epoch(&mut self, from: MemberId, view: View) {
        if !self.cx.epochs.is_told_of(view.epoch()) {
            return self.cx.ask_epoch(from);
        }
        if self.cx.view.number() <= view.number() {
            self.enter_view_change(View::of(self.cx.epoch(), view.number() + 1));
        }
    }

    /// The engine has a state that was fetched.
    pub(super) fn on_state(&mut self, point: LogPoint, configuration: Option<Box<Configuration>>) {
        assert!(
            !matches!(self.state, ReplicaState::Entering(_) | ReplicaState::Retired(_)),
            "no state is installed at the end of an epoch"
        );
        match configuration.filter(|it| it.epoch > self.cx.epoch()) {
            Some(configuration) => self.adopt_epoch(point, *configuration),
            None => self.rebase_log(point),
        }
    }

    /// The state was replaced by one of a later epoch, or, at a witness, the log begins in that epoch.
    pub(super) fn adopt_epoch(&mut self, point: LogPoint, configuration: Configuration) {
        if matches!(self.state, ReplicaState::Entering(_) | ReplicaState::Forming(_)) {
            return;
        }
        if !self.cx.epochs.is_own_disk(&configuration, self.cx.me) {
            return self.cx.halt(Halt::OtherDisk { epoch: configuration.epoch });
        }
        if let ReplicaState::Primary(primary) = &mut self.state {
            primary.leave(&mut self.cx);
        }
        info!(epoch = %configuration.epoch, "a new epoch, with its state");
        self.cx.epochs.ended = self.cx.epochs.ended.max(self.cx.view.number());
        let seen = self.cx.epochs.seen;
        self.cx.adopt(point, configuration, seen);
        if self.cx.cluster.member(self.cx.me).is_none() {
            self.state = ReplicaState::Retired(Retired::new(self.cx.now.monotonic));
        } else if self.cx.is_voter() && self.cx.view > self.cx.epochs.configuration.first {
            // As after a restart between two views: it does not know whether the view has a primary.
            let persisted = self.cx.writes.last;
            self.state = ReplicaState::ViewChange(ViewChange::new(&mut self.cx, persisted));
        } else {
            // Nobody sends a vote for the first view of an epoch: those that have entered stand in it.
            self.catch_up(self.cx.view);
        }
    }

    // -- the end of the epoch

    /// The stop of the epoch is committed and durable here: reads the change from it.
    pub(super) fn end_epoch(&mut self) {
        let is_taking_part = match self.state {
            ReplicaState::Forming(_) | ReplicaState::Entering(_) | ReplicaState::Retired(_) => false,
            ReplicaState::Primary(_)
            | ReplicaState::Backup(_)
            | ReplicaState::ViewChange(_)
            | ReplicaState::CatchingUp(_) => true,
        };
        let cx = &mut self.cx;
        let Some(stop) = cx.own_stop().filter(|_| is_taking_part && !cx.halted) else { return };
        let is_over = cx.commit == stop.op && cx.log.durable() == stop && !cx.log.is_faulty(stop.op);
        // A state that is being installed may be in a later epoch, which is then adopted with it.
        let waits = cx.transfer.is_rebasing() || cx.transfer.is_installing();
        if !is_over || waits || cx.epochs.stop_asked == Some(stop) {
            return;
        }
        debug!(?stop, epoch = %cx.epoch(), "the epoch is over");
        cx.epochs.stop_asked = Some(stop);
        if let ReplicaState::Primary(primary) = &self.state {
            primary.send_commit(cx);
        }
        cx.outputs.push_back(Output::ReadStop { stop });
    }

    /// Rule M3: the next epoch is made durable before the first message in it.
    pub(super) fn on_stop(&mut self, stop: Anchor, configuration: Configuration) {
        let cx = &mut self.cx;
        if cx.epochs.stop_asked != Some(stop) || matches!(self.state, ReplicaState::Entering(_)) {
            return;
        }
        assert!(configuration.stop == stop, "the entry at the stop was read");
        if !cx.epochs.is_own_disk(&configuration, cx.me) {
            return cx.halt(Halt::OtherDisk { epoch: configuration.epoch });
        }
        if let ReplicaState::Primary(primary) = &mut self.state {
            primary.leave(cx);
        }
        cx.epochs.ended = cx.epochs.ended.max(cx.view.number());
        let written = cx.write_epoch(&configuration);
        self.state = ReplicaState::Entering(Entering { configuration, written });
    }

    /// The next epoch is durable, if this member is entering one.
    pub(super) fn enter_when_durable(&mut self) {
        let ReplicaState::Entering(entering) = &mut self.state else { return };
        if !self.cx.is_durable(entering.written) {
            return;
        }
        let configuration = entering.configuration.clone();
        info!(epoch = %configuration.epoch, members = ?configuration.members.keys(), "a new epoch");
        let before = self.cx.view.number();
        self.cx.enter(configuration);
        self.begin_epoch(before);
    }

    /// The first state in an epoch: normal status in its first view, whose log ends with the stop. `before`: the number
    /// of the view in the epoch before.
    fn begin_epoch(&mut self, before: u64) {
        let cx = &mut self.cx;
        // Rule T4: a source of what is staged may have been in a view of this epoch with a number up to that.
        let may_be_late = cx.transfer.has_pieces() && cx.view.number() < before;
        if may_be_late && !(cx.is_voter() && cx.transfer.stateless) {
            cx.discard_pieces();
        }
        if cx.cluster.member(cx.me).is_none() {
            self.state = ReplicaState::Retired(Retired::new(cx.now.monotonic));
            return;
        }
        let late = (may_be_late && cx.transfer.has_pieces()).then_some(before);
        if let Some(number) = cx.view_to_leave().max(late) {
            // It has the log of the first view. But its primary may lack what was committed later.
            self.enter_view_change(View::of(self.cx.epoch(), number + 1));
        } else if cx.primary() == cx.me {
            self.become_primary();
            if self.cx.transfer.stateless {
                // Rule T9: it lost its state after it was named.
                self.as_primary(|primary, cx| primary.abdicate(cx, "the state is lost"));
            }
        } else {
            self.state = ReplicaState::Backup(Backup::new(cx));
        }
        self.cx.fetch_state();
    }
}
