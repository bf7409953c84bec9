//! State transfer (rules T1 to T9). A member that needs entries which its peers have dropped, or that has no state,
//! fetches the state at a checkpoint of one of them. The driver handles the content of the pieces, and stores them
//! until the state is complete.
//!
//! ```text
//! TooOld --> GetSnapshot <--> SnapshotChunk --> StageChunk (driver) --> Staged
//!            all staged --> InstallSnapshot (driver) --> SnapshotInstalled --> rebase_log
//! ```
//! One run has one nonce and one anchor, and accepts a piece from any sender. A run is ended only by its own lack of
//! progress.

use super::{Context, Halt, Output};
use crate::config::Role;
use crate::ids::{Anchor, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{Chunk, ChunkEnd, LogPoint, Message};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, info, warn};

/// How many pieces may wait to be stored before the next one is requested.
const UNSTAGED: u32 = 2;

/// How often the receiver sends a sign of life to all sources, so that they keep the entries that it will need. Well
/// below [`HOLD`](super::serve::HOLD).
const SHOW_LIFE: Duration = Duration::from_secs(5);

/// This member stops after all data members have reported this many times in a row that they have no state.
const MOST_FRUITLESS: u32 = 40;

/// After all sources were unusable this many times, this member reports that it lacks what its log has dropped.
const MOST_ROUNDS: u32 = 10;

/// The longest time without a piece after which a snapshot is given up, if some source no longer has it.
const MOST_STALL: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(crate) struct Transfer {
    /// There is no state here, so this member cannot be primary.
    pub(crate) stateless: bool,
    /// The part of a snapshot that the driver has stored, in this life or an earlier one.
    staged: Option<Staged>,
    pub(super) run: Option<Run>,
    /// How long a run may make no progress before it restarts, if a source has answered that it no longer has the
    /// snapshot. Doubles each time, so that a transfer completes however slow its sources are.
    stall: Duration,
    /// How often all data members have answered that they have neither a state nor, in a damaged one, the parts that
    /// are missing here.
    fruitless: u32,
    /// How often all sources were unusable since the last state arrived.
    rounds: u32,
    /// The write of the present view. Nothing of a state is stored before it is durable (rule T4).
    pub(crate) joined: WriteSeq,
    /// The write that rebases the log, until it is durable. Nothing is reported about the log before that.
    pub(crate) rebasing: Option<WriteSeq>,
    /// Until this time, messages that the primary sent unasked may be about the log before the last snapshot was
    /// installed.
    pub(crate) settled_at: Instant,
    /// As a source: the checkpoints that peers fetch. They will need the entries after them next.
    pub(crate) held: BTreeMap<MemberId, (Op, Instant)>,
}

/// A part of a snapshot that is durably staged.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Staged {
    at: Anchor,
    end: ChunkEnd,
}

/// A transfer in progress. It continues across views, because committed entries stay committed.
#[derive(Debug)]
pub(super) struct Run {
    /// Whom to ask next: the member that sent the last piece.
    source: MemberId,
    /// The member that sent the first piece, and so chose the anchor. Another one chooses next time.
    origin: MemberId,
    /// The nonce of all its requests, so that a slow answer to an earlier one counts too.
    nonce: u64,
    /// Known from the first piece on.
    at: Option<Anchor>,
    /// The peers have dropped the entries below this op, so an older state is not usable.
    least: Op,
    /// Where the next piece begins.
    next: Bytes,
    complete: bool,
    /// The number of pieces that the driver has not reported yet.
    unstaged: u32,
    installing: bool,
    /// How long an answer may take. Doubles while none arrives.
    patience: Duration,
    retry_at: Instant,
    /// When the next sign of life is sent to the sources.
    show_life_at: Instant,
    /// When the last piece arrived.
    moved_at: Instant,
    /// Which members have answered since then that they lack the snapshot, or that piece, and whether they have a state
    /// at all.
    gone: BTreeMap<MemberId, bool>,
}

impl Transfer {
    /// Starts with the part of a snapshot that an earlier life has stored.
    pub(crate) fn new(stateless: bool, staged: Option<(Anchor, ChunkEnd)>) -> Self {
        let staged = staged.map(|(at, end)| Staged { at, end });
        Self { stateless, staged, ..Self::default() }
    }

    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.run.as_ref().map(|run| run.retry_at.min(run.show_life_at))
    }

    /// The entries that peers which fetch a snapshot will need next.
    pub(crate) fn holds_above(&self, now: Instant) -> Option<Op> {
        self.held.values().filter(|(_, until)| *until > now).map(|(op, _)| *op).min()
    }

    /// Returns whether the log has been rebased and that is not durable yet.
    pub(crate) const fn is_rebasing(&self) -> bool {
        self.rebasing.is_some()
    }

    /// Whether pieces of a snapshot are stored.
    pub(crate) const fn has_pieces(&self) -> bool {
        self.staged.is_some()
    }

    /// Whether the engine is replacing its state by what was fetched.
    pub(crate) fn is_installing(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.installing)
    }

    /// Returns whether a snapshot is being fetched.
    pub(crate) const fn is_running(&self) -> bool {
        self.run.is_some()
    }
}

/// What became of a piece of a snapshot.
#[derive(Debug)]
pub(crate) enum ChunkOutcome {
    /// It was taken, or dropped.
    Done,
    /// Rule T4: its source is in a newer view. The member must be durably in that view before it takes the piece.
    NewerView,
    /// The same, of a source in a later epoch.
    LaterEpoch,
    /// The snapshot is not usable here.
    Unusable,
}

/// A source has answered that it lacks a piece.
#[derive(Debug)]
pub(crate) struct SnapshotGone {
    /// The source that the piece was requested from last has answered.
    is_current: bool,
    /// All sources lack it. They are asked for newer snapshots.
    everywhere: Option<Vec<MemberId>>,
    /// All sources were unusable so often that this member reports what its log has dropped.
    pub(crate) is_hopeless: bool,
}

impl Context {
    // -- as a receiver

    /// The own state is damaged. Any state that the own log continues is needed now.
    pub(crate) fn lose_state(&mut self) {
        warn!("the state is damaged: fetching another from a peer");
        self.transfer.stateless = true;
        self.transfer.run = None;
        self.forget_digests();
    }

    /// Rule T9: without a state, this member requests one at once, and again until it has one. Rule T6: if an earlier
    /// life has stored a whole snapshot, it only remains to install it; it may be the only copy.
    pub(crate) fn fetch_state(&mut self) {
        let staged = self.transfer.staged.as_ref();
        let is_whole = staged.is_some_and(|staged| staged.end == ChunkEnd::Last && self.is_usable(staged.at));
        let source = self.data_peers().next();
        if let Some(source) = source.filter(|_| self.transfer.stateless || is_whole) {
            self.begin_transfer(source, Op::ZERO);
        }
    }

    pub(crate) fn begin_transfer(&mut self, source: MemberId, least: Op) {
        // A member that was removed needs no state any more.
        if self.transfer.is_running() || self.cluster.member(self.me).is_none() {
            return;
        }
        let Some(source) =
            self.data_peers().find(|peer| *peer == source).or_else(|| self.data_peers().next())
        else {
            return;
        };
        let staged = self.transfer.staged.clone().filter(|staged| self.is_usable(staged.at));
        let (at, next, complete) = match staged {
            Some(Staged { at, end: ChunkEnd::More(next) }) => (Some(at), next, false),
            Some(Staged { at, end: ChunkEnd::Last }) => (Some(at), Bytes::new(), true),
            None => (None, Bytes::new(), false),
        };
        info!(%source, ?at, complete, "state transfer begins");
        let nonce = self.nonce();
        let now = self.now.monotonic;
        self.transfer.stall = self.options.failure_timeout_max * 4;
        self.transfer.run = Some(Run {
            source,
            origin: source,
            nonce,
            at,
            least,
            next,
            complete,
            unstaged: 0,
            installing: false,
            patience: self.options.failure_timeout_min,
            retry_at: now,
            show_life_at: now.after(SHOW_LIFE),
            moved_at: now,
            gone: BTreeMap::new(),
        });
        self.ask_for_more();
    }

    /// Rule T7: whether this member fetches a state because its own cannot get as far as the commit point.
    pub(crate) fn fetches_to_go_on(&self) -> bool {
        self.transfer.is_running() && self.is_stuck_below(self.commit)
    }

    /// Returns whether this member may still get a state that covers what its log has dropped: all of it is stored
    /// here, or sources remain.
    pub(crate) fn may_get_state(&self) -> bool {
        let is_whole = self.transfer.run.as_ref().is_some_and(|run| run.complete);
        let fetches = self.transfer.stateless || self.transfer.is_running();
        is_whole || (fetches && self.transfer.rounds < MOST_ROUNDS)
    }

    /// Whether a state at that point is usable: it goes further than the own state can, and the log continues from it.
    pub(crate) fn is_usable(&self, at: Anchor) -> bool {
        if at.op > self.commit {
            return true;
        }
        let is_needed =
            if self.transfer.stateless { at.op >= self.trimmed() } else { self.is_stuck_below(at.op) };
        is_needed && self.log.holds(at)
    }

    fn data_peers(&self) -> impl Iterator<Item = MemberId> {
        let primary = self.primary();
        if let Some(sources) = self.epochs.data_sources() {
            // The members of the own epoch may all be gone, or lack what is needed.
            return sources.into_iter();
        }
        let mut peers: Vec<MemberId> =
            self.cluster.peers(self.me).filter(|peer| peer.role == Role::Data).map(|peer| peer.id).collect();
        peers.sort_by_key(|peer| (*peer != primary, !self.cluster.is_voter(*peer), *peer));
        peers.into_iter()
    }

    /// The members that pieces are requested from. The state that is set aside here may have some that a peer lacks.
    fn piece_sources(&self) -> Vec<MemberId> {
        let own = self.transfer.stateless.then_some(self.me);
        self.data_peers().chain(own).collect()
    }

    fn ask_for_piece(&mut self, source: MemberId, nonce: u64, at: Option<Anchor>, after: Bytes) {
        if source == self.me {
            self.outputs.push_back(Output::ReadSnapshot { to: source, nonce, at, after });
        } else {
            self.send(source, Message::GetSnapshot { nonce, at, after: Some(after) });
        }
    }

    /// The snapshot of a source is not usable, or not complete. Asks it for another checkpoint, at the last op that it
    /// knows as committed.
    fn request_newer_checkpoint(&mut self, source: MemberId) {
        let Some(run) = &self.transfer.run else { return };
        let nonce = run.nonce;
        if source == self.me {
            self.outputs.push_back(Output::MakeCheckpoint);
        } else {
            self.send(source, Message::GetSnapshot { nonce, at: None, after: None });
        }
    }

    /// Takes the next step of the transfer: requests the next piece, or installs the snapshot.
    fn ask_for_more(&mut self) {
        let now = self.now.monotonic;
        let Some(run) = &mut self.transfer.run else { return };
        run.retry_at = now.after(run.patience);
        match run.at {
            Some(at) if run.complete && run.unstaged == 0 && !run.installing => {
                if self.epochs.stop_asked.is_some() {
                    // This member is about to enter the next epoch, and looks again then.
                    return;
                }
                run.installing = true;
                self.outputs.push_back(Output::InstallSnapshot { at });
            }
            at if !run.complete && run.unstaged < UNSTAGED => {
                let (source, nonce, after) = (run.source, run.nonce, run.next.clone());
                self.ask_for_piece(source, nonce, at, after);
            }
            _ => {}
        }
    }

    /// A piece of a peer's state, or of the state that is set aside here.
    pub(crate) fn on_snapshot_chunk(
        &mut self,
        from: MemberId,
        nonce: u64,
        view: View,
        at: Anchor,
        chunk: Chunk,
    ) -> ChunkOutcome {
        let now = self.now.monotonic;
        let useful = self.is_usable(at);
        let patience = self.options.failure_timeout_min;
        let joined = self.is_durable(self.transfer.joined);
        let epoch = self.epoch();
        let asked = |run: &&mut Run| {
            let is_next = chunk.after == run.next && run.at.is_none_or(|begun| begun == at);
            run.nonce == nonce && !run.complete && is_next
        };
        let Some(run) = self.transfer.run.as_mut().filter(asked) else { return ChunkOutcome::Done };
        if view.epoch() > epoch && !self.epochs.is_prepared_for(view, self.view) {
            run.moved_at = now;
            return ChunkOutcome::LaterEpoch;
        }
        if view > self.view && view.epoch() == epoch {
            // The piece is requested again.
            run.moved_at = now;
            debug!(%from, %view, mine = %self.view, "the source of the state is in a newer view");
            return ChunkOutcome::NewerView;
        }
        if !joined {
            return ChunkOutcome::Done;
        }
        if run.at.is_none() && (!useful || at.op < run.least) {
            // Its sender may be behind as well. The snapshots of others may be usable.
            debug!(%from, ?at, "cannot use this snapshot");
            return self.on_unusable_snapshot(from);
        }
        if !useful {
            debug!(?at, "cannot use the snapshot any more");
            self.give_up_snapshot();
            return ChunkOutcome::Done;
        }
        if run.at.is_none() {
            run.origin = from;
        }
        self.epochs.seen = self.epochs.seen.max(view);
        run.at = Some(at);
        run.unstaged += 1;
        (run.source, run.patience, run.moved_at) = (from, patience, now);
        run.gone.clear();
        match &chunk.end {
            ChunkEnd::More(next) => run.next = next.clone(),
            ChunkEnd::Last => run.complete = true,
        }
        self.outputs.push_back(Output::StageChunk { at, chunk });
        self.ask_for_more();
        ChunkOutcome::Done
    }

    /// The first piece of a snapshot was not usable. If all sources have only such snapshots, the missing entries may
    /// have arrived.
    fn on_unusable_snapshot(&mut self, from: MemberId) -> ChunkOutcome {
        self.request_newer_checkpoint(from);
        let mut others = self.piece_sources().into_iter().filter(|source| *source != from);
        let is_gone = |source| self.transfer.run.as_ref().is_some_and(|run| run.gone.contains_key(&source));
        if !self.transfer.stateless && others.all(is_gone) {
            self.transfer.run = None;
            return ChunkOutcome::Done;
        }
        ChunkOutcome::Unusable
    }

    /// A source does not have the snapshot, or no longer has it. One that is busy or cannot be reached may still have
    /// it. `None` if the answer is not awaited; otherwise call [`Self::ask_others`] next.
    pub(crate) fn on_snapshot_gone(
        &mut self,
        from: MemberId,
        nonce: u64,
        stateless: bool,
    ) -> Option<SnapshotGone> {
        let sources = self.piece_sources();
        // A member that has the whole snapshot needs no source.
        let asked = |run: &&mut Run| run.nonce == nonce && !run.complete;
        let run = self.transfer.run.as_mut().filter(asked)?;
        run.gone.insert(from, stateless);
        let everywhere = sources.iter().all(|source| run.gone.contains_key(source));
        let nowhere = everywhere && run.gone.values().all(|stateless| *stateless);
        let is_current = run.source == from;
        if everywhere {
            run.gone.clear();
            self.transfer.rounds = self.transfer.rounds.saturating_add(1);
            // Rule T9b: a member that has a state, or the missing part, ends the count.
            self.transfer.fruitless = if nowhere { self.transfer.fruitless + 1 } else { 0 };
            if self.transfer.stateless && self.transfer.fruitless > MOST_FRUITLESS {
                self.halt(Halt::NoState);
                return None;
            }
        }
        let is_hopeless = everywhere && self.transfer.rounds == MOST_ROUNDS;
        Some(SnapshotGone { is_current, everywhere: everywhere.then_some(sources), is_hopeless })
    }

    /// Asks other sources, because one lacks the snapshot.
    pub(crate) fn ask_others(&mut self, gone: SnapshotGone) {
        let begun = self.transfer.run.as_ref().is_some_and(|run| run.at.is_some());
        match gone.everywhere {
            Some(sources) if begun => {
                debug!("no member has the snapshot any more: starting over");
                sources.into_iter().for_each(|source| self.request_newer_checkpoint(source));
                self.restart_transfer();
            }
            // No transfer has begun: a peer that has nothing yet may have something soon. Ask again later.
            Some(_) => {}
            None if gone.is_current => {
                self.next_source();
                self.ask_for_more();
            }
            None => {}
        }
    }

    /// The next source in turn that has not answered that it lacks the piece, or if all have, the next one.
    fn next_source(&mut self) {
        let sources = self.piece_sources();
        let Some(run) = &mut self.transfer.run else { return };
        let at = sources.iter().position(|source| *source == run.source).map_or(0, |at| at + 1);
        let in_turn = || sources.iter().cycle().skip(at).take(sources.len()).copied();
        let next = in_turn().find(|source| !run.gone.contains_key(source)).or_else(|| in_turn().next());
        run.source = next.unwrap_or(run.source);
    }

    /// The transfer is not usable: starts another one if a state is needed in any case.
    fn give_up_snapshot(&mut self) {
        if self.transfer.stateless { self.restart_transfer() } else { self.transfer.run = None }
    }

    fn restart_transfer(&mut self) {
        self.transfer.staged = None;
        let patience = (self.options.failure_timeout_min * 2).min(self.options.failure_timeout_max);
        let now = self.now.monotonic;
        let nonce = self.nonce();
        let Some(run) = &mut self.transfer.run else { return };
        (run.at, run.next, run.complete, run.installing) = (None, Bytes::new(), false, false);
        run.source = run.origin;
        (run.unstaged, run.nonce, run.moved_at) = (0, nonce, now);
        run.gone.clear();
        run.patience = patience;
        // Not at once: a peer that has nothing yet may have something soon.
        run.retry_at = now.after(patience);
    }

    /// The driver has stored a snapshot up to this point.
    pub(crate) fn on_staged(&mut self, at: Anchor, end: ChunkEnd) {
        self.transfer.staged = Some(Staged { at, end });
        if let Some(run) = self.transfer.run.as_mut().filter(|run| run.at == Some(at)) {
            run.unstaged = run.unstaged.saturating_sub(1);
            self.ask_for_more();
        }
        self.discard_outdated_snapshot();
    }

    /// Rule T6: the own state is durably as far as the stored snapshot, so even a restart would continue from beyond
    /// it.
    pub(crate) fn discard_outdated_snapshot(&mut self) {
        let (checkpoint, wanted) = (self.checkpoint, self.transfer.is_running() || self.transfer.stateless);
        let staged = &mut self.transfer.staged;
        if let Some(Staged { at, .. }) = staged.take_if(|staged| !wanted && staged.at.op <= checkpoint) {
            debug!(?at, "discarding the stored part of a snapshot: it is not needed any more");
            self.outputs.push_back(Output::DiscardSnapshot { at });
        }
    }

    /// Discards the stored part of a snapshot: it may be of a later view than this member is in.
    pub(crate) fn discard_pieces(&mut self) {
        if let Some(Staged { at, .. }) = self.transfer.staged.take() {
            debug!(?at, "discarding the stored part of a snapshot: it may be of a later view");
            self.outputs.push_back(Output::DiscardSnapshot { at });
        }
    }

    /// The driver has discarded its part of a snapshot: it could not be verified, or did not fit.
    pub(crate) fn on_snapshot_refused(&mut self, at: Anchor) {
        warn!(?at, "discarded a snapshot: it did not verify, or is not needed");
        self.transfer.staged = None;
        let run = self.transfer.run.as_ref();
        // The snapshot that an earlier life stored may not be needed: no member has reported yet that entries were
        // dropped.
        let is_needed = self.transfer.stateless || run.is_some_and(|run| run.least > Op::ZERO);
        if !is_needed || !self.is_usable(at) {
            self.give_up_snapshot();
        } else {
            self.restart_transfer();
            self.next_source();
        }
    }

    pub(crate) fn transfer_timeout(&mut self) {
        let now = self.now.monotonic;
        let most = self.options.failure_timeout_max;
        let useless = |run: &Run| run.at.is_some_and(|at| !self.is_usable(at)) && !run.installing;
        if self.transfer.run.as_ref().is_some_and(useless) {
            self.give_up_snapshot();
        }
        self.show_life();
        let Some(run) = self.transfer.run.as_mut().filter(|run| now >= run.retry_at) else { return };
        if run.complete || run.unstaged >= UNSTAGED {
            // The own disk is working, and may take its time.
            run.retry_at = now.after(most);
            return;
        }
        run.patience = (run.patience * 2).min(most);
        if !run.gone.is_empty() && now.since(run.moved_at) > self.transfer.stall {
            if run.at.is_some() {
                debug!(at = ?run.at, "no member that has the snapshot answers: fetch another one");
                self.transfer.stall = (self.transfer.stall * 2).min(MOST_STALL);
                self.restart_transfer();
            } else {
                // A member that had nothing of use may have a snapshot by now, and all others may be down for good.
                run.gone.clear();
                run.moved_at = now;
                // The member that reported how far a state must go may be down too: one that goes less far may be the
                // only one left.
                run.least = run.least.min(Op::ZERO.next());
            }
        }
        self.next_source();
        self.ask_for_more();
    }

    /// Rule T8: sends a sign of life to all sources that keep the entries after the snapshot. It costs them nothing
    /// else.
    fn show_life(&mut self) {
        let now = self.now.monotonic;
        let Some(run) = self.transfer.run.as_mut().filter(|run| now >= run.show_life_at) else { return };
        run.show_life_at = now.after(SHOW_LIFE);
        let (nonce, at) = (run.nonce, run.at);
        if at.is_some() {
            for peer in self.data_peers().collect::<Vec<_>>() {
                self.send(peer, Message::GetSnapshot { nonce, at, after: None });
            }
        }
    }

    // -- the switch

    /// The state of the engine is durably the one at this point (rule T2).
    pub(crate) fn on_snapshot_installed(&mut self, point: LogPoint) {
        self.transfer.run = None;
        self.transfer.staged = None;
        self.transfer.stateless = false;
        (self.transfer.fruitless, self.transfer.rounds) = (0, 0);
        self.transfer.settled_at = self.now.monotonic.after(self.options.failure_timeout_max);
        self.forget_digests();
        info!(?point, "a state was transferred");
    }
}
