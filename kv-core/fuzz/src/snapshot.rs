//! Pieces of a snapshot from a peer that differ from the ones that were read there.

use super::dice::{Dice, entry_after};
use bytes::Bytes;
use kv_core::config::Options;
use kv_core::engine::Snapshot;
use kv_core::ids::{Anchor, Hash, LeaseId, Op, RequestNumber, SessionId};
use kv_core::kv::{Limits, Receiver, StateMachine};
use kv_core::message::{Chunk, ChunkEnd, Command, Entry, LeaseCommand, Lifetime, Operation, Request};
use kv_core::storage::simulated::Disk;
use std::sync::OnceLock;

/// About the bytes of a piece, so that there are several.
const PIECE_BYTES: usize = 150;
/// More than is needed for the data that a few hundred bytes of input can store.
const MOST_BYTES: u64 = 8 << 20;

fn limits() -> Limits {
    let mut options = Options::default();
    (options.max_sessions, options.max_in_flight_per_session, options.cache_bytes) = (4, 8, 1 << 20);
    options.max_leases = 2;
    Limits::from(&options)
}

/// The pieces of a state with a session and some keys, its point, and its digest.
struct Source {
    pieces: Vec<Chunk>,
    at: Anchor,
    digest: Hash,
}

fn source() -> &'static Source {
    static SOURCE: OnceLock<Source> = OnceLock::new();
    SOURCE.get_or_init(|| {
        let disk = Disk::new();
        let mut state = StateMachine::open(disk.storage(), limits()).expect("an empty disk opens");
        let mut last: Option<Entry> = None;
        for n in 0..8u8 {
            let number = RequestNumber::new(n.into());
            let session = SessionId::new(u64::from(n > 0));
            let key = Bytes::from(vec![b'k', n % 5]);
            let value = vec![n; 20 * usize::from(n)].into();
            let operation = match n {
                0 => Operation::OpenSession { nonce: 7 },
                1 => Operation::Command(Command::Lease(LeaseCommand::Grant { ttl_ms: 1000 })),
                _ => {
                    let life = match n {
                        2 => Lifetime { ttl_ms: Some(500), lease: Some(LeaseId::new(2)) },
                        _ => Lifetime::FOREVER,
                    };
                    Operation::Command(Command::Put { key, value, condition: None, life })
                }
            };
            let request = Request { session, number, acked_through: number.back(3), operation };
            let entry = entry_after(last.as_ref(), 1, request.encode().to_vec());
            state.apply(&entry).expect("the disk is good");
            last = Some(entry);
        }
        let checkpoint = state.begin_checkpoint().expect("there is something new");
        state.finish_checkpoint(checkpoint.run().expect("the disk is good"));
        let snapshot = state.snapshot().expect("there is a checkpoint");
        let digest = state.digest().expect("the disk is good");
        Source { pieces: pieces(&snapshot), at: snapshot.anchor(), digest }
    })
}

fn pieces(snapshot: &Snapshot) -> Vec<Chunk> {
    let (mut pieces, mut after) = (Vec::new(), Bytes::new());
    loop {
        let chunk = snapshot.chunk(&after, PIECE_BYTES).expect("the disk is good");
        let end = chunk.end.clone();
        pieces.push(chunk);
        match end {
            ChunkEnd::More(next) => after = next,
            ChunkEnd::Last => return pieces,
        }
    }
}

/// Changes bytes, and perhaps how many there are.
fn change(bytes: &Bytes, dice: &mut Dice<'_>) -> Bytes {
    let mut changed = bytes.to_vec();
    let at = usize::try_from(dice.below(changed.len() as u64 + 1)).expect("short");
    match dice.below(4) {
        0 => changed.truncate(at),
        1 => changed.insert(at, dice.byte()),
        2 => changed.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xff),
        _ => {
            if let Some(byte) = changed.get_mut(at) {
                *byte ^= dice.byte().max(1);
            }
        }
    }
    changed.into()
}

/// A piece, or a forgery of it with a valid checksum. True if its rows are not those of the source.
fn craft(chunk: &mut Chunk, dice: &mut Dice<'_>) -> bool {
    match dice.below(10) {
        0 | 1 => {
            *chunk = Chunk::new(chunk.after.clone(), change(&chunk.rows, dice), chunk.end.clone());
            return true;
        }
        // Damaged on its way.
        2 => chunk.rows = change(&chunk.rows, dice),
        3 => chunk.after = change(&chunk.after, dice),
        4 => chunk.end = ChunkEnd::More(change(&chunk.after, dice)),
        5 => chunk.end = ChunkEnd::Last,
        _ => {}
    }
    false
}

/// Sends pieces, some of them crafted, with a checksum that fits: they are refused, or what becomes the state can be
/// read. What was not changed arrives as it is.
pub fn snapshot(data: &[u8]) {
    let mut dice = Dice(data);
    let Source { pieces, at, digest } = source();
    let disk = Disk::new();
    let open = || Receiver::open(disk.storage(), limits());
    let mut receiver = open().expect("an empty disk opens");
    let (mut crafted, mut next) = (false, 0);
    let named = if dice.below(8) == 0 { Anchor::new(Op::new(dice.below(1 << 16)), at.hash) } else { *at };
    while let Some(piece) = pieces.get(next) {
        let mut chunk = piece.clone();
        crafted |= craft(&mut chunk, &mut dice);
        match dice.below(32) {
            1 => continue,
            2 => {
                // Of the files in which the pieces are stored.
                let names = disk.names();
                let at = usize::try_from(dice.below(names.len() as u64 + 1)).expect("few files");
                names.get(at).is_some_and(|name| disk.flip_bit(name, dice.below(1 << 14), 0))
            }
            3 => {
                disk.kill();
                let Ok(opened) = open() else { return };
                receiver = opened;
                false
            }
            _ => false,
        };
        assert!(disk.used() < MOST_BYTES, "{} bytes", disk.used());
        if !receiver.stage(named, &chunk).expect("the disk is good") {
            assert_eq!(receiver.progress(), None, "what was refused is thrown away");
            return;
        }
        next += 1;
    }
    if !matches!(receiver.verify(named), Ok(true)) {
        return;
    }
    let Ok(state) = receiver.switch() else { return };
    state.check_invariants();
    let _ = (state.point(), state.reader().scan(&[], None, 100, 1 << 20));
    if !crafted {
        assert_eq!((state.applied(), state.digest().ok()), (*at, Some(*digest)));
    }
}
