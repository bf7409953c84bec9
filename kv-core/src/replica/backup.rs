//! A member that follows a primary: Prepare, Commit, monitoring the primary, and requesting the log of a view.

use super::detector::{Detector, PrimaryMonitor, Suspicion};
use super::install::Install;
use super::state::ReplicaState;
use super::{Halt, Replica};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, Round, View};
use crate::message::{Age, Entry, FetchWhat, Fresh, Message, Write};
use tracing::{debug, trace};

/// The content of a primary's `Commit`, except its view.
#[derive(Debug)]
pub(super) struct Heartbeat {
    pub(super) commit: Anchor,
    pub(super) age: Age,
    pub(super) round: Round,
    pub(super) trim: Op,
    pub(super) fresh: Option<Fresh>,
}

#[derive(Debug)]
pub(super) struct Backup {
    pub(super) watch: PrimaryMonitor,
    /// A request to the primary for the entries between the head and a Prepare that arrived too early.
    pub(super) gap: Option<Gap>,
}

/// A request for missed entries.
#[derive(Debug)]
pub(super) struct Gap {
    nonce: u64,
    expires: Instant,
}

#[derive(Debug)]
pub(super) struct CatchingUp {
    pub(super) watch: PrimaryMonitor,
    /// The nonce of every `GetState` in this state, so that a slow answer to an earlier one counts too. Zero before
    /// the first.
    pub(super) nonce: u64,
    pub(super) ask_at: Instant,
    /// The installation, once `StartView` has arrived.
    pub(super) install: Option<Install>,
}

impl Backup {
    /// The nonce of the request for missed entries.
    pub(super) fn gap_nonce(&self) -> Option<u64> {
        self.gap.as_ref().map(|gap| gap.nonce)
    }

    pub(super) fn next_timeout(&self) -> Instant {
        self.watch.next_timeout()
    }
}

impl CatchingUp {
    pub(super) fn next_timeout(&self) -> Instant {
        let ask = self.install.as_ref().map_or(self.ask_at, |install| install.retry_at);
        ask.min(self.watch.next_timeout())
    }
}

impl Replica {
    fn new_detector(&self) -> Detector {
        let options = &self.options;
        Detector::new(
            self.now.monotonic,
            options.heartbeat,
            options.failure_timeout_min,
            options.failure_timeout_max,
        )
    }

    fn new_watch(&self) -> PrimaryMonitor {
        PrimaryMonitor::new(self.new_detector())
    }

    /// Rule V1: the primary of a newly formed cluster may be far away, and has never been heard.
    pub(super) fn become_first_backup(&mut self) {
        let watch = PrimaryMonitor::new(self.new_detector().waiting_for_first());
        self.become_backup();
        if let ReplicaState::Backup(backup) = &mut self.state {
            backup.watch = watch;
        }
    }

    pub(super) fn become_backup(&mut self) {
        debug!(view = %self.view, head = ?self.log.head(), "backup");
        self.attempts = 0;
        self.state = ReplicaState::Backup(Backup { watch: self.new_watch(), gap: None });
    }

    /// Follows the primary of `view`, which is at least the present view. The log of that view is not installed here
    /// yet.
    pub(super) fn become_catching_up(&mut self, view: View) {
        debug!(%view, damaged = self.is_damaged(), "catching up");
        self.leave_primary();
        if view > self.view {
            self.view = view;
            self.write_view(None);
        }
        let now = self.now.monotonic;
        self.state = ReplicaState::CatchingUp(CatchingUp {
            watch: self.new_watch(),
            nonce: 0,
            ask_at: now,
            install: None,
        });
    }

    /// Sends `GetState`: to all members if the primary of the view is this member itself, or may be gone.
    pub(super) fn ask_for_state(&mut self) {
        let nonce = self.nonce();
        let (now, interval, view) = (self.now.monotonic, self.options.failure_timeout_min, self.view);
        let (primary, everyone) = (self.primary(), self.is_damaged());
        let ReplicaState::CatchingUp(catching) = &mut self.state else { return };
        let nonce = if catching.nonce == 0 { nonce } else { catching.nonce };
        catching.nonce = nonce;
        catching.ask_at = now.after(interval);
        let message = Message::GetState { view, nonce };
        if everyone {
            self.broadcast(&message)
        } else if primary != self.me {
            self.send(primary, message)
        }
    }

    pub(super) fn catching_up_timeout(&mut self) {
        self.watch_timeout();
        let now = self.now.monotonic;
        let ReplicaState::CatchingUp(catching) = &mut self.state else { return };
        if catching.install.is_some() {
            self.drive_install();
        } else if now >= catching.ask_at {
            self.ask_for_state();
        }
    }

    // -- monitoring the primary (rules V1, V2)

    /// A sign of life of the primary of this view withdraws this member's vote, and deletes the vote of the primary.
    fn sign_of_life(&mut self) {
        let (now, primary) = (self.now.monotonic, self.primary());
        if let Some(watch) = self.state.watch_mut() {
            watch.heard(now);
            self.votes.withdraw(primary);
        }
    }

    pub(super) fn watch_timeout(&mut self) {
        let now = self.now.monotonic;
        let pause = self.options.heartbeat;
        let Some(watch) = self.state.watch_mut() else { return };
        if let Some(suspicion) = watch.suspicion {
            if now >= suspicion.resend_at {
                self.suspect(suspicion.target);
            }
        } else if watch.is_silent(now, pause) {
            debug!(view = %self.view, silence = ?watch.detector.bound(), "no heartbeat from the primary");
            self.suspect(self.view.next());
        }
    }

    /// Votes to leave the view, in favour of `target`. The member stays in normal status.
    pub(super) fn suspect(&mut self, target: View) {
        let resend_at = self.now.monotonic.after(self.options.heartbeat * 2);
        let target = self.votes.greatest(self.now.monotonic).map_or(target, |wanted| wanted.max(target));
        let Some(vote) = self.state.suspicion_mut() else { return };
        let target = vote.map_or(target, |suspicion| suspicion.target.max(target));
        *vote = Some(Suspicion { target, resend_at });
        self.send_vote(target);
        self.count_votes();
    }

    pub(super) fn on_peer_lost(&mut self, peer: MemberId) {
        if peer == self.primary() && self.state.suspicion_mut().is_some_and(|vote| vote.is_none()) {
            debug!(view = %self.view, "the connection to the primary broke");
            self.suspect(self.view.next());
        }
    }

    // -- normal operation (rules N1 to N6)

    /// Follows the primary of `view`, as its message requires. Returns true if this member is in that view.
    fn follow(&mut self, from: MemberId, view: View) -> bool {
        if view < self.view || from != self.cluster.primary(view) {
            trace!(%from, %view, mine = %self.view, "ignore a message of an older view");
            return false;
        }
        let between = matches!(self.state, ReplicaState::ViewChange(_));
        if view > self.view || between {
            self.become_catching_up(view);
            self.ask_for_state();
            return false;
        }
        self.sign_of_life();
        true
    }

    pub(super) fn on_prepare(&mut self, from: MemberId, view: View, commit: Anchor, entry: Entry) {
        if !self.follow(from, view) || !matches!(self.state, ReplicaState::Backup(_)) {
            return;
        }
        let head = self.log.head();
        let (op, hash) = (entry.header.op, entry.header.hash());
        if op > head.op.next() {
            self.on_gap(op.previous(), entry.header.parent);
        } else if op == head.op.next() {
            if self.log.follows(&entry.header) && entry.header.cluster == self.cluster.id() {
                self.append(vec![entry]);
            } else {
                // Rule N5: once the log of this view is installed, the head is a point of the primary's log.
                self.halt(Halt::Diverged { op: head.op, ours: head.hash, theirs: entry.header.parent });
                return;
            }
        } else if self.log.hash(op).is_some_and(|ours| ours != hash) {
            let ours = self.log.hash(op).unwrap_or_default();
            self.halt(Halt::Diverged { op, ours, theirs: hash });
            return;
        } else if op <= self.log.durable().op {
            self.acknowledge();
        }
        self.note_commit(view, commit);
    }

    /// Entries up to `through` are missing: requests them from the primary.
    fn on_gap(&mut self, through: Op, hash: Hash) {
        let (now, primary) = (self.now.monotonic, self.primary());
        let (nonce, expires) = (self.nonce(), now.after(self.options.heartbeat * 2));
        let ReplicaState::Backup(backup) = &mut self.state else { return };
        if backup.gap.as_ref().is_some_and(|gap| gap.expires > now) {
            return;
        }
        let nonce = backup.gap.as_ref().map_or(nonce, |gap| gap.nonce);
        backup.gap = Some(Gap { nonce, expires });
        let from = self.log.head().op.next();
        let hash = Some(hash);
        self.send(primary, Message::Fetch { from, through, hash, nonce, what: FetchWhat::Entries });
    }

    /// Appends missed entries. The log of a primary only grows within its view, so the entries that it sends after
    /// our head belong to its log.
    pub(super) fn fill_gap(&mut self, from: MemberId, nonce: u64, entries: Vec<Entry>) {
        let primary = self.primary();
        let ReplicaState::Backup(backup) = &mut self.state else { return };
        if from != primary || backup.gap.as_ref().is_none_or(|gap| gap.nonce != nonce) {
            return;
        }
        backup.gap = None;
        self.sign_of_life();
        self.append_run(entries, |_| true);
    }

    /// Appends the entries that follow the head, one by one, as long as `accept` returns true.
    pub(super) fn append_run(&mut self, entries: Vec<Entry>, accept: impl Fn(Anchor) -> bool) {
        let mut run = Vec::new();
        for entry in entries {
            if entry.header.op <= self.log.head().op {
                continue;
            }
            if entry.header.cluster != self.cluster.id()
                || !self.log.follows(&entry.header)
                || self.log.contradicts(entry.header.anchor())
                || !accept(entry.header.anchor())
            {
                break;
            }
            self.log.append(&entry.header);
            self.arrived(&entry);
            run.push(entry);
        }
        self.appended(run);
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        for entry in &entries {
            self.log.append(&entry.header);
            self.arrived(entry);
        }
        self.appended(entries);
    }

    /// Rule N7: a backup of the view in which an entry was made has the entry as soon as possible.
    fn arrived(&mut self, entry: &Entry) {
        let followed = matches!(self.state, ReplicaState::Backup(_)) && entry.header.view == self.view;
        self.entry_arrived(entry.header.anchor(), followed);
    }

    fn appended(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let seq = self.write(Write::Append(entries));
        self.log.appended(seq);
        self.commit_by_pipeline();
    }

    /// Rule N4: acknowledges to the primary what is durable here, in the log of this view.
    pub(super) fn acknowledge(&mut self) {
        let primary = self.primary();
        if primary != self.me && !self.transfer.is_rebasing() {
            let message = Message::PrepareOk { view: self.view, log: self.durable_prefix() };
            self.send(primary, message);
        }
    }

    /// Rule N5: a commit point counts only if this member's log is known to be the log that it belongs to.
    fn note_commit(&mut self, view: View, commit: Anchor) {
        let head = self.log.head().op;
        if commit.op <= self.log.floor() {
            return;
        }
        match self.log.hash(commit.op) {
            Some(ours) if ours == commit.hash => self.advance_commit(commit.op),
            Some(ours) if self.log_view == view || commit.op <= self.commit => {
                self.halt(Halt::Diverged { op: commit.op, ours, theirs: commit.hash });
            }
            None if self.log_view == view => self.advance_commit(head.min(commit.op)),
            Some(_) | None => {}
        }
    }

    pub(super) fn on_commit(&mut self, from: MemberId, view: View, heartbeat: Heartbeat) {
        let Heartbeat { commit, age, round, trim, fresh } = heartbeat;
        if self.log.holds(commit) {
            self.on_age(from, commit, age);
        }
        if let Some(fresh) = fresh {
            self.on_fresh(fresh);
        }
        if !self.follow(from, view) {
            return;
        }
        self.note_commit(view, commit);
        if self.halted {
            return;
        }
        let installed = matches!(self.state, ReplicaState::Backup(_));
        if installed {
            self.checkpoint_of_witness();
            self.on_trim(trim);
        }
        let log = (installed && !self.transfer.is_rebasing()).then(|| self.durable_prefix());
        let checkpoint = self.reported_checkpoint();
        self.promise();
        let sent = self.moment();
        self.send(from, Message::CommitOk { view, round, log, checkpoint, sent });
    }

    /// Rule N3: an entry exists only if everything more than one pipeline below it is committed.
    pub(super) fn commit_by_pipeline(&mut self) {
        let op = self.log.head().op.back(u64::from(self.options.pipeline_depth));
        if op > self.commit {
            self.advance_commit(op);
        }
    }
}
