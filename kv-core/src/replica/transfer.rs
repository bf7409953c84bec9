//! State transfer (rules T1 to T9): a member that needs entries which its peers have dropped, or that has no state of its own,
//! fetches the state at one of their checkpoints. The contents of the pieces are the driver's business, and so is where they are kept
//! until they are whole.
//!
//! ```text
//! TooOld --> GetSnapshot <--> SnapshotChunk --> StageChunk (driver) --> Staged
//!            all staged --> InstallSnapshot (driver) --> SnapshotInstalled --> adopt
//! ```
//! One run has one nonce and one anchor; a piece is welcome from whoever sends it. The only clock that can end a run is that of its progress.

use super::state::State;
use super::{Halt, Output, Replica};
use crate::config::Role;
use crate::ids::{Anchor, Instant, MemberId, Op, View, WriteSeq};
use crate::message::{Adoption, Chunk, ChunkEnd, LogPoint, Message, Write};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, info, warn};

/// How many pieces may be on their way to the disk before the next is asked for.
const UNSTAGED: u32 = 2;

/// How often the receiver shows life to all sources, so that they keep those entries. Well below [`HOLD`](super::serve::HOLD).
const SHOW_LIFE: Duration = Duration::from_secs(5);

/// So often all data members may have reported in a row that they have no state, and none has led to one, before this member stops.
const MOST_FRUITLESS: u32 = 40;

/// So often all sources may have been of no use, one after the other, before this member reports that it lacks what its log has dropped.
const MOST_ROUNDS: u32 = 10;

/// The longest time without a piece after which a snapshot that some source no longer has is given up.
const MOST_STALL: Duration = Duration::from_secs(600);

#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// There is no state here: this member cannot be primary.
    pub(super) stateless: bool,
    /// What the driver holds of a snapshot, from this life or an earlier one.
    staged: Option<Staged>,
    run: Option<Run>,
    /// How long a run may go without progress before it begins anew, if a source has answered that it no longer has the snapshot. Doubles
    /// with each time, so that a transfer is finished however slow its sources are.
    stall: Duration,
    /// How often all data members have answered that they have neither a state nor, of a damaged one, what is missing here.
    fruitless: u32,
    /// How often all sources have had nothing of use since the last state came.
    rounds: u32,
    /// The write of the view that a source was in: nothing of its state is stored before.
    joined: WriteSeq,
    /// The write with which the log came to stand on another point, until it is durable: nothing is reported about the log before.
    adopting: Option<WriteSeq>,
    /// Until then, what the primary sends unasked may be about the log before the last snapshot was in place.
    settled_at: Instant,
    /// As a source: the checkpoints that peers fetch. What comes after them is needed next.
    pub(super) held: BTreeMap<MemberId, (Op, Instant)>,
}

/// A part of a snapshot that is safe in staging.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Staged {
    at: Anchor,
    end: ChunkEnd,
}

/// A transfer under way. It outlives views: what is committed stays so.
#[derive(Debug)]
struct Run {
    /// Who is asked next; whoever has sent the last piece.
    source: MemberId,
    /// Who has sent the first piece, and so chosen the anchor: another one chooses next.
    origin: MemberId,
    /// Of all its requests, so that a slow answer to an earlier one counts too.
    nonce: u64,
    /// Known from the first piece on.
    at: Option<Anchor>,
    /// Below it entries are gone: a state that is not as far leads nowhere.
    least: Op,
    /// Where the next piece begins.
    next: Bytes,
    complete: bool,
    /// Pieces that the driver has not reported.
    unstaged: u32,
    installing: bool,
    /// How long an answer may take; doubles while none comes.
    patience: Duration,
    retry_at: Instant,
    /// When the sources are next shown life.
    show_life_at: Instant,
    /// When the last piece came.
    moved_at: Instant,
    /// Who has answered since then that it does not have the snapshot, or not that piece, and whether it has a state at all.
    gone: BTreeMap<MemberId, bool>,
}

impl Transfer {
    /// With what an earlier life has stored of a snapshot.
    pub(super) fn new(stateless: bool, staged: Option<(Anchor, ChunkEnd)>) -> Self {
        let staged = staged.map(|(at, end)| Staged { at, end });
        Self { stateless, staged, ..Self::default() }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.run.as_ref().map(|run| run.retry_at.min(run.show_life_at))
    }

    /// What peers that fetch a snapshot will ask for next.
    pub(super) fn holds_above(&self, now: Instant) -> Option<Op> {
        self.held.values().filter(|(_, until)| *until > now).map(|(op, _)| *op).min()
    }

    /// Whether the log stands on another point, and that is not durable yet.
    pub(super) const fn is_adopting(&self) -> bool {
        self.adopting.is_some()
    }

    /// Whether a snapshot is on its way here.
    pub(super) const fn is_running(&self) -> bool {
        self.run.is_some()
    }
}

impl Replica {
    /// Whether a state is being fetched: until it is whole, this member is behind and cannot be primary.
    #[cfg(feature = "internals")]
    #[must_use]
    pub const fn is_transferring(&self) -> bool {
        self.transfer.is_running()
    }

    // -- as a receiver

    /// The own state is damaged: what is needed now is any state that the own log goes on from.
    pub(super) fn on_state_lost(&mut self) {
        warn!("the state is damaged: fetching another from a peer");
        self.transfer.stateless = true;
        self.transfer.run = None;
        self.forget_digests();
        if matches!(self.state, State::Primary(_)) {
            self.abdicate("the state is lost");
        }
        self.fetch_state();
    }

    /// Whether this data member has no state, and is fetching another.
    #[must_use]
    pub const fn has_lost_state(&self) -> bool {
        self.transfer.stateless
    }

    /// Rule T9: without a state, this member asks for one at once, and again until it has one. Rule T6: if an earlier life had all of a
    /// snapshot, it only remains to install it; it may be the only copy.
    pub(super) fn fetch_state(&mut self) {
        let staged = self.transfer.staged.as_ref();
        let is_whole = staged.is_some_and(|staged| staged.end == ChunkEnd::Last && self.is_useful(staged.at));
        let source = self.data_peers().next();
        if let Some(source) = source.filter(|_| self.transfer.stateless || is_whole) {
            self.begin_transfer(source, Op::ZERO);
        }
    }

    pub(super) fn on_too_old(
        &mut self,
        from: MemberId,
        nonce: u64,
        checkpoint: LogPoint,
        primary_of: Option<View>,
    ) {
        let leads = primary_of == Some(self.view) && from == self.primary();
        let settled = self.now.monotonic >= self.transfer.settled_at;
        let asked = match &self.state {
            State::Backup(backup) => (leads && settled) || backup.gap_nonce() == Some(nonce),
            State::CatchingUp(_) | State::ViewChange(_) => {
                self.state.install_mut().is_some_and(|install| install.has_nonce(nonce))
            }
            State::Forming(_) | State::Primary(_) => false,
        };
        if !asked || checkpoint.anchor.op <= self.commit || self.transfer.is_running() {
            return;
        }
        debug!(%from, ?checkpoint, head = ?self.log.head(), "what is needed next is gone there");
        if self.is_witness() {
            // Rule T9c: it has no state to fetch. The word of a normal primary is enough: what it has checkpointed is committed.
            if leads {
                self.adopt(checkpoint);
            }
            return;
        }
        self.begin_transfer(from, checkpoint.anchor.op);
        self.forfeit();
    }

    /// Rule T7: a new primary that must fetch a state lets the view pass to another: at once, until all have had their turn in vain.
    pub(super) fn forfeit(&mut self) {
        let all_were_tried = self.attempts as usize > self.cluster.len();
        let (leads, soon) =
            (self.primary() == self.me, self.now.monotonic.after(self.options.failure_timeout_min));
        let State::ViewChange(change) = &mut self.state else { return };
        if !leads || change.suspicion.is_some() {
            return;
        }
        if all_were_tried {
            change.leave_by(soon);
        } else {
            info!(view = %self.view, "too far behind to be primary");
            self.suspect(self.view.next());
        }
    }

    fn begin_transfer(&mut self, source: MemberId, least: Op) {
        if self.transfer.is_running() {
            return;
        }
        let Some(source) =
            self.data_peers().find(|peer| *peer == source).or_else(|| self.data_peers().next())
        else {
            return;
        };
        let staged = self.transfer.staged.clone().filter(|staged| self.is_useful(staged.at));
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

    /// Whether there may still be a state for this member, which stands for what its log has dropped: all of one is here, or sources have
    /// not been asked often enough.
    pub(super) fn may_get_state(&self) -> bool {
        let is_whole = self.transfer.run.as_ref().is_some_and(|run| run.complete);
        let fetches = self.transfer.stateless || self.transfer.is_running();
        is_whole || (fetches && self.transfer.rounds < MOST_ROUNDS)
    }

    /// Whether a state at that point would be of use: the log must go on from it.
    fn is_useful(&self, at: Anchor) -> bool {
        if self.transfer.stateless {
            at.op > self.commit || (self.log.holds(at) && at.op >= self.trimmed())
        } else {
            at.op > self.commit
        }
    }

    fn data_peers(&self) -> impl Iterator<Item = MemberId> {
        let primary = self.primary();
        let mut peers: Vec<MemberId> =
            self.cluster.peers(self.me).filter(|peer| peer.role == Role::Data).map(|peer| peer.id).collect();
        peers.sort_by_key(|peer| (*peer != primary, *peer));
        peers.into_iter()
    }

    /// Whom pieces are asked of. What is set aside here may have some that a peer has not.
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

    /// What a source has is of no use, or not enough: it makes another checkpoint, at the last op that it knows to be committed.
    fn want_another(&mut self, source: MemberId) {
        let Some(run) = &self.transfer.run else { return };
        let nonce = run.nonce;
        if source == self.me {
            self.outputs.push_back(Output::MakeCheckpoint);
        } else {
            self.send(source, Message::GetSnapshot { nonce, at: None, after: None });
        }
    }

    /// A piece of a peer's state or of what is set aside here, or that it is not there.
    pub(super) fn on_piece(&mut self, from: MemberId, piece: Message) {
        match piece {
            Message::SnapshotChunk { nonce, view, at, chunk } => {
                self.on_snapshot_chunk(from, nonce, view, at, chunk);
            }
            Message::SnapshotGone { nonce, stateless } => self.on_snapshot_gone(from, nonce, stateless),
            _ => {}
        }
    }

    /// Does what the transfer needs next: the next piece, or the switch.
    fn ask_for_more(&mut self) {
        let now = self.now.monotonic;
        let Some(run) = &mut self.transfer.run else { return };
        run.retry_at = now.after(run.patience);
        match run.at {
            Some(at) if run.complete && run.unstaged == 0 && !run.installing => {
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

    fn on_snapshot_chunk(&mut self, from: MemberId, nonce: u64, view: View, at: Anchor, chunk: Chunk) {
        let now = self.now.monotonic;
        let useful = self.is_useful(at);
        let patience = self.options.failure_timeout_min;
        let Some(run) = self.transfer.run.as_mut().filter(|run| run.nonce == nonce) else { return };
        if run.complete || chunk.after != run.next || run.at.is_some_and(|begun| begun != at) {
            return;
        }
        if view > self.view {
            // Rule T4: whoever knows what a view has committed is in that view, or a later one, durably. The piece is asked for again.
            run.moved_at = now;
            debug!(%from, %view, mine = %self.view, "the source of the state is in a newer view");
            self.enter_view_change(view);
            self.transfer.joined = self.writes.last;
            return;
        }
        if !self.is_durable(self.transfer.joined) {
            return;
        }
        let Some(run) = &mut self.transfer.run else { return };
        if run.at.is_none() && (!useful || at.op < run.least) {
            // Its sender may be behind as well. What others send may be of use.
            debug!(%from, ?at, "this snapshot is of no use");
            return self.on_useless_snapshot(from, nonce);
        }
        if !useful {
            debug!(?at, "the snapshot is of no use any more");
            return self.give_up_snapshot();
        }
        if run.at.is_none() {
            run.origin = from;
        }
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
    }

    /// A snapshot that could not be begun with. If all are like that, what is needed may have come by entries.
    fn on_useless_snapshot(&mut self, from: MemberId, nonce: u64) {
        self.want_another(from);
        let mut others = self.piece_sources().into_iter().filter(|source| *source != from);
        let Some(run) = &self.transfer.run else { return };
        if !self.transfer.stateless && others.all(|source| run.gone.contains_key(&source)) {
            self.transfer.run = None;
        } else {
            self.on_snapshot_gone(from, nonce, false);
        }
    }

    /// A source does not have the snapshot (any more). One that is busy, or cannot be reached, may still have it.
    fn on_snapshot_gone(&mut self, from: MemberId, nonce: u64, stateless: bool) {
        let sources = self.piece_sources();
        // Who has all of it needs no source any more.
        let asked = |run: &&mut Run| run.nonce == nonce && !run.complete;
        let Some(run) = self.transfer.run.as_mut().filter(asked) else { return };
        run.gone.insert(from, stateless);
        let everywhere = sources.iter().all(|source| run.gone.contains_key(source));
        let nowhere = everywhere && run.gone.values().all(|stateless| *stateless);
        let (begun, source) = (run.at.is_some(), run.source);
        if everywhere {
            run.gone.clear();
            self.transfer.rounds = self.transfer.rounds.saturating_add(1);
            // Rule T9b: whoever has a state, or what is missing here, ends it.
            self.transfer.fruitless = if nowhere { self.transfer.fruitless + 1 } else { 0 };
            if self.transfer.stateless && self.transfer.fruitless > MOST_FRUITLESS {
                return self.halt(Halt::NoState);
            }
            if self.transfer.rounds == MOST_ROUNDS {
                self.send_summary_again();
            }
        }
        if begun && everywhere {
            debug!("the snapshot is gone everywhere: another one");
            sources.into_iter().for_each(|source| self.want_another(source));
            self.restart_transfer();
        } else if !everywhere && source == from {
            // When all have been asked where nothing is begun, a peer that has nothing yet may soon: again in time.
            self.ask_another_source();
            self.ask_for_more();
        }
    }

    /// The next in turn of those that have not answered that they lack it.
    fn ask_another_source(&mut self) {
        self.next_source(|run, source| !run.gone.contains_key(&source));
    }

    /// The next in turn that `may_have` the piece, or if none may, the next.
    fn next_source(&mut self, may_have: impl Fn(&Run, MemberId) -> bool) {
        let sources = self.piece_sources();
        let Some(run) = &mut self.transfer.run else { return };
        let at = sources.iter().position(|source| *source == run.source).map_or(0, |at| at + 1);
        let in_turn = || sources.iter().cycle().skip(at).take(sources.len()).copied();
        let next = in_turn().find(|source| may_have(run, *source)).or_else(|| in_turn().next());
        run.source = next.unwrap_or(run.source);
    }

    /// What was begun is of no use: another one where a state is needed at any rate.
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
        // Not at once: a peer that has nothing yet may soon.
        run.retry_at = now.after(patience);
    }

    /// The driver holds a part of a snapshot: this much.
    pub(super) fn on_staged(&mut self, at: Anchor, end: ChunkEnd) {
        self.transfer.staged = Some(Staged { at, end });
        if let Some(run) = self.transfer.run.as_mut().filter(|run| run.at == Some(at)) {
            run.unstaged = run.unstaged.saturating_sub(1);
            self.ask_for_more();
        }
        self.discard_outdated_snapshot();
    }

    /// Rule T6: the own state has durably come as far as what is stored, so that even a restart would go on from beyond it.
    pub(super) fn discard_outdated_snapshot(&mut self) {
        let (checkpoint, wanted) = (self.checkpoint, self.transfer.is_running() || self.transfer.stateless);
        let staged = &mut self.transfer.staged;
        if let Some(Staged { at, .. }) = staged.take_if(|staged| !wanted && staged.at.op <= checkpoint) {
            debug!(?at, "what is stored of a snapshot is not needed any more");
            self.outputs.push_back(Output::DiscardSnapshot { at });
        }
    }

    /// The driver has thrown its part of a snapshot away: it did not verify, or did not fit.
    pub(super) fn on_snapshot_refused(&mut self, at: Anchor) {
        warn!(?at, "discarded a snapshot: it did not verify, or is not needed");
        self.transfer.staged = None;
        let run = self.transfer.run.as_ref();
        // What an earlier life had stored may not be needed: nobody has reported yet that entries are gone.
        let is_needed = self.transfer.stateless || run.is_some_and(|run| run.least > Op::ZERO);
        if !is_needed || !self.is_useful(at) {
            self.give_up_snapshot();
        } else {
            self.restart_transfer();
            self.ask_another_source();
        }
    }

    pub(super) fn transfer_timeout(&mut self) {
        let now = self.now.monotonic;
        let most = self.options.failure_timeout_max;
        let useless = |run: &Run| run.at.is_some_and(|at| !self.is_useful(at)) && !run.installing;
        if self.transfer.run.as_ref().is_some_and(useless) {
            self.give_up_snapshot();
        }
        self.show_life();
        let Some(run) = self.transfer.run.as_mut().filter(|run| now >= run.retry_at) else { return };
        if run.complete || run.unstaged >= UNSTAGED {
            // The own disk is at work, and takes the time that it takes.
            run.retry_at = now.after(most);
            return;
        }
        run.patience = (run.patience * 2).min(most);
        let gone = run.at.is_some() && !run.gone.is_empty();
        if gone && now.since(run.moved_at) > self.transfer.stall {
            debug!(at = ?run.at, "nobody who has the snapshot answers: another one");
            self.transfer.stall = (self.transfer.stall * 2).min(MOST_STALL);
            self.restart_transfer();
        }
        // Where nothing is begun, whoever had nothing of use may have by now, and all others may be down for good.
        self.next_source(|run, source| run.at.is_none() || !run.gone.contains_key(&source));
        self.ask_for_more();
    }

    /// Rule T8: a sign of life to all who keep what comes after the snapshot. It costs them nothing else.
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

    /// The engine's state is the one at this point, durably (rule T2).
    pub(super) fn on_snapshot_installed(&mut self, point: LogPoint) {
        self.transfer.run = None;
        self.transfer.staged = None;
        self.transfer.stateless = false;
        (self.transfer.fruitless, self.transfer.rounds) = (0, 0);
        self.transfer.settled_at = self.now.monotonic.after(self.options.failure_timeout_max);
        self.forget_digests();
        info!(?point, "a state was transferred");
        self.adopt(point);
    }

    /// Rule T3: the log stands on `point` from now on. Entries above that chain to it are kept.
    fn adopt(&mut self, point: LogPoint) {
        let LogPoint { anchor, .. } = point;
        let keeps = self.log.holds(anchor);
        if keeps && anchor.op <= self.checkpoint {
            // A lost state was fetched: what comes after it is applied once more, from the log.
            self.state_went_back(anchor.op);
            self.applied = anchor.op;
            let commit = self.commit();
            self.outputs.push_back(Output::Commit { commit });
            return;
        }
        if !keeps {
            self.log.restart(point);
        }
        self.incarnation = self.incarnation.next();
        let seq = self.write(Write::Adopt(Adoption { point, incarnation: self.incarnation }));
        self.note_adoption(anchor, keeps, seq);
        self.entry_arrived(anchor, false);
        if anchor.op > self.commit {
            self.commit = anchor.op;
            self.forget_ages_below(anchor.op);
            self.outputs.push_back(Output::Commit { commit: anchor });
        }
        self.commit_by_pipeline();
        self.applied = anchor.op;
        self.applied_at = self.now.monotonic;
        self.transfer.adopting = Some(seq);
        // Rule T8: a late answer about the log of before must not begin another transfer.
        if let Some(install) = self.state.install_mut() {
            install.ask_anew();
        }
        match &mut self.state {
            State::CatchingUp(catching) => {
                if catching.install.as_ref().is_some_and(|install| install.ends_below(anchor.op)) {
                    // The view has committed more since its log was sent.
                    catching.install = None;
                    self.ask_for_state();
                } else {
                    self.drive_install();
                }
            }
            State::Backup(backup) => backup.gap = None,
            State::Forming(_) | State::Primary(_) | State::ViewChange(_) => {}
        }
    }

    /// Rule T5: what was withheld is sent.
    pub(super) fn adoption_durable(&mut self) {
        if self.transfer.adopting.is_none_or(|seq| !self.is_durable(seq)) {
            return;
        }
        self.transfer.adopting = None;
        match &self.state {
            State::Backup(_) => self.acknowledge(),
            State::ViewChange(_) => self.send_summary_again(),
            State::Forming(_) | State::Primary(_) | State::CatchingUp(_) => {}
        }
    }
}
