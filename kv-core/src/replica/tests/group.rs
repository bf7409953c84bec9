//! A group of replicas, its disks and its network, all in plain values. Nothing happens unless a test makes it happen.

use super::checks::{Checks, MOST_OUTPUTS};
use super::clocks::{Clock, Stamps};
use crate::config::{Change, ChangeRequest, Cluster, Configuration, DiskId, HistoryId, Options};
use crate::ids::{
    Anchor, Epoch, Hash, Incarnation, Instant, MemberId, Op, Revision, Timestamp, View, WriteSeq,
};
use crate::message::{
    AdoptedEpoch, Chunk, ChunkEnd, Damage, Entry, EntryMeta, EntryPastGap, EpochRecord, Extent,
    FormationStep, LogPoint, LogRebase, Membership, Message, Operation, Recovered, Request, Write,
};
use crate::replica::{Halt, Input, Now, Output, Replica, ReplicaConfig, Wrap};
use bytes::Bytes;
use kv_transport::Lane;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// A message between two members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Envelope {
    pub(super) from: MemberId,
    pub(super) to: MemberId,
    pub(super) message: Message,
}

/// What is durable at one member.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    pub(super) formation: FormationStep,
    pub(super) view: View,
    pub(super) log_view: View,
    /// Entries that cannot be read any more, and which recovery would report.
    pub(super) bad: BTreeSet<Op>,
    /// How far the log may have reached, if entries may be missing.
    pub(super) damaged: Option<Extent>,
    pub(super) incarnation: Incarnation,
    pub(super) entries: BTreeMap<Op, Entry>,
    /// The wall clock when each entry was written.
    pub(super) written: BTreeMap<Op, Timestamp>,
    pub(super) checkpoint: Anchor,
    /// The point below the oldest entry, with the revision and the stamp there.
    pub(super) floor: (Anchor, Revision, Timestamp),
    /// Pieces of a snapshot, and the op of the engine after one was installed.
    pub(super) snapshot: Option<(Anchor, ChunkEnd)>,
    pub(super) engine: Option<(LogPoint, Option<Configuration>)>,
    pub(super) membership: Option<Membership>,
}

impl Disk {
    pub(super) fn empty() -> Self {
        Self {
            formation: FormationStep::Empty,
            view: View::ZERO,
            log_view: View::ZERO,
            bad: BTreeSet::new(),
            damaged: None,
            incarnation: Incarnation::ZERO,
            entries: BTreeMap::new(),
            written: BTreeMap::new(),
            checkpoint: Anchor::ZERO,
            floor: (Anchor::ZERO, Revision::new(1), Timestamp::ZERO),
            snapshot: None,
            engine: None,
            membership: None,
        }
    }

    pub(super) fn head(&self) -> Op {
        self.entries.last_key_value().map_or(self.floor.0.op, |(op, _)| *op)
    }

    /// Drops the entries at or below `op`.
    pub(super) fn trim(&mut self, op: Op) {
        while let Some((first, entry)) = self.entries.first_key_value().filter(|(first, _)| **first <= op) {
            let header = &entry.header;
            self.floor = (header.anchor(), header.next_revision(), header.timestamp);
            let first = *first;
            self.entries.remove(&first);
            self.bad.remove(&first);
        }
    }

    fn write(&mut self, write: Write, wall: Timestamp, written_once: bool) {
        match write {
            Write::Formation(step) => self.formation = step,
            Write::Append(entries) => {
                for entry in &entries {
                    let written = self.written.entry(entry.header.op).or_insert(wall);
                    if !written_once {
                        *written = wall;
                    }
                }
                self.entries.extend(entries.into_iter().map(|entry| (entry.header.op, entry)));
            }
            Write::View(record) => {
                (self.view, self.log_view) = (record.view, record.log_view);
                self.damaged = self.damaged.filter(|_| record.damaged);
                if let Some(cut) = record.cut {
                    self.incarnation = cut.incarnation;
                    self.entries.retain(|op, _| *op <= cut.after.op);
                    self.bad.retain(|op| *op <= cut.after.op);
                }
            }
            Write::Repair(entry) => {
                let op = entry.header.op;
                assert!(
                    op <= self.floor.0.op || self.entries.get(&op) == Some(&entry),
                    "the same entry again"
                );
                self.bad.remove(&op);
            }
            Write::Enter(record) => {
                let EpochRecord { configuration, disk, ended, cut } = *record;
                assert_eq!(
                    Some(cut.after.op),
                    self.entries.keys().next_back().copied(),
                    "the log ends with the stop"
                );
                assert!(self.checkpoint.op < cut.after.op, "no checkpoint covers the stop before");
                (self.view, self.log_view) = (configuration.first, configuration.first);
                (self.damaged, self.incarnation) = (None, cut.incarnation);
                self.membership = Some(Membership { configuration, disk, retired: false, ended });
            }
            Write::Retire => {
                if let Some(membership) = &mut self.membership {
                    membership.retired = true;
                }
            }
            Write::Checkpoint(anchor) => self.checkpoint = anchor,
            Write::Rebase(rebase) => self.rebase(rebase),
            Write::Trim(op) => {
                assert!(op <= self.checkpoint.op, "only what a checkpoint holds is dropped");
                self.trim(op);
            }
        }
    }

    fn rebase(&mut self, LogRebase { point, incarnation, adopted }: LogRebase) {
        if let Some(adopted) = adopted {
            assert!(adopted.view > self.view, "views only grow");
            (self.membership, self.view, self.damaged) = (Some(adopted.membership), adopted.view, None);
        }
        self.incarnation = incarnation;
        self.checkpoint = point.anchor;
        let (op, hash) = (point.anchor.op, point.anchor.hash);
        let head = self.chain_head();
        let found = self.entries.get(&op).map(|entry| entry.header.hash());
        if self.floor.0 == point.anchor || (op <= head && found == Some(hash)) {
            return;
        }
        let parent = self.entries.get(&op.next()).map(|entry| entry.header.parent);
        let differs = head >= op || found.or(parent).is_some_and(|known| known != hash);
        self.entries.retain(|above, _| *above > op && !differs);
        self.bad.retain(|bad| self.entries.contains_key(bad));
        self.floor = (point.anchor, point.next_revision, point.timestamp);
    }

    /// The engine's state was replaced. If it is older than a lost one, the superblock's record of the lost one is
    /// void.
    fn put_state(
        &mut self,
        (point, configuration): (LogPoint, Option<Configuration>),
        writing: &mut VecDeque<(WriteSeq, Write)>,
    ) {
        self.engine = Some((point, configuration));
        let under_way = writing.iter_mut().filter_map(|(_, write)| match write {
            Write::Checkpoint(anchor) => Some(anchor),
            _ => None,
        });
        for anchor in under_way.chain([&mut self.checkpoint]) {
            if anchor.op > point.anchor.op {
                *anchor = point.anchor;
            }
        }
    }

    /// Whether an intact entry with this hash is here.
    pub(super) fn has(&self, anchor: Anchor) -> bool {
        let entry = self.entries.get(&anchor.op).filter(|_| !self.bad.contains(&anchor.op));
        entry.is_some_and(|entry| entry.header.hash() == anchor.hash)
    }

    /// What is bad is found out, and remembered.
    pub(super) fn find_out(&mut self) {
        if let Some(first) = self.bad.range(self.checkpoint.op.next()..).next().copied() {
            let reach = Extent::Through(self.head());
            debug_assert!(first <= self.head());
            self.damaged = self.damaged.max(Some(reach));
        }
        if let Some(below) = self.bad.range(..=self.checkpoint.op).next_back().copied() {
            // The journal names the op above it as its oldest.
            self.bad.retain(|op| *op > below);
            self.trim(below);
        }
        for op in std::mem::take(&mut self.bad) {
            self.entries.remove(&op);
        }
    }

    /// As a driver does when it opens a directory.
    fn recover(&mut self, disk: DiskId) -> Recovered {
        let later = self.engine.clone().filter(|(point, _)| point.anchor.op > self.checkpoint.op);
        match later {
            Some((point, _)) if self.chain_holds(point.anchor) => self.checkpoint = point.anchor,
            Some((point, configuration)) => {
                let epoch = self.membership.as_ref().map_or(Epoch::ZERO, |it| it.configuration.epoch);
                let ended = self.membership.as_ref().map_or(0, |it| it.ended).max(self.view.number());
                let adopted = configuration.filter(|it| it.epoch > epoch).map(|configuration| {
                    Box::new(AdoptedEpoch::of(configuration, disk, ended, View::new(ended)))
                });
                self.rebase(LogRebase { point, incarnation: self.incarnation.next(), adopted });
            }
            None => {}
        }
        Recovered {
            formation: self.formation,
            view: self.view,
            log_view: self.log_view,
            checkpoint: self.checkpoint,
            floor: self.floor.0,
            entries: self.chain().map(|entry| self.meta(entry)).collect(),
            floor_next_revision: self.floor.1,
            floor_timestamp: self.floor.2,
            incarnation: self.incarnation,
            damage: self.damaged.map(|extent| Damage { past_gap: self.behind(), extent }),
            membership: self.membership.clone(),
        }
    }

    fn meta(&self, entry: &Entry) -> EntryMeta {
        let written = self.written.get(&entry.header.op).copied().unwrap_or_default();
        EntryMeta::of(&entry.header).written_at(written)
    }

    /// The entries from the floor to the first that is missing.
    fn chain(&self) -> impl Iterator<Item = &Entry> {
        let ops = (1..).map(|above| self.floor.0.op.advance(above));
        ops.map_while(|op| self.entries.get(&op))
    }

    fn chain_holds(&self, anchor: Anchor) -> bool {
        let found = self.chain().find(|entry| entry.header.op == anchor.op);
        self.floor.0 == anchor || found.is_some_and(|entry| entry.header.hash() == anchor.hash)
    }

    /// The last op of the chain.
    pub(super) fn chain_head(&self) -> Op {
        self.floor.0.op.advance(self.chain().count() as u64)
    }

    fn behind(&self) -> BTreeMap<Op, EntryPastGap> {
        let mut behind = BTreeMap::new();
        let head = self.chain_head();
        for (op, entry) in self.entries.range(head.next()..) {
            let parent = entry.header.parent;
            if op.previous() > head {
                behind.entry(op.previous()).or_insert(EntryPastGap::Pinned(parent));
            }
            behind.insert(*op, EntryPastGap::Intact { meta: self.meta(entry), parent });
        }
        behind
    }
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) replica: Option<Replica>,
    pub(super) disk: Disk,
    /// Writes that are not durable yet; kept back while `stalled`.
    pub(super) writing: VecDeque<(WriteSeq, Write)>,
    pub(super) stalled: bool,
    /// Nothing is applied.
    pub(super) hangs: bool,
    /// All appended entries, durable or not: they can be read and sent.
    pub(super) staged: BTreeMap<Op, Entry>,
    pub(super) ready: Vec<(u64, Op)>,
    pub(super) refused: Vec<u64>,
    pub(super) halt: Option<Halt>,
    pub(super) paused: bool,
    life: u64,
    /// The engine is lost: it starts without.
    pub(super) stateless: bool,
    /// The snapshot that is kept for the members that fetch it.
    pub(super) pinned: Option<Anchor>,
}

impl Member {
    fn new() -> Self {
        Self {
            replica: None,
            disk: Disk::empty(),
            writing: VecDeque::new(),
            stalled: false,
            hangs: false,
            staged: BTreeMap::new(),
            ready: Vec::new(),
            refused: Vec::new(),
            halt: None,
            paused: false,
            life: 0,
            stateless: false,
            pinned: None,
        }
    }
}

/// The disk of a member.
pub(super) fn disk_of(id: MemberId) -> DiskId {
    DiskId(1000 + u128::from(id.get()))
}

/// What a member does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Data,
    Witness,
    /// It keeps data, and does not vote.
    Standby,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) cluster: Cluster,
    pub(super) members: Vec<Member>,
    pub(super) network: VecDeque<Envelope>,
    /// The delay of every message, and the messages in flight.
    pub(super) lag: Duration,
    /// The additional delay of messages on the Bulk lane.
    pub(super) lag_of_bulk: Duration,
    pub(super) on_the_way: VecDeque<(Instant, Envelope)>,
    /// Links that lose everything, by sender and receiver.
    pub(super) cut: BTreeSet<(u8, u8)>,
    pub(super) sent: Vec<Envelope>,
    /// How often entries were sent that a driver reads from the journal.
    pub(super) by_reference: usize,
    pub(super) now: Now,
    /// The hash of every op that any member ever knew to be committed: op 1 first.
    pub(super) committed: Vec<Hash>,
    /// Waiting reads, with the op that they must see.
    pub(super) reads: BTreeMap<(u8, u64), u64>,
    lives: u64,
    points: BTreeMap<Anchor, LogPoint>,
    /// Complete snapshots that wait for the engine, and snapshots that will fail verification.
    pub(super) installing: Vec<(u8, Anchor)>,
    pub(super) spoiled: BTreeSet<Anchor>,
    /// Whoever is asked for a snapshot makes a checkpoint, as drivers do.
    pub(super) checkpoints_when_asked: bool,
    /// How many states have been transferred.
    pub(super) installed: u64,
    pub(super) options: Options,
    /// What each member takes the time for.
    pub(super) clocks: Vec<Clock>,
    pub(super) stamps: Stamps,
    /// A journal bug: the wall clock beside an entry is that of the first entry at its op.
    pub(super) written_once: bool,
    /// The configuration of each epoch that a member has entered.
    pub(super) configurations: BTreeMap<Epoch, Configuration>,
    checks: Checks,
}

impl Group {
    /// `data` members and `witnesses`, with empty disks, started.
    pub(super) fn new(data: u8, witnesses: u8) -> Self {
        Self::with_options(data, witnesses, Options::default())
    }

    pub(super) fn with_options(data: u8, witnesses: u8, options: Options) -> Self {
        Self::with_standbys(data, witnesses, 0, options)
    }

    /// The last members are standbys that keep data.
    pub(super) fn with_standbys(data: u8, witnesses: u8, standbys: u8, options: Options) -> Self {
        let kinds = [(Kind::Data, data), (Kind::Witness, witnesses), (Kind::Standby, standbys)];
        let kinds: Vec<Kind> =
            kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count.into())).collect();
        Self::of(&kinds, options)
    }

    /// Members of these kinds, in the order of their ids.
    pub(super) fn of(kinds: &[Kind], options: Options) -> Self {
        let mut builder = Cluster::builder("group");
        let all = u8::try_from(kinds.len()).expect("few members");
        for (id, kind) in (0..).zip(kinds) {
            let address = format!("member:{id}");
            builder = match kind {
                Kind::Data => builder.member(id, address),
                Kind::Witness => builder.witness(id, address),
                Kind::Standby => builder.standby(id, address, crate::config::Role::Data),
            };
        }
        let cluster = builder.build().expect("a valid cluster");
        let now = Now { monotonic: Instant::new(1_000_000_000), wall: Timestamp::new(1_700_000_000_000) };
        let members = (0..all).map(|_| Member::new()).collect();
        let mut group = Self {
            cluster,
            members,
            network: VecDeque::new(),
            lag: Duration::ZERO,
            lag_of_bulk: Duration::ZERO,
            on_the_way: VecDeque::new(),
            cut: BTreeSet::new(),
            sent: Vec::new(),
            by_reference: 0,
            now,
            committed: Vec::new(),
            reads: BTreeMap::new(),
            lives: 0,
            points: BTreeMap::new(),
            installing: Vec::new(),
            spoiled: BTreeSet::new(),
            checkpoints_when_asked: false,
            installed: 0,
            options,
            clocks: vec![Clock::right(); usize::from(all)],
            stamps: Stamps::default(),
            written_once: false,
            configurations: BTreeMap::new(),
            checks: Checks::default(),
        };
        for id in 0..all {
            group.start(id);
        }
        group
    }

    /// Formed, with member 0 serving.
    pub(super) fn formed(data: u8, witnesses: u8) -> Self {
        let mut group = Self::new(data, witnesses);
        group.run_until("a primary serves", |group| group.serving() == Some(0));
        group
    }

    pub(super) fn start(&mut self, id: u8) {
        self.lives += 1;
        let mut config =
            ReplicaConfig::new(self.cluster.clone(), MemberId::new(id), self.options.clone(), self.lives);
        let now = self.now_of(id);
        let member = &mut self.members[usize::from(id)];
        member.life = self.lives;
        member.paused = false;
        member.writing.clear();
        member.disk.find_out();
        member.staged = member.disk.entries.clone();
        member.ready.clear();
        member.pinned = None;
        config.stateless = member.stateless;
        config.disk = disk_of(MemberId::new(id));
        config.staged = member.disk.snapshot.clone();
        let recovered = member.disk.recover(disk_of(MemberId::new(id)));
        member.staged = member.disk.entries.clone();
        member.replica = Some(Replica::new(config, recovered, now));
        self.drain(id);
    }

    /// Cuts the power: everything that is not durable is lost, and so are its messages.
    pub(super) fn crash(&mut self, id: u8) {
        self.lose_power(id);
        self.network.retain(|envelope| envelope.to != MemberId::new(id));
    }

    /// The same, but the messages that are under way to it survive, and reach its next life.
    pub(super) fn lose_power(&mut self, id: u8) {
        self.members[usize::from(id)].replica = None;
        self.installing.retain(|(member, _)| *member != id);
        self.members[usize::from(id)].writing.clear();
    }

    /// Asks for a linearizable read: it must see everything that any member knows to be committed now.
    pub(super) fn read(&mut self, id: u8, ticket: u64) {
        self.reads.insert((id, ticket), self.committed.len() as u64);
        self.input(id, Input::Read { ticket });
    }

    pub(super) fn replica(&self, id: u8) -> &Replica {
        self.members[usize::from(id)].replica.as_ref().expect("the member is alive")
    }

    pub(super) fn is_witness(&self, id: u8) -> bool {
        let member = self.cluster.member(MemberId::new(id));
        member.is_some_and(|member| member.role == crate::config::Role::Witness)
    }

    pub(super) fn serving(&self) -> Option<u8> {
        let ids = 0..u8::try_from(self.members.len()).expect("few members");
        let mut serving =
            ids.filter(|id| self.members[usize::from(*id)].replica.as_ref().is_some_and(Replica::is_serving));
        serving.next_back()
    }

    /// What the member takes the time for.
    pub(super) fn now_of(&self, id: u8) -> Now {
        self.clocks[usize::from(id)].read(self.now)
    }

    pub(super) fn input(&mut self, id: u8, input: Input) {
        let now = self.now_of(id);
        if let Some(replica) = &mut self.members[usize::from(id)].replica {
            let timeout = input == Input::Timeout;
            replica.handle(now, input);
            replica.check_invariants();
            let next = replica.poll_timeout();
            assert!(!timeout || next.is_none_or(|at| at > now.monotonic), "member {id}: a busy timer");
            if replica.is_serving() {
                let view = replica.view();
                let life = self.members[usize::from(id)].life;
                self.checks.serves(MemberId::new(id), life, view);
            }
            self.drain(id);
        }
    }

    pub(super) fn propose(&mut self, id: u8, text: &str) {
        let command = crate::message::Command::Put {
            key: text.to_owned().into(),
            value: text.to_owned().into(),
            condition: None,
            life: Default::default(),
        };
        let request = Request {
            session: crate::ids::SessionId::new(1),
            number: crate::ids::RequestNumber::new(1),
            acked_through: crate::ids::RequestNumber::ZERO,
            operation: Operation::Command(command),
        };
        self.input(id, Input::Propose { requests: vec![request.encode()] });
    }

    fn drain(&mut self, id: u8) {
        let from = MemberId::new(id);
        for count in 0.. {
            assert!(count < MOST_OUTPUTS, "member {id}: a step without an end");
            let member = &mut self.members[usize::from(id)];
            let Some(output) = member.replica.as_mut().and_then(Replica::poll_output) else { break };
            match output {
                Output::Write { seq, write } => {
                    if let Write::Append(entries) = &write {
                        entries.iter().for_each(|entry| self.stamps.made(entry, self.now.monotonic));
                        let credited = member.replica.as_ref().map(Replica::wall_clock_credit);
                        self.stamps.credited(member.life, credited.unwrap_or_default());
                        member.staged.extend(entries.iter().map(|entry| (entry.header.op, entry.clone())));
                    }
                    if let Write::Repair(entry) = &write {
                        member.staged.insert(entry.header.op, entry.clone());
                    }
                    if let Write::View(record) = &write
                        && let Some(cut) = record.cut
                    {
                        member.staged.retain(|op, _| *op <= cut.after.op);
                    }
                    if let Write::Enter(record) = &write {
                        member.staged.retain(|op, _| *op <= record.cut.after.op);
                    }
                    if let Write::Rebase(_) = &write
                        && let Some(replica) = &member.replica
                    {
                        // Including entries behind damage.
                        member
                            .staged
                            .retain(|op, entry| replica.cx.known_hash(*op) == Some(entry.header.hash()));
                    }
                    if let Write::Trim(op) = &write {
                        member.staged.retain(|at, _| at > op);
                    }
                    member.writing.push_back((seq, write));
                }
                Output::Send { to, message } => {
                    self.checks.sends(from, &member.disk, &message);
                    self.post(Envelope { from, to, message });
                }
                Output::SendEntries { to, from: first, through, wrap } => {
                    let entries: Vec<Entry> =
                        member.staged.range(first..=through.op).map(|(_, entry)| entry.clone()).collect();
                    if entries.first().is_none_or(|entry| entry.header.op > first) {
                        // Dropped from the journal, although the replica still knows its hash.
                        continue;
                    }
                    assert_eq!(entries.last().map(|entry| entry.header.hash()), Some(through.hash));
                    match wrap {
                        Wrap::Prepare { view, commit } => {
                            self.by_reference += 1;
                            for entry in entries {
                                self.post(Envelope {
                                    from,
                                    to,
                                    message: Message::Prepare { view, commit, entry },
                                });
                            }
                        }
                        Wrap::NewState { nonce } => {
                            self.post(Envelope { from, to, message: Message::NewState { nonce, entries } });
                        }
                    }
                }
                Output::ReadSnapshot { to, nonce, at, after } => {
                    self.read_snapshot(id, to, nonce, at, &after)
                }
                Output::MakeCheckpoint => {
                    if !member.stateless {
                        self.checkpoint(id);
                    }
                }
                Output::StageChunk { at, chunk } => {
                    let place = |end: &ChunkEnd| match end {
                        ChunkEnd::More(next) => next.clone(),
                        ChunkEnd::Last => Bytes::new(),
                    };
                    let before = member.disk.snapshot.as_ref().filter(|(stored, _)| *stored == at);
                    let expected = before.map(|(_, end)| place(end)).filter(|_| !chunk.after.is_empty());
                    assert_eq!(chunk.after, expected.unwrap_or_default(), "pieces come in order");
                    member.disk.snapshot = Some((at, chunk.end.clone()));
                    let end = chunk.end;
                    self.input(id, Input::Staged { at, end });
                }
                Output::InstallSnapshot { at } => self.installing.push((id, at)),
                Output::DiscardSnapshot { at } => {
                    drop(member.disk.snapshot.take_if(|(stored, _)| *stored == at));
                }
                Output::Commit { commit } => {
                    let now = self.clocks[usize::from(id)].read(self.now);
                    let replica = member.replica.as_mut().expect("alive");
                    if !member.hangs && !member.stateless {
                        replica.handle(now, Input::Applied { op: commit.op });
                    }
                    for op in replica.committed_above(self.committed.len()) {
                        self.committed.push(op);
                        self.stamps.committed(op);
                    }
                    let index = usize::try_from(commit.op.get()).expect("small") - 1;
                    assert_eq!(self.committed.get(index), Some(&commit.hash), "member {id}, {commit:?}");
                }
                Output::ReadStop { stop } => {
                    let entry = member.staged.get(&stop.op).filter(|entry| entry.header.anchor() == stop);
                    let configuration =
                        entry.and_then(Entry::next_configuration).expect("the stop is in the journal");
                    self.input(id, Input::Stop { stop, configuration });
                }
                Output::Entered { configuration } => self.entered(id, *configuration),
                Output::Reach { .. } => {}
                Output::ReadReady { tickets, op } => {
                    for ticket in tickets {
                        let least = self.reads.remove(&(id, ticket)).unwrap_or(0);
                        assert!(op.get() >= least, "read {ticket} at {op:?} misses acknowledged op {least}");
                        member.ready.push((ticket, op));
                    }
                }
                Output::ReadsRefused { tickets } => member.refused.extend(tickets),
                Output::Status(_) | Output::ProposalsAbandoned => {}
                Output::Halt(halt) => member.halt = Some(halt),
            }
        }
        if !self.members[usize::from(id)].stalled {
            self.finish_writes(id);
        }
    }

    fn read_snapshot(&mut self, id: u8, to: MemberId, nonce: u64, at: Option<Anchor>, after: &Bytes) {
        let from = MemberId::new(id);
        if at.is_none() && self.checkpoints_when_asked && !self.members[usize::from(id)].stateless {
            self.checkpoint(id);
        }
        let member = &mut self.members[usize::from(id)];
        let have = at.filter(|at| member.pinned == Some(*at)).unwrap_or(member.disk.checkpoint);
        let replica = member.replica.as_ref().expect("alive");
        if have.op == Op::ZERO || member.stateless || at.is_some_and(|at| at != have) {
            let message = Message::SnapshotGone { nonce, stateless: member.stateless };
            if to == from {
                return self.input(id, Input::OwnPiece { message });
            }
            return self.post(Envelope { from, to, message });
        }
        member.pinned = Some(have);
        if let Some(point) = replica.cx.log.point(have.op).filter(|point| point.anchor == have) {
            self.points.insert(have, point);
        }
        let end = match &after[..] {
            b"" => ChunkEnd::More("a".into()),
            b"a" => ChunkEnd::More("b".into()),
            _ => ChunkEnd::Last,
        };
        let rows = Bytes::copy_from_slice(&have.hash.get().to_le_bytes());
        let chunk = Chunk::new(after.clone(), rows, end);
        let view = replica.view();
        self.post(Envelope { from, to, message: Message::SnapshotChunk { nonce, view, at: have, chunk } });
    }

    /// The engine puts complete snapshots in the place of its state. False if there was none.
    pub(super) fn install_snapshots(&mut self) -> bool {
        let installing = std::mem::take(&mut self.installing);
        let any = !installing.is_empty();
        for (id, at) in installing {
            let member = &mut self.members[usize::from(id)];
            if member.replica.is_none() {
                continue;
            }
            let stored = member.disk.snapshot.take();
            assert!(matches!(stored, Some((stored, ChunkEnd::Last)) if stored == at), "all of it");
            if self.spoiled.remove(&at) {
                self.input(id, Input::SnapshotRefused { at });
                continue;
            }
            let point = self.points[&at];
            let mut known = self.configurations.values().filter(|it| it.stop.op <= at.op);
            let configuration = known.next_back().cloned();
            member.disk.put_state((point, configuration.clone()), &mut member.writing);
            member.stateless = false;
            self.installed += 1;
            let configuration = configuration.map(Box::new);
            self.input(id, Input::SnapshotInstalled { point, configuration });
            // As the applier does, which first reports the state itself.
            let member = &self.members[usize::from(id)];
            let Some(replica) = member.replica.as_ref() else { continue };
            if replica.cx.halted {
                continue;
            }
            assert!(at.op <= replica.commit().op, "member {id}: only what is committed is applied");
            let applied = replica.cx.applicable();
            if !member.hangs {
                self.input(id, Input::Applied { op: applied });
            }
        }
        any
    }

    /// Takes a checkpoint of the committed and durable entries.
    pub(super) fn checkpoint(&mut self, id: u8) {
        let replica = self.replica(id);
        let checkpoint = replica.cx.anchor(replica.cx.applicable().min(replica.cx.log.durable().op));
        self.input(id, Input::Checkpointed { checkpoint });
    }

    /// Makes everything durable that was asked for, and notifies the replica.
    pub(super) fn finish_writes(&mut self, id: u8) {
        self.finish_some(id, usize::MAX);
    }

    /// Makes the first `count` writes durable, and notifies the replica.
    pub(super) fn finish_some(&mut self, id: u8, count: usize) {
        if let Some(seq) = self.write_some(id, count) {
            self.input(id, Input::Durable { seq });
        }
    }

    /// Makes the first `count` writes durable, and notifies nobody.
    pub(super) fn write_some(&mut self, id: u8, count: usize) -> Option<WriteSeq> {
        let (wall, once) = (self.now_of(id).wall, self.written_once);
        let member = &mut self.members[usize::from(id)];
        let mut last = None;
        for _ in 0..count.min(member.writing.len()) {
            let (seq, write) = member.writing.pop_front()?;
            member.disk.write(write, wall, once);
            last = Some(seq);
        }
        self.check_committed_is_kept();
        last
    }

    /// A replication quorum of the members of some epoch holds every committed entry. A damaged member counts, because
    /// it claims nothing.
    fn check_committed_is_kept(&self) {
        for (index, hash) in self.committed.iter().enumerate().rev().take(8) {
            let op = Op::new(index as u64 + 1);
            let is_kept = |cluster: &Cluster| {
                let voters = (0..).zip(&self.members).filter(|(id, _)| cluster.is_voter(MemberId::new(*id)));
                let holders = voters.filter(|(_, member)| {
                    let entry = member.disk.entries.get(&op).map(|entry| entry.header.hash());
                    member.disk.damaged.is_some() || op <= member.disk.floor.0.op || entry == Some(*hash)
                });
                holders.count() >= cluster.replication_quorum()
            };
            let later = self.configurations.values().map(|it| it.cluster("group").expect("valid"));
            assert!(
                is_kept(&self.cluster) || later.into_iter().any(|it| is_kept(&it)),
                "{op:?} is held by too few"
            );
        }
    }

    /// A member is in an epoch: all that enter it have the same configuration.
    fn entered(&mut self, id: u8, configuration: Configuration) {
        let epoch = configuration.epoch;
        let known = self.configurations.entry(epoch).or_insert_with(|| configuration.clone());
        assert_eq!(*known, configuration, "member {id} enters {epoch:?}");
    }

    /// A member that is in no configuration yet: an empty disk, and no process.
    pub(super) fn machine(&mut self) -> u8 {
        self.members.push(Member::new());
        self.clocks.push(Clock::right());
        u8::try_from(self.members.len() - 1).expect("few members")
    }

    /// Formats the disk of a machine as that of the standby that the configuration of `of` names, and starts it.
    pub(super) fn join(&mut self, machine: u8, of: u8) {
        let (configuration, ended) = {
            let replica = self.replica(of);
            (replica.configuration().clone(), replica.cx.epochs.ended)
        };
        let disk = &mut self.members[usize::from(machine)].disk;
        disk.formation = FormationStep::Formed;
        disk.view = configuration.first;
        let id = disk_of(MemberId::new(machine));
        disk.membership = Some(Membership { configuration, disk: id, retired: false, ended });
        self.start(machine);
    }

    /// Asks a member to change the member list.
    pub(super) fn change(&mut self, id: u8, change: Change) {
        let request = self.change_request(id, change);
        self.input(id, Input::Change { change: Box::new(request) });
    }

    /// The request for a change, as the primary `id` would make it.
    pub(super) fn change_request(&self, id: u8, change: Change) -> ChangeRequest {
        let configuration = self.replica(id).configuration();
        let goes = match &change {
            Change::Remove { id } | Change::Replace { old: id, .. } => Some(*id),
            _ => None,
        };
        let new = match &change {
            Change::Replace { new, .. } => Some(*new),
            _ => None,
        };
        let me = MemberId::new(id);
        let voters = configuration.members.iter().filter(|(_, it)| !it.is_standby).map(|(id, _)| *id);
        let stay = voters.chain(new).filter(|id| Some(*id) != goes);
        let first = if goes == Some(me) { stay.clone().next() } else { Some(me) };
        let disks = stay.map(|id| (id, disk_of(id))).collect();
        ChangeRequest {
            ends: configuration.epoch,
            nonce: u128::from(self.lives),
            change,
            first: first.unwrap_or(me),
            history: HistoryId(9),
            disks,
        }
    }

    fn post(&mut self, envelope: Envelope) {
        self.sent.push(envelope.clone());
        if !self.cut.contains(&(envelope.from.get(), envelope.to.get())) {
            if self.lag.is_zero() {
                self.network.push_back(envelope);
            } else {
                let is_bulk = envelope.message.lane() == Lane::Bulk;
                let lag = self.lag + if is_bulk { self.lag_of_bulk } else { Duration::ZERO };
                let due = self.now.monotonic.after(lag);
                let place = self.on_the_way.partition_point(|(other, _)| *other <= due);
                self.on_the_way.insert(place, (due, envelope));
            }
        }
    }

    /// Delivers one message; false if there is none.
    pub(super) fn deliver(&mut self) -> bool {
        let Some(envelope) = self.network.pop_front() else { return false };
        if usize::from(envelope.to.get()) >= self.members.len() {
            // No machine has that address.
            return true;
        }
        if self.members[usize::from(envelope.to.get())].paused {
            self.network.push_back(envelope);
            return self.network.iter().any(|other| !self.members[usize::from(other.to.get())].paused);
        }
        let Envelope { from, to, message } = envelope;
        self.input(to.get(), Input::Message { from, message });
        true
    }

    /// Delivers all messages in flight and those that follow from them, without advancing the time.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if !self.deliver() && !self.install_snapshots() {
                return;
            }
        }
        panic!("the group does not come to rest");
    }

    /// Time passes, and nobody looks.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic.after(time);
        self.now.wall = self.now.wall.advance(u64::try_from(time.as_millis()).expect("not that long"));
    }

    /// Lets one millisecond pass.
    pub(super) fn tick(&mut self) {
        self.pass(Duration::from_millis(1));
        while self.on_the_way.front().is_some_and(|(due, _)| *due <= self.now.monotonic) {
            self.network.extend(self.on_the_way.pop_front().map(|(_, envelope)| envelope));
        }
        for id in 0..u8::try_from(self.members.len()).expect("few members") {
            let member = &self.members[usize::from(id)];
            let due = member.replica.as_ref().filter(|_| !member.paused).and_then(Replica::poll_timeout);
            if due.is_some_and(|due| due <= self.now_of(id).monotonic) {
                self.input(id, Input::Timeout);
            }
        }
    }

    pub(super) fn run_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..60_000 {
            if condition(self) {
                return;
            }
            self.settle();
            if condition(self) {
                return;
            }
            self.tick();
        }
        for member in &self.members {
            let Some(replica) = &member.replica else { continue };
            eprintln!(
                "{:?} log_view {:?} head {:?} durable {:?} status {:?} commit {:?} checkpoint {:?} floor {:?} halt {:?} damaged {:?} entries {:?} bad {:?} marked {:?} staged {:?}",
                replica.status(),
                replica.log_view(),
                replica.head(),
                replica.durable(),
                replica.cx.durable_prefix(),
                replica.commit(),
                replica.checkpoint(),
                member.disk.floor.0,
                member.halt,
                member.disk.damaged,
                member.disk.entries.keys(),
                member.disk.bad,
                replica.cx.log.faulty_above(Op::ZERO).collect::<Vec<_>>(),
                member.staged.keys(),
            );
            eprintln!(
                "{:?}
{:?}",
                replica.state, replica.cx.writes
            );
        }
        panic!("not within a minute: {what}");
    }

    pub(super) fn run_for(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds {
            self.settle();
            self.tick();
        }
        self.settle();
    }

    /// Cuts a member off, both ways.
    pub(super) fn isolate(&mut self, id: u8) {
        for other in 0..u8::try_from(self.members.len()).expect("few members") {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
        let id = MemberId::new(id);
        self.network.retain(|envelope| envelope.from != id && envelope.to != id);
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(super) fn level(&self) -> bool {
        let alive: Vec<&Replica> = self.members.iter().filter_map(|member| member.replica.as_ref()).collect();
        alive.iter().all(|replica| replica.head() == alive[0].head() && replica.commit() == replica.head())
    }
}
