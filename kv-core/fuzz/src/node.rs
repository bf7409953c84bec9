//! A replica that receives nonsense: nothing that a peer sends may make it panic.

use super::dice::{CLUSTER, Dice, entry_after};
use bytes::Bytes;
use kv_core::config::{Cluster, Options};
use kv_core::ids::{
    Anchor, Epoch, Hash, Incarnation, Instant, MemberId, Op, Revision, Round, Timestamp, View, WriteSeq,
};
use kv_core::message::{
    Age, Chunk, ChunkEnd, Entry, EntryMeta, Extent, FetchWhat, FormationStep, Fresh, LogPoint, LogSummary,
    Message, Moment, Recovered, Slot, Write,
};
use kv_core::replica::{Input, Now, Output, Replica, ReplicaConfig};
use kv_core::wire::{decode_message, encode_message};
use std::collections::VecDeque;
use std::sync::OnceLock;
use std::time::Duration;

const ME: MemberId = MemberId::new(1);

/// Two logs that have their first entries in common.
fn logs() -> &'static [Vec<Entry>; 2] {
    static LOGS: OnceLock<[Vec<Entry>; 2]> = OnceLock::new();
    LOGS.get_or_init(|| {
        [0u8, 1].map(|log| {
            let mut entries: Vec<Entry> = Vec::new();
            for n in 0..16u8 {
                let differs = u8::from(n >= 5) * log;
                entries.push(entry_after(entries.last(), u64::from(n / 4 + differs), vec![n, differs]));
            }
            entries
        })
    })
}

/// Feeds a replica with events chosen by the input, as its driver would.
pub fn replica(data: &[u8]) {
    let mut dice = Dice(data);
    let mut builder = Cluster::builder(CLUSTER).member(0, "a:0").member(1, "a:1");
    builder = if dice.chance() { builder.witness(2, "a:2") } else { builder.member(2, "a:2") };
    let cluster = builder.build().expect("a valid cluster");
    let mut options = Options::default();
    options.pipeline_depth = 4;
    let config = ReplicaConfig::new(cluster, ME, options, 1);
    let mut host = Host::new(config, recovered(&mut dice));
    while !dice.is_empty() && !host.halted {
        host.step(&mut dice);
    }
}

fn recovered(dice: &mut Dice<'_>) -> Recovered {
    let mut recovered = Recovered::empty();
    if dice.below(8) == 0 {
        return recovered;
    }
    let log = &logs()[usize::from(dice.chance())];
    let held = usize::try_from(dice.below(12)).expect("few");
    recovered.formation = FormationStep::Formed;
    recovered.view = View::new(dice.below(6));
    recovered.log_view = View::new(dice.below(recovered.view.get() + 1));
    recovered.entries = log[..held].iter().map(|entry| EntryMeta::of(&entry.header)).collect();
    recovered.incarnation = Incarnation::new(1);
    let checkpoint = dice.below(held as u64 + 1);
    if let Some(entry) = log[..held].iter().find(|entry| entry.header.op == Op::new(checkpoint)) {
        recovered.checkpoint = entry.header.anchor();
    }
    recovered
}

/// What surrounds a replica: it keeps the contract of its driver, whatever the peers do.
struct Host {
    replica: Replica,
    now: Now,
    writes: VecDeque<WriteSeq>,
    commit: Op,
    applied: Op,
    /// What is to be answered about snapshots.
    snapshots: VecDeque<Input>,
    nonces: Vec<u64>,
    halted: bool,
}

impl Host {
    fn new(config: ReplicaConfig, recovered: Recovered) -> Self {
        let now = Now { monotonic: Instant::new(1_000_000_000), wall: Timestamp::new(1_700_000_000_000) };
        let applied = recovered.checkpoint.op;
        let mut host = Self {
            replica: Replica::new(config, recovered, now),
            now,
            writes: VecDeque::new(),
            commit: applied,
            applied,
            snapshots: VecDeque::new(),
            nonces: vec![0],
            halted: false,
        };
        host.drain();
        host
    }

    fn step(&mut self, dice: &mut Dice<'_>) {
        let input = match dice.below(16) {
            0 => match self.writes.pop_front() {
                Some(seq) => Input::Durable { seq },
                None => return,
            },
            1 => match self.writes.drain(..).next_back() {
                Some(seq) => Input::Durable { seq },
                None => return,
            },
            2 if self.applied < self.commit => {
                self.applied = self.commit;
                Input::Applied { op: self.commit }
            }
            3 => match self.replica.poll_timeout() {
                Some(at) => {
                    self.now.monotonic = self.now.monotonic.max(at);
                    Input::Timeout
                }
                None => return,
            },
            4 => Input::Propose { requests: vec![Bytes::from(vec![dice.byte()])] },
            5 => Input::Read { ticket: dice.below(256) },
            6 => Input::PeerLost { peer: member(dice) },
            7 => match dice.below(4) {
                0 => Input::Handover,
                1 => Input::HandoverTo { successor: member(dice) },
                _ => Input::Faulty { op: Op::new(dice.below(20)) },
            },
            8 => match self.snapshots.pop_front() {
                Some(input) => input,
                None => return,
            },
            _ => {
                let from = member(dice);
                // Only messages that the wire accepts.
                let Ok(message) = decode_message(encode_message(&self.message(dice))) else { return };
                Input::Message { from, message }
            }
        };
        self.replica.handle(self.now, input);
        self.replica.check_invariants();
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Write { seq, write } => {
                    self.writes.push_back(seq);
                    if let Write::Rebase(rebase) = write {
                        self.commit = self.commit.max(rebase.point.anchor.op);
                        self.applied = self.applied.max(rebase.point.anchor.op);
                    }
                }
                Output::Commit { commit } => self.commit = self.commit.max(commit.op),
                Output::Send {
                    message:
                        Message::Fetch { nonce, .. }
                        | Message::GetState { nonce, .. }
                        | Message::GetSnapshot { nonce, .. },
                    ..
                } => self.nonces.push(nonce),
                Output::StageChunk { at, chunk } => {
                    self.snapshots.push_back(Input::Staged { at, end: chunk.end })
                }
                Output::InstallSnapshot { at } => self.snapshots.push_back(Input::SnapshotRefused { at }),
                Output::Halt(_) => self.halted = true,
                _ => {}
            }
        }
    }

    /// One that it asked with, most likely lately.
    fn nonce(&self, dice: &mut Dice<'_>) -> u64 {
        let back = usize::try_from(dice.below(4)).expect("few");
        self.nonces.iter().rev().nth(back).copied().unwrap_or_default()
    }

    fn message(&self, dice: &mut Dice<'_>) -> Message {
        let view = view(dice, self.replica.view());
        match dice.below(17) {
            0 => Message::Prepare { view, commit: anchor(dice), entry: entry(dice) },
            1 => Message::PrepareOk { view, log: anchor(dice) },
            2 => Message::Commit {
                view,
                commit: anchor(dice),
                age: age(dice),
                round: Round::new(dice.counter(4)),
                trim: Op::new(dice.counter(20)),
                fresh: dice.chance().then(|| Fresh { op: Op::new(dice.counter(20)), since: moment(dice) }),
            },
            3 => Message::CommitOk {
                view,
                round: Round::new(dice.counter(4)),
                log: dice.chance().then(|| anchor(dice)),
                checkpoint: Op::new(dice.counter(20)),
                sent: moment(dice),
            },
            4 => Message::StartViewChange { view },
            5 | 6 => Message::DoViewChange { view, log: summary(dice, view), ages: vec![age(dice)] },
            7 | 8 => Message::StartView {
                view,
                commit: anchor(dice),
                hashes: hashes(dice),
                nonce: self.nonce(dice),
            },
            9 => Message::GetState { view, nonce: dice.below(256) },
            10 => Message::Fetch {
                from: Op::new(dice.counter(20)),
                through: Op::new(dice.counter(20)),
                hash: dice.chance().then(|| anchor(dice).hash),
                nonce: dice.below(256),
                what: if dice.chance() { FetchWhat::Headers } else { FetchWhat::Entries },
            },
            11 => Message::Headers { nonce: self.nonce(dice), hashes: hashes(dice) },
            12 => Message::NewState { nonce: self.nonce(dice), entries: entries(dice) },
            13 => Message::TooOld {
                nonce: self.nonce(dice),
                checkpoint: LogPoint {
                    anchor: anchor(dice),
                    next_revision: Revision::new(dice.counter(20)),
                    timestamp: Timestamp::new(dice.counter(20)),
                },
                primary_of: dice.chance().then_some(view),
            },
            14 => match dice.below(3) {
                0 => Message::GetSnapshot {
                    nonce: dice.below(256),
                    at: dice.chance().then(|| anchor(dice)),
                    after: dice.chance().then(|| Bytes::from(vec![dice.byte()])),
                },
                1 => Message::SnapshotGone { nonce: self.nonce(dice), stateless: dice.chance() },
                _ => Message::SnapshotChunk {
                    nonce: self.nonce(dice),
                    view,
                    at: anchor(dice),
                    chunk: chunk(dice),
                },
            },
            15 => Message::StateDigest { op: Op::new(dice.counter(20)), digest: anchor(dice).hash },
            _ => Message::Formation {
                step: [FormationStep::Empty, FormationStep::Formatted, FormationStep::Formed]
                    [usize::try_from(dice.below(3)).expect("few")],
                ask: dice.chance(),
            },
        }
    }
}

fn member(dice: &mut Dice<'_>) -> MemberId {
    MemberId::new(u8::try_from(dice.below(4)).expect("few"))
}

/// The last number of a view that a decoder accepts.
const LAST_NUMBER: u64 = (1 << 39) - 1;
/// The last epoch that a decoder accepts.
const LAST_EPOCH: Epoch = Epoch::new((1 << 22) - 1);

/// Near the present one, rarely far away or of another epoch.
fn view(dice: &mut Dice<'_>, now: View) -> View {
    let offset = dice.byte();
    match offset {
        0xff => View::of(LAST_EPOCH, LAST_NUMBER),
        0xfe => View::ZERO,
        0xfd => View::of(now.epoch().next(), now.number()),
        0xfc => View::of(now.epoch(), LAST_NUMBER),
        _ => {
            let number = (now.number() + u64::from(offset % 6)).saturating_sub(2);
            View::of(now.epoch(), number.min(LAST_NUMBER))
        }
    }
}

fn entry(dice: &mut Dice<'_>) -> Entry {
    let log = &logs()[usize::from(dice.chance())];
    log[usize::try_from(dice.below(16)).expect("few")].clone()
}

/// A run of one log, rarely something else.
fn entries(dice: &mut Dice<'_>) -> Vec<Entry> {
    let log = &logs()[usize::from(dice.chance())];
    let from = usize::try_from(dice.below(16)).expect("few");
    let count = usize::try_from(dice.below(8)).expect("few");
    let mut run: Vec<Entry> = log[from..].iter().take(count).cloned().collect();
    if dice.below(8) == 0 {
        run.push(entry(dice));
    }
    run
}

fn age(dice: &mut Dice<'_>) -> Age {
    let long = |dice: &mut Dice<'_>| Duration::from_millis(dice.counter(40));
    let moved = dice.chance().then(|| long(dice));
    Age { least: long(dice), followed: dice.chance(), moved }
}

/// Of the host's own life, now and then.
fn moment(dice: &mut Dice<'_>) -> Moment {
    Moment { life: dice.below(3), at: Instant::new(dice.counter(40)) }
}

fn anchor(dice: &mut Dice<'_>) -> Anchor {
    match dice.byte() {
        0xff => Anchor::new(Op::new((1 << 62) - 1), Hash::of(b"far")),
        0xfe => Anchor::new(Op::new(dice.below(20)), Hash::of(b"else")),
        0xfd => Anchor::ZERO,
        _ => entry(dice).header.anchor(),
    }
}

fn hashes(dice: &mut Dice<'_>) -> Vec<(Op, Hash)> {
    let pairs = entries(dice).into_iter().map(|entry| (entry.header.op, entry.header.hash()));
    let mut hashes: Vec<_> = pairs.collect();
    if dice.below(8) == 0 {
        hashes.push((Op::new(dice.below(20)), Hash::of(b"else")));
    }
    hashes
}

fn summary(dice: &mut Dice<'_>, view: View) -> LogSummary {
    let log = &logs()[usize::from(dice.chance())];
    let commit = dice.below(12);
    let count = dice.below(6);
    let at =
        |op: u64| log.iter().find(|entry| entry.header.op == Op::new(op)).map(|entry| entry.header.anchor());
    let slot = |op: u64, dice: &mut Dice<'_>| {
        let hash = at(op).map_or(Hash::of(b"else"), |anchor| anchor.hash);
        match dice.below(5) {
            0 => Slot::Faulty(Some(hash)),
            1 => Slot::Faulty(None),
            _ => Slot::Present(hash),
        }
    };
    LogSummary {
        log_view: View::of(view.epoch(), view.number().saturating_sub(dice.below(4))),
        checkpoint: at(dice.below(commit + 1)).unwrap_or(Anchor::ZERO),
        commit: at(commit).unwrap_or(Anchor::ZERO),
        lacks: Vec::new(),
        head: Op::new(commit + count),
        suffix: (1..=count).map(|n| slot(commit + n, dice)).collect(),
        tail: Vec::new(),
        extent: if dice.below(8) == 0 { Extent::Open } else { Extent::Through(Op::new(commit + count)) },
    }
}

fn chunk(dice: &mut Dice<'_>) -> Chunk {
    let rows = Bytes::from(vec![dice.byte(); 4]);
    let after = if dice.chance() { Bytes::new() } else { Bytes::from(vec![dice.byte()]) };
    let end = if dice.chance() { ChunkEnd::More(Bytes::from(vec![dice.byte()])) } else { ChunkEnd::Last };
    let intact = Chunk::new(after, rows, end);
    let checksum = if dice.chance() { intact.checksum } else { Hash::ZERO };
    Chunk { checksum, ..intact }
}
