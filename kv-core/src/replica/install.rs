//! Makes the own log equal to the log of a view: compares hashes, cuts what differs and everything above the head,
//! fetches the rest, and makes it durable. The new primary does this for the decided log, and a backup for the log in
//! `StartView`.

use super::state::ReplicaState;
use super::summary::holds_through;
use super::{Halt, Replica};
use crate::ids::{Anchor, Hash, Instant, MemberId, Op, WriteSeq};
use crate::message::{Entry, FetchWhat, Message};
use std::collections::BTreeMap;
use std::time::Duration;
use tracing::debug;

/// How many entries are fetched at once, and how many may wait to become durable.
const RUN_ENTRIES: u64 = 256;

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
}

impl Install {
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

    /// The first op above `commit` whose hash must be requested. (An answer ends where its sender's own knowledge has
    /// a gap.)
    fn first_unknown(&self, commit: Op) -> Op {
        let mut op = commit.next();
        while self.known.contains_key(&op) {
            op = op.next();
        }
        op
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
}

impl Replica {
    /// Continues an installation as far as possible.
    pub(super) fn drive_install(&mut self) {
        if !self.cut_for_install() {
            return;
        }
        let head = self.log.head();
        let now = self.now.monotonic;
        let Some(install) = self.state.install_mut() else { return };
        if head.op < install.head.op {
            return self.fetch_for_install();
        }
        assert_eq!(head, install.head, "what was fetched chains to the head that was asked for");
        let finishing = match install.finishing {
            Some(seq) => seq,
            None => {
                self.log_view = self.view;
                // One write removes the mark of damage, and voids whatever may be left of the damaged entries.
                let cut = self.damage.take().map(|_| head);
                self.write_view(cut)
            }
        };
        if let Some(install) = self.state.install_mut() {
            install.finishing = Some(finishing);
            install.retry_at = now.after(self.options.failure_timeout_max);
        }
        if self.is_durable(finishing) {
            self.finish_install();
        }
    }

    fn finish_install(&mut self) {
        debug!(view = %self.view, head = ?self.log.head(), "the view's log is installed");
        if self.primary() == self.me {
            self.become_primary();
        } else {
            self.become_backup();
            self.acknowledge();
        }
    }

    /// Rule V7: keeps what agrees, and cuts what differs and everything above the head of the view. Returns true when
    /// entries may be fetched.
    fn cut_for_install(&mut self) -> bool {
        let Some(install) = self.state.install_mut() else { return false };
        if install.cut {
            return true;
        }
        install.filling = false;
        match self.find_match() {
            Match::At(op) => {
                let head = self.log.head().op;
                if head > op || self.is_damaged() {
                    debug!(view = %self.view, after = %op, was = %head, "cut");
                    let after = self.anchor(op);
                    self.log.cut(op);
                    self.write_view(Some(after));
                }
                let now = self.now.monotonic;
                if let Some(install) = self.state.install_mut() {
                    install.cut = true;
                    install.asked = false;
                    install.retry_at = now;
                }
                true
            }
            Match::Behind => {
                if let Some(install) = self.state.install_mut() {
                    install.filling = true;
                }
                true
            }
            Match::Unknown { from, through } => {
                self.request_hashes(from, through);
                false
            }
            Match::Diverged { op, theirs } => {
                let ours = self.log.hash(op).unwrap_or_default();
                self.halt(Halt::Diverged { op, ours, theirs });
                false
            }
        }
    }

    /// Requests hashes below a known hash of the view's log, so that any member that holds that log can answer.
    fn request_hashes(&mut self, from: Op, through: Op) {
        let Some(install) = self.state.install_mut() else { return };
        let known = install.known.range(through..).next().map(|(op, hash)| (*op, *hash));
        let (through, hash) = known.map_or((through, None), |(op, hash)| (op, Some(hash)));
        let turn = install.turn();
        let to = self.source(turn);
        self.request(to, from, through, hash, FetchWhat::Headers);
    }

    /// Searches downwards from the lower of the two heads for the first op with equal hashes. At its own commit
    /// point, this member knows the hash.
    fn find_match(&mut self) -> Match {
        let (head, commit) = (self.log.head().op, self.commit);
        let Some(install) = self.state.install_mut() else { return Match::At(commit) };
        if install.head.op < commit {
            return Match::Diverged { op: commit, theirs: install.head.hash };
        }
        let top = head.min(install.head.op);
        let mut op = top;
        while op > commit {
            match install.known.get(&op) {
                Some(theirs) if self.log.hash(op) == Some(*theirs) => {
                    return if op == head { self.match_behind(op) } else { Match::At(op) };
                }
                Some(_) => op = op.previous(),
                None => return Match::Unknown { from: install.first_unknown(commit), through: op },
            }
        }
        match install.known.get(&commit) {
            Some(theirs) if self.log.hash(commit) != Some(*theirs) => {
                Match::Diverged { op: commit, theirs: *theirs }
            }
            Some(_) | None if commit == head => self.match_behind(commit),
            Some(_) | None => Match::At(commit),
        }
    }

    /// Rule D6c: entries behind the damage are cut only if it is certain that they do not belong to the view's log,
    /// because they may be the only copies. If the first of them differs, all of them do, because each entry contains
    /// the hash of the one before.
    fn match_behind(&mut self, head: Op) -> Match {
        let first = self.log.past_gap().first_key_value().map(|(op, behind)| (*op, behind.hash()));
        let Some(install) = self.state.install_mut() else { return Match::At(head) };
        match first {
            Some((op, ours)) if op <= install.head.op => match install.known.get(&op) {
                Some(theirs) if *theirs == ours => Match::Behind,
                Some(_) => Match::At(head),
                None => Match::Unknown { from: op, through: op },
            },
            Some(_) | None => Match::At(head),
        }
    }

    fn fetch_for_install(&mut self) {
        let head = self.log.head().op;
        let backlog = head.distance_from(self.log.durable().op);
        let later = self.now.monotonic.after(self.options.failure_timeout_min);
        if backlog > RUN_ENTRIES {
            // Continue when the disk has caught up.
            if let Some(install) = self.state.install_mut() {
                install.retry_at = later;
            }
            return;
        }
        let (gap, peers) = (self.log.gap(), self.cluster.len() - 1);
        let source = self.source_of_entries(head);
        let Some(install) = self.state.install_mut() else { return };
        let Some((to, reach)) = source else {
            // No voter has more of it.
            install.retry_at = later;
            return;
        };
        let limit = gap.map_or(install.head.op, |gap| gap.op).min(reach);
        let run = if install.asks_for_runs(peers) { RUN_ENTRIES } else { 1 };
        let through = limit.min(head.advance(run));
        let pinned = gap.filter(|gap| gap.op == through).map(|gap| gap.hash);
        let hash = pinned.or_else(|| install.known.get(&through).copied());
        if run == 1 && hash.is_none() {
            // A member that has the entry behind its own damage answers only a request by hash.
            return self.request_hashes(head.next(), through);
        }
        self.request(to, head.next(), through, hash, FetchWhat::Entries);
    }

    /// Whom to ask for the entries after the own head, and up to which op: at the new primary, no further than the
    /// vote of that peer.
    fn source_of_entries(&self, head: Op) -> Option<(MemberId, Op)> {
        let change = match &self.state {
            ReplicaState::ViewChange(change) => change,
            ReplicaState::CatchingUp(catching) => {
                return catching
                    .install
                    .as_ref()
                    .map(|install| (self.source(install.turn()), install.head.op));
            }
            ReplicaState::Forming(_) | ReplicaState::Primary(_) | ReplicaState::Backup(_) => return None,
        };
        let install = change.install.as_ref()?;
        let reach = |peer: MemberId| {
            let vote = change.summaries().get(&peer);
            vote.map_or(install.head.op, |vote| holds_through(vote, &install.known))
        };
        let sources = self.sources().into_iter().map(|peer| (peer, reach(peer)));
        let sources: Vec<(MemberId, Op)> = sources.filter(|(_, reach)| *reach > head).collect();
        sources.get(install.turn() % sources.len().max(1)).copied()
    }

    /// Sends a request, unless one is outstanding that may still be answered.
    fn request(&mut self, to: MemberId, from: Op, through: Op, hash: Option<Hash>, what: FetchWhat) {
        let (now, nonce) = (self.now.monotonic, self.nonce());
        let (least, most) = (self.options.failure_timeout_min, self.options.failure_timeout_max);
        let Some(install) = self.state.install_mut() else { return };
        if install.asked && now < install.retry_at {
            return;
        }
        if install.asked {
            install.turns += 1;
            install.patience = (install.patience * 2).min(most);
        }
        let nonce = *install.nonce.get_or_insert(nonce);
        install.asked = true;
        install.patience = install.patience.max(least);
        install.retry_at = now.after(install.patience);
        self.send(to, Message::Fetch { from, through, hash, nonce, what });
    }

    /// Whom to ask: the primary of the view first, then the others in turn.
    pub(super) fn source(&self, turns: usize) -> MemberId {
        let peers = self.sources();
        peers[turns % peers.len()]
    }

    fn sources(&self) -> Vec<MemberId> {
        let primary = self.primary();
        let mut peers: Vec<MemberId> = self.cluster.peers(self.me).map(|peer| peer.id).collect();
        peers.sort_by_key(|peer| (*peer != primary, *peer));
        peers
    }

    pub(super) fn on_headers(&mut self, nonce: u64, hashes: &[(Op, Hash)]) {
        let now = self.now.monotonic;
        let Some(install) = self.state.install_mut().filter(|install| install.nonce == Some(nonce)) else {
            return;
        };
        let before = install.known.len();
        for (op, hash) in hashes {
            install.known.entry(*op).or_insert(*hash);
        }
        if install.known.len() > before {
            install.heard(now);
            self.extend_patience();
            self.drive_install();
        }
    }

    pub(super) fn on_new_state(&mut self, from: MemberId, nonce: u64, entries: Vec<Entry>) {
        self.on_repaired(nonce, &entries);
        if matches!(self.state, ReplicaState::Backup(_)) {
            return self.fill_gap(from, nonce, entries);
        }
        let (now, peers) = (self.now.monotonic, self.cluster.len() - 1);
        let Some(install) = self
            .state
            .install_mut()
            .filter(|install| install.nonce == Some(nonce) && (install.cut || install.filling))
        else {
            return;
        };
        let (known, end) = (install.known.clone(), install.head.op);
        let before = self.log.head().op;
        self.append_run(entries, |entry| {
            entry.op <= end && known.get(&entry.op).is_none_or(|hash| *hash == entry.hash)
        });
        // An answer without new entries leaves the request open. After its time-out, the next peer is asked.
        if self.log.head().op > before
            && let Some(install) = self.state.install_mut()
        {
            install.answered(now, peers);
            self.extend_patience();
            self.drive_install();
        }
    }
}
