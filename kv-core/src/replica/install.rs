//! Makes the own log equal to the log of a view: compares hashes, cuts what differs and everything above the head,
//! fetches the rest, and makes it durable. The new primary does this for the decided log, and a backup for the log in
//! `StartView`.

use super::Halt;
use super::context::{Context, Flow, Transition, holds_through};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, WriteSeq};
use crate::message::{Entry, EntryPastGap, FetchWhat, LogSummary, Message};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::{debug, info};

/// How many entries are fetched at once, and how many may wait to become durable.
const RUN_ENTRIES: u64 = 256;

/// The latest summary of each member.
pub(super) type Summaries = BTreeMap<MemberId, LogSummary>;

#[derive(Debug)]
pub(super) struct Install {
    /// The known hashes of the view's log. The last one is its head.
    known: BTreeMap<Op, Hash>,
    head: Anchor,
    /// The own log has been cut to what agrees, and nothing whose agreement is unknown is left behind damage.
    cut: bool,
    /// The entries behind the next damaged ones agree, so the damaged ones are filled in.
    filling: bool,
    /// The nonce of all requests, so that a slow answer to an earlier one counts too.
    nonce: Option<u64>,
    /// A request is outstanding.
    asked: bool,
    /// How long a request may take. Doubles while no answer arrives.
    patience: Duration,
    pub(super) retry_at: Instant,
    /// The number of unanswered requests. Each goes to the next peer.
    turns: usize,
    /// The write that makes the view's log durable here.
    finishing: Option<WriteSeq>,
}

/// The result of comparing hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Match {
    /// The logs agree up to this op.
    At(Op),
    /// The logs agree up to the own head, and at the first op that is known behind the damage above it. So they agree
    /// in between too.
    Behind,
    /// These hashes must be requested first.
    Unknown { from: Op, through: Op },
    /// A committed entry is not in the view's log.
    Diverged { op: Op, theirs: Hash },
}

impl Install {
    /// Installs the log whose last ops have these hashes (ascending, without a gap, not empty).
    pub(super) fn new(hashes: &[(Op, Hash)], now: Instant) -> Self {
        let known: BTreeMap<Op, Hash> = hashes.iter().copied().collect();
        let (op, hash) = hashes.last().copied().expect("the caller has checked that there is a head");
        let head = Anchor::new(op, hash);
        Self {
            known,
            head,
            cut: false,
            filling: false,
            nonce: None,
            asked: false,
            patience: Duration::ZERO,
            retry_at: now,
            turns: 0,
            finishing: None,
        }
    }

    pub(super) fn has_nonce(&self, nonce: u64) -> bool {
        self.nonce == Some(nonce)
    }

    /// The own log was rebased: answers to requests about the earlier log no longer count.
    pub(super) const fn restart_requests(&mut self) {
        (self.nonce, self.asked) = (None, false);
    }

    pub(super) fn ends_below(&self, op: Op) -> bool {
        self.head.op < op
    }

    /// Whether the next request asks for many entries. The log of another member may have gaps of its own, so if no
    /// peer has answered, entries are requested one by one, from all peers in turn.
    fn asks_for_runs(&self, peers: usize) -> bool {
        (self.turn() / peers.max(1)).is_multiple_of(2)
    }

    /// The number of the next request. An outstanding request counts as unanswered.
    fn turn(&self) -> usize {
        self.turns + usize::from(self.asked)
    }

    /// The first op to request if the hash at `op` is not known: above the greatest known op below it, and above
    /// `commit`. An answer ends where its sender's own knowledge has a gap, so what is below a known op may remain
    /// unknown for ever.
    fn first_unknown(&self, commit: Op, op: Op) -> Op {
        let below = self.known.range(..op).next_back();
        below.map_or(commit, |(below, _)| commit.max(*below)).next()
    }

    /// Entries came.
    fn answered(&mut self, now: Instant, peers: usize) {
        self.heard(now);
        if !self.asks_for_runs(peers) {
            // Ask the same peer again, for more.
            self.turns -= peers;
        }
    }

    /// A requested answer has arrived.
    fn heard(&mut self, now: Instant) {
        self.asked = false;
        self.patience /= 2;
        self.retry_at = now;
    }

    /// Continues the installation as far as possible. `votes`: at the new primary, what the members have.
    pub(super) fn drive(&mut self, cx: &mut Context, votes: Option<&Summaries>) -> Flow {
        if !self.cut(cx) {
            return Flow::Continue(());
        }
        let head = cx.log.head();
        if head.op < self.head.op {
            self.fetch(cx, votes);
            return Flow::Continue(());
        }
        assert_eq!(head, self.head, "what was fetched chains to the head that was asked for");
        let finishing = *self.finishing.get_or_insert_with(|| {
            cx.log_view = cx.view;
            // One write removes the mark of damage, and voids whatever may be left of the damaged entries.
            let cut = cx.damage.take().map(|_| head);
            if cut.is_some() {
                info!(?head, "repaired the damaged log with the entries of other members");
            }
            cx.write_view(cut)
        });
        self.retry_at = cx.now.monotonic.after(cx.options.failure_timeout_max);
        if !cx.is_durable(finishing) {
            return Flow::Continue(());
        }
        debug!(view = %cx.view, ?head, "the view's log is installed");
        Flow::Break(Transition::Installed)
    }

    /// Rule V7: keeps what agrees, and cuts what differs and everything above the head of the view. Returns true when
    /// entries may be fetched.
    fn cut(&mut self, cx: &mut Context) -> bool {
        if self.cut {
            return true;
        }
        self.filling = false;
        self.learn_from_past_gap(cx);
        match self.find_match(cx) {
            Match::At(op) => {
                let head = cx.log.head().op;
                if head > op || cx.is_damaged() {
                    debug!(view = %cx.view, after = %op, was = %head, "cut");
                    let after = cx.anchor(op);
                    cx.log.cut(op);
                    cx.write_view(Some(after));
                }
                (self.cut, self.asked, self.retry_at) = (true, false, cx.now.monotonic);
                true
            }
            Match::Behind => {
                self.filling = true;
                true
            }
            Match::Unknown { from, through } => {
                self.request_hashes(cx, from, through);
                false
            }
            Match::Diverged { op, theirs } => {
                let ours = cx.log.hash(op).unwrap_or_default();
                cx.halt(Halt::Diverged { op, ours, theirs });
                false
            }
        }
    }

    /// Rule V7: an entry behind the own damage that is in the view's log names the hash before it. So a member can be
    /// asked that has only the damaged entries, and nothing behind them.
    fn learn_from_past_gap(&mut self, cx: &Context) {
        let past_gap = cx.log.past_gap();
        // The lowest one is enough: requests name it, and what is compared is below it.
        let lowest = past_gap.first_key_value().and_then(|(first, _)| self.known.range(first..).next());
        let Some((mut op, mut hash)) = lowest.map(|(op, hash)| (*op, *hash)) else { return };
        while let Some(EntryPastGap::Intact { meta, parent }) = past_gap.get(&op)
            && meta.hash == hash
            && !self.known.contains_key(&op.previous())
        {
            (op, hash) = (op.previous(), *parent);
            self.known.insert(op, hash);
        }
    }

    /// Requests hashes below a known hash of the view's log, so that any member that holds that log can answer.
    fn request_hashes(&mut self, cx: &mut Context, from: Op, through: Op) {
        let known = self.known.range(through..).next().map(|(op, hash)| (*op, *hash));
        let (through, hash) = known.map_or((through, None), |(op, hash)| (op, Some(hash)));
        let to = self.source(cx);
        self.request(cx, to, from, through, hash, FetchWhat::Headers);
    }

    /// Searches downwards from the lower of the two heads for the first op with equal hashes. At its own commit
    /// point, this member knows the hash.
    fn find_match(&self, cx: &Context) -> Match {
        let (head, commit) = (cx.log.head().op, cx.commit);
        if self.head.op < commit {
            return Match::Diverged { op: commit, theirs: self.head.hash };
        }
        let mut op = head.min(self.head.op);
        while op > commit {
            match self.known.get(&op) {
                Some(theirs) if cx.log.hash(op) == Some(*theirs) => {
                    return if op == head { self.match_behind(cx, op) } else { Match::At(op) };
                }
                Some(_) => op = op.previous(),
                None => return Match::Unknown { from: self.first_unknown(commit, op), through: op },
            }
        }
        match self.known.get(&commit) {
            Some(theirs) if cx.log.hash(commit) != Some(*theirs) => {
                Match::Diverged { op: commit, theirs: *theirs }
            }
            Some(_) | None if commit == head => self.match_behind(cx, commit),
            Some(_) | None => Match::At(commit),
        }
    }

    /// Rule D6c: entries behind the damage are cut only if it is certain that they do not belong to the view's log,
    /// because they may be the only copies. If the first of them differs, all of them do, because each entry contains
    /// the hash of the one before.
    fn match_behind(&self, cx: &Context, head: Op) -> Match {
        match cx.log.past_gap().first_key_value() {
            Some((op, behind)) if *op <= self.head.op => match self.known.get(op) {
                Some(theirs) if *theirs == behind.hash() => Match::Behind,
                Some(_) => Match::At(head),
                None => Match::Unknown { from: *op, through: *op },
            },
            Some(_) | None => Match::At(head),
        }
    }

    fn fetch(&mut self, cx: &mut Context, votes: Option<&Summaries>) {
        let head = cx.log.head().op;
        let backlog = head.distance_from(cx.log.durable().op);
        // `None` if no voter has more of it. If the disk has a backlog, continue when it has caught up.
        let source = self.source_of_entries(cx, head, votes).filter(|_| backlog <= RUN_ENTRIES);
        let Some((to, reach)) = source else {
            self.retry_at = cx.now.monotonic.after(cx.options.failure_timeout_min);
            return;
        };
        let gap = cx.log.gap();
        let limit = gap.map_or(self.head.op, |gap| gap.op).min(reach);
        let run = if self.asks_for_runs(cx.cluster.len() - 1) { RUN_ENTRIES } else { 1 };
        let through = limit.min(head.advance(run));
        let pinned = gap.filter(|gap| gap.op == through).map(|gap| gap.hash);
        let hash = pinned.or_else(|| self.known.get(&through).copied());
        if run == 1 && hash.is_none() {
            // A member that has the entry behind its own damage answers only a request by hash.
            return self.request_hashes(cx, head.next(), through);
        }
        self.request(cx, to, head.next(), through, hash, FetchWhat::Entries);
    }

    /// Whom to ask for the entries after the own head, and up to which op: at the new primary, no further than the
    /// vote of that peer.
    fn source_of_entries(&self, cx: &Context, head: Op, votes: Option<&Summaries>) -> Option<(MemberId, Op)> {
        let Some(votes) = votes else { return Some((self.source(cx), self.head.op)) };
        let reach = |peer: &MemberId| {
            votes.get(peer).map_or(self.head.op, |vote| holds_through(vote, &self.known, head))
        };
        let sources = Self::sources(cx).into_iter().map(|peer| (peer, reach(&peer)));
        let sources: Vec<(MemberId, Op)> = sources.filter(|(_, reach)| *reach > head).collect();
        sources.get(self.turn() % sources.len().max(1)).copied()
    }

    /// Sends a request, unless one is outstanding that may still be answered.
    fn request(
        &mut self,
        cx: &mut Context,
        to: MemberId,
        from: Op,
        through: Op,
        hash: Option<Hash>,
        what: FetchWhat,
    ) {
        let (now, nonce) = (cx.now.monotonic, cx.nonce());
        if self.asked && now < self.retry_at {
            return;
        }
        if self.asked {
            self.turns += 1;
            self.patience = (self.patience * 2).min(cx.options.failure_timeout_max);
        }
        let nonce = *self.nonce.get_or_insert(nonce);
        self.asked = true;
        self.patience = self.patience.max(cx.options.failure_timeout_min);
        self.retry_at = now.after(self.patience);
        cx.send(to, Message::Fetch { from, through, hash, nonce, what });
    }

    /// Whom to ask next: all peers in turn.
    fn source(&self, cx: &Context) -> MemberId {
        let peers = Self::sources(cx);
        peers[self.turn() % peers.len()]
    }

    /// The peers: the primary of the view first.
    fn sources(cx: &Context) -> Vec<MemberId> {
        let primary = cx.primary();
        let mut peers: Vec<MemberId> = cx.cluster.peers(cx.me).map(|peer| peer.id).collect();
        peers.sort_by_key(|peer| (*peer != primary, !cx.cluster.is_voter(*peer), *peer));
        peers
    }

    /// Takes hashes of the view's log from an answer. Returns whether the installation made progress.
    pub(super) fn on_headers(&mut self, cx: &Context, nonce: u64, hashes: &[(Op, Hash)]) -> bool {
        let before = self.known.len();
        for (op, hash) in hashes.iter().filter(|_| self.nonce == Some(nonce)) {
            self.known.entry(*op).or_insert(*hash);
        }
        let is_news = self.known.len() > before;
        if is_news {
            self.heard(cx.now.monotonic);
        }
        is_news
    }

    /// Takes entries of the view's log from an answer. Returns whether the installation made progress. An answer
    /// without new entries leaves the request open: after its time-out, the next peer is asked.
    pub(super) fn on_new_state(&mut self, cx: &mut Context, nonce: u64, entries: Vec<Entry>) -> bool {
        if self.nonce != Some(nonce) || !(self.cut || self.filling) {
            return false;
        }
        let before = cx.log.head().op;
        cx.append_run(entries, false, |entry| {
            entry.op <= self.head.op && self.known.get(&entry.op).is_none_or(|hash| *hash == entry.hash)
        });
        let is_news = cx.log.head().op > before;
        if is_news {
            self.answered(cx.now.monotonic, cx.cluster.len() - 1);
        }
        is_news
    }
}
