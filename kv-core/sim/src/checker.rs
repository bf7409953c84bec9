//! The invariants across members: what is committed, who serves, what is acknowledged, what is applied.

use super::clock::Time;
use super::mirror::Mirror;
use super::model::Model;
use super::plan::Plan;
use super::report::Checked;
use super::rosters::Rosters;
use super::stamps::Stamps;
use kv_core::config::Cluster;
use kv_core::ids::{Anchor, Epoch, Hash, MemberId, Op, Revision, View};
use kv_core::kv::Applied;
use kv_core::message::{Entry, FormationStep, Message, Recovered, Request, Write};
use std::collections::{BTreeMap, BTreeSet};

/// A committed entry.
#[derive(Debug)]
struct Committed {
    hash: Hash,
    entry: Entry,
    /// A hash of the results of its requests, once some member has applied it.
    results: Option<Hash>,
    /// A digest of the state after it, once some member has reported it.
    digest: Option<Hash>,
}

/// What one member has shown in its present life.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) view: View,
    pub(super) log_view: View,
    pub(super) commit: Op,
}

/// Observes all members.
#[derive(Debug)]
pub(super) struct Checker {
    pub(super) rosters: Rosters,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) shown: Vec<Shown>,
    log: Vec<Committed>,
    applied: Op,
    model: Model,
    /// Which member has served in a view, and in which of its lives.
    serving: BTreeMap<View, (usize, u32)>,
    /// Views of which a `StartView` was sent.
    started: BTreeSet<View>,
    counts: BTreeMap<&'static str, u64>,
    /// Members that lost their disk. What they acknowledged before still counts.
    pub(super) wiped: BTreeSet<usize>,
    /// The last vote of each member to leave a view, and when it was sent.
    votes: Vec<Vec<(View, Time)>>,
    pub(super) stamps: Stamps,
    /// How long a vote may count after it was sent; `None` if messages can take any time.
    vote_lifetime: Option<Time>,
    /// The newest view of any member in each epoch.
    pub(super) newest: BTreeMap<Epoch, View>,
    /// The last op that any member has considered committed. It may not have been readable.
    pub(super) reported: Op,
    /// Entries that end an epoch, committed or not.
    pub(super) stops: BTreeSet<Anchor>,
    /// The time.
    pub(super) now: Time,
}

impl Checker {
    pub(super) fn new(cluster: &Cluster, plan: &Plan) -> Self {
        let (members, quorum) = (plan.machines(), cluster.view_change_quorum());
        Self {
            rosters: Rosters::new(cluster),
            mirrors: (0..members).map(|_| Mirror::new()).collect(),
            shown: vec![Shown::default(); members],
            log: Vec::new(),
            applied: Op::ZERO,
            model: Model::of(plan.options.max_leases, plan.options.history_revisions),
            serving: BTreeMap::new(),
            started: BTreeSet::new(),
            counts: BTreeMap::new(),
            wiped: BTreeSet::new(),
            votes: vec![Vec::new(); members],
            stamps: Stamps::new(members, quorum),
            vote_lifetime: plan.vote_lifetime(),
            newest: BTreeMap::new(),
            reported: Op::ZERO,
            stops: BTreeSet::new(),
            now: 0,
        }
    }

    /// The disk of a member is empty from now on.
    pub(super) fn on_wiped(&mut self, member: usize) {
        self.mirrors[member] = Mirror::new();
        self.wiped.insert(member);
    }

    /// Counts a situation that is worth testing.
    pub(super) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// How often each situation occurred.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.counts.clone();
        counts.insert("views served", self.serving.len() as u64);
        counts.insert("requests repeated", self.model.repeats());
        counts.insert("requests rejected", self.model.rejections());
        counts.insert("ops committed", self.log.len() as u64);
        counts
    }

    /// The history according to the model.
    pub(super) const fn model(&self) -> &Model {
        &self.model
    }

    /// The last op that is committed.
    pub(super) fn committed(&self) -> Op {
        Op::new(self.log.len() as u64)
    }

    /// The last revision that is committed.
    pub(super) fn revision(&self) -> Revision {
        self.log.last().map_or(Revision::ZERO, |last| last.entry.header.next_revision().previous())
    }

    /// The hash of an op that is committed.
    pub(super) fn hash(&self, op: Op) -> Option<Hash> {
        self.at(op).map(|committed| committed.hash)
    }

    fn at(&self, op: Op) -> Option<&Committed> {
        self.log.get(usize::try_from(op.get().checked_sub(1)?).ok()?)
    }

    /// A member has requested a write.
    pub(super) fn on_write(&mut self, member: usize, write: &Write) -> Checked {
        match write {
            Write::Trim(_) => self.count("trims"),
            Write::Checkpoint(_) => self.count("checkpoints"),
            _ => {}
        }
        if let Write::Append(entries) = write {
            let stops = entries.iter().filter(|entry| entry.header.is_stop());
            self.stops.extend(stops.map(|entry| entry.header.anchor()));
        }
        let removed = self.mirrors[member].ask(write)?;
        if !removed.is_empty() {
            self.count("cuts of entries");
        }
        for removed in removed {
            if self.at(removed.op).is_some_and(|committed| committed.hash == removed.hash) {
                return Err(("nothing committed is cut", format!("m{member} cuts {removed:?}")));
            }
        }
        Ok(())
    }

    /// A member's journal has executed a write.
    pub(super) fn on_written(&mut self, member: usize, write: &Write) -> Checked {
        self.mirrors[member].done(write)
    }

    /// A member was started, and its log was rebased on the point of its state.
    pub(super) fn on_rebased(&mut self, member: usize, point: Anchor, recovered: &Recovered) -> Checked {
        let shown = &mut self.shown[member];
        let adopted = (recovered.view.epoch() > shown.view.epoch()).then_some(recovered.view);
        if let Some(view) = adopted {
            shown.view = view;
            // It shows only what the member has left behind.
            let newest = self.newest.entry(view.epoch()).or_default();
            *newest = view.max(*newest);
        }
        self.mirrors[member].rebased(point, adopted)
    }

    /// A member was started and recovered this from its journal.
    pub(super) fn on_recovered(&mut self, member: usize, recovered: &Recovered, flipped: bool) -> Checked {
        self.shown[member] = Shown { view: recovered.view, log_view: recovered.log_view, commit: Op::ZERO };
        if recovered.is_damaged() {
            self.count("starts with a damaged log");
        }
        if self.mirrors[member].recover(recovered, flipped)? {
            self.count("writes lost in a crash");
        }
        Ok(())
    }

    /// A member sends a message: what it promises must be durable.
    pub(super) fn on_send(&mut self, member: usize, to: MemberId, message: &Message) -> Checked {
        if let Message::StartViewChange { view } = message {
            // An earlier one that was withdrawn may still be on its way.
            let since = self.now.saturating_sub(self.vote_lifetime.unwrap_or_default());
            self.votes[member].retain(|(_, at)| *at >= since);
            self.votes[member].push((*view, self.now));
        }
        self.check_sender(member, message)?;
        let first = matches!(message, Message::StartView { view, .. } if self.started.insert(*view));
        let primary = message.view().and_then(|view| self.primary(view));
        let mirror = &self.mirrors[member];
        let fits = match message {
            Message::PrepareOk { view, log } | Message::CommitOk { view, log: Some(log), .. } => {
                mirror.acknowledges(*view, *log)
            }
            // Only the primary of the view uses the log. To others, the message is a call to join, and may be outdated.
            Message::DoViewChange { view, log, .. } if primary == Some(to) => mirror.supports(*view, log),
            Message::DoViewChange { view, .. } => mirror.durable().view >= *view,
            Message::StartView { view, hashes, .. } if first => {
                hashes.last().is_none_or(|(op, hash)| mirror.acknowledges(*view, Anchor::new(*op, *hash)))
            }
            // A later one, in answer to `GetState`, may end with entries that are still being written, like any
            // `Prepare`.
            Message::StartView { view, .. } => mirror.durable().log_view == *view,
            _ => true,
        };
        if fits {
            return Ok(());
        }
        let durable = mirror.durable();
        let found = format!(
            "m{member} sends {message:?}; durable are {:?}/{:?} and the log to {:?}",
            durable.view,
            durable.log_view,
            durable.head()
        );
        Err(("what is acknowledged is durable", found))
    }

    /// A member considers everything up to `commit` committed.
    pub(super) fn on_commit(&mut self, member: usize, commit: Anchor) -> Checked {
        let before = std::mem::replace(&mut self.shown[member].commit, commit.op);
        if commit.op < before {
            return Err((
                "a commit number never goes back",
                format!("m{member}: {before:?}, then {commit:?}"),
            ));
        }
        Ok(())
    }

    /// Everything up to `commit` is committed, according to a member. `unreadable`: some member is down, or its disk is
    /// about to fail, so not every log can be inspected. `read` reads the entry with this parent in its log.
    pub(super) fn record_committed(
        &mut self,
        member: usize,
        commit: Anchor,
        unreadable: bool,
        read: impl Fn(Op, Hash) -> Option<Entry>,
    ) -> Checked {
        self.reported = self.reported.max(commit.op);
        while self.committed() < commit.op {
            let op = self.committed().next();
            let parent = self.log.last().map_or(Hash::ZERO, |last| last.hash);
            let Some(entry) = read(op, parent) else {
                if unreadable {
                    // It is on another disk, if it was acknowledged there and the copy here is bad: checked again with
                    // the next commit.
                    return Ok(());
                }
                let found =
                    format!("m{member} has committed {op:?} on {parent:?}, and nobody who runs has it");
                return Err(("what is committed can be read", found));
            };
            self.add_committed(member, entry)?;
        }
        match self.at(commit.op) {
            Some(committed) if committed.hash != commit.hash => {
                let found = format!("m{member} commits {commit:?}, others committed {:?}", committed.hash);
                Err(("one hash per committed op", found))
            }
            _ => Ok(()),
        }
    }

    /// Records the next committed entry.
    fn add_committed(&mut self, member: usize, entry: Entry) -> Checked {
        let op = self.committed().next();
        let parent = self.log.last().map_or(Hash::ZERO, |last| last.hash);
        if entry.header.op != op || entry.header.parent != parent {
            let found = format!("m{member} commits {:?} on {parent:?}", entry.header);
            return Err(("the committed log is a chain", found));
        }
        self.stamps.committed(&entry)?;
        self.log.push(Committed { hash: entry.header.hash(), entry, results: None, digest: None });
        self.check_quorum(op)
    }

    /// Rules V1 and V2: the first member to enter a view was moved there by a quorum of live votes.
    fn check_votes(&mut self, member: usize, view: View, before: View) -> Checked {
        let newest = self.newest.entry(view.epoch()).or_default();
        if view <= *newest {
            return Ok(());
        }
        *newest = view;
        let Some(lifetime) = self.vote_lifetime else { return Ok(()) };
        let Some(roster) = self.rosters.of(view.epoch()) else { return Ok(()) };
        // Who enters an epoch stands in its first view, or in a view that only shows what it has left behind; and who
        // hears that its epoch is over leaves its view alone (rule M13).
        let has_entered = before.epoch() < view.epoch();
        if has_entered
            || view == roster.configuration.first
            || view.epoch() < self.rosters.newest().configuration.epoch
        {
            return Ok(());
        }
        let since = self.now.saturating_sub(lifetime);
        let wants = |votes: &Vec<(View, Time)>| {
            let counts = |wanted: View| wanted.epoch() == view.epoch() && wanted >= view;
            votes.iter().any(|(wanted, at)| counts(*wanted) && *at >= since)
        };
        let live = roster.voters.iter().filter(|voter| wants(&self.votes[**voter]));
        let quorum = roster.cluster.view_change_quorum();
        if quorum > 1 && live.count() < quorum {
            let found = format!("m{member} enters {view:?}; the votes are {:?}", self.votes);
            return Err(("only a quorum of live votes moves anyone", found));
        }
        Ok(())
    }

    fn check_quorum(&self, op: Op) -> Checked {
        let hash = self.hash(op);
        let epoch = self.at(op).map(|committed| committed.entry.header.view.epoch()).unwrap_or_default();
        let Some(roster) = self.rosters.of(epoch) else {
            return Err(("an epoch begins before its entries", format!("{op:?} is in {epoch:?}")));
        };
        let holders: Vec<usize> = roster
            .voters
            .iter()
            .copied()
            .filter(|member| {
                let disk = self.mirrors[*member].durable();
                // What it has acknowledged may have been damaged since; then it knows that it may have had more.
                let holds = disk.hash(op) == hash || disk.is_in_state(op);
                holds || disk.is_damaged() || self.wiped.contains(member)
            })
            .collect();
        if holders.len() < roster.cluster.replication_quorum() {
            let found = format!("{op:?} is durable on {holders:?} only");
            return Err(("what is committed is durable on a quorum", found));
        }
        Ok(())
    }

    /// A member has applied an entry.
    pub(super) fn on_applied(&mut self, member: usize, entry: &Entry, applied: &[Applied]) -> Checked {
        let op = entry.header.op;
        if op == self.committed().next() && op <= self.shown[member].commit {
            // It could not be read when it was committed, and has been repaired since.
            self.add_committed(member, entry.clone())?;
        }
        if self.at(op).is_none_or(|committed| committed.hash != entry.header.hash()) {
            return Err((
                "only what is committed is applied",
                format!("m{member} applied {:?}", entry.header),
            ));
        }
        let results: Vec<_> = applied.iter().map(|applied| &applied.result).collect();
        let results = postcard::to_stdvec(&results).map(|bytes| Hash::of(&bytes)).unwrap_or_default();
        let first = op == self.applied.next();
        let slot = &mut self.log[usize::try_from(op.get() - 1).unwrap_or(0)];
        match slot.results {
            Some(before) if before != results => {
                let found = format!("m{member} at {op:?}: {applied:?}");
                return Err(("all members get the same results", found));
            }
            Some(_) => return Ok(()),
            None if !first => {
                return Err((
                    "entries are applied in order",
                    format!("m{member} {op:?} after {:?}", self.applied),
                ));
            }
            None => slot.results = Some(results),
        }
        self.applied = op;
        self.take_into_model(entry, applied)
    }

    fn take_into_model(&mut self, entry: &Entry, applied: &[Applied]) -> Checked {
        let requests: Vec<_> = entry.requests().collect();
        if requests.len() != applied.len() {
            return Err(("each request has a result", format!("{:?}: {applied:?}", entry.header)));
        }
        self.model.begin(entry.header.timestamp);
        if entry.header.revision_count == 0 {
            self.count("entries that take no revision");
        }
        for (bytes, applied) in requests.iter().zip(applied) {
            let Ok(request) = Request::decode(bytes) else {
                return Err(("what is proposed decodes", format!("{:?}", entry.header)));
            };
            self.model.commit(applied.revision, &request, &applied.result)?;
        }
        if self.model.revision().next() != entry.header.next_revision() {
            let found = format!("{:?}: the last was {:?}", entry.header, self.model.revision());
            return Err(("a header counts the revisions of its entry", found));
        }
        Ok(())
    }

    /// The digest of a member's state at `op`.
    pub(super) fn on_digest(&mut self, member: usize, op: Op, digest: Hash) -> Checked {
        let Some(index) = op.get().checked_sub(1).and_then(|index| usize::try_from(index).ok()) else {
            return Ok(());
        };
        match self.log.get_mut(index).map(|slot| slot.digest.get_or_insert(digest)) {
            Some(first) if *first == digest => Ok(()),
            first => Err((
                "equal digests at equal ops",
                format!("m{member} at {op:?}: {digest:?}, before {first:?}"),
            )),
        }
    }

    /// A member has finished a step.
    pub(super) fn on_step(
        &mut self,
        member: usize,
        life: u32,
        view: View,
        log_view: View,
        serving: bool,
    ) -> Checked {
        let shown = &mut self.shown[member];
        if view < shown.view || log_view < shown.log_view || log_view > view {
            let found =
                format!("m{member}: {:?}/{:?} became {view:?}/{log_view:?}", shown.view, shown.log_view);
            return Err(("view and log_view never go back", found));
        }
        let before = std::mem::replace(&mut shown.view, view);
        shown.log_view = log_view;
        self.check_votes(member, view, before)?;
        if !serving {
            return Ok(());
        }
        if self.primary(view) != Some(MemberId::new(u8::try_from(member).unwrap_or(u8::MAX))) {
            return Err(("only the primary of a view serves", format!("m{member} serves in {view:?}")));
        }
        let first = *self.serving.entry(view).or_insert((member, life));
        if first != (member, life) {
            let found = format!("{view:?}: m{} in life {}, then m{member} in life {life}", first.0, first.1);
            return Err(("a view has one serving primary, in one life", found));
        }
        Ok(())
    }

    /// Whether a member has made durable that it is formatted.
    pub(super) fn is_formatted(&self, member: usize) -> bool {
        self.mirrors[member].durable().formation >= FormationStep::Formatted
    }

    /// The last durable op of a member.
    pub(super) fn durable_head(&self, member: usize) -> Op {
        self.mirrors[member].durable().head()
    }

    /// Whether a member has made durable that the cluster is formed.
    pub(super) fn is_formed(&self, member: usize) -> bool {
        self.mirrors[member].durable().formation == FormationStep::Formed
    }
}
