//! A state on its way to another member.

use super::model::Workload;
use super::*;
use crate::engine::Snapshot;
use crate::ids::{Instant, MemberId};
use crate::message::{Chunk, ChunkEnd};
use std::collections::BTreeSet;

/// Small pieces, so that there are many.
const PIECE: usize = 100;

/// A source with a checkpoint, and more applied above it.
fn source(seed: u64) -> (Disk, StateMachine, Anchor, Hash) {
    let disk = Disk::new();
    let mut workload = Workload::new(seed);
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..60 {
        workload.step(&mut state);
    }
    let checkpoint = state.begin_checkpoint().expect("there is something new");
    state.finish_checkpoint(checkpoint.run().unwrap());
    let (at, digest) = (state.checkpoint(), state.digest().unwrap());
    for _ in 0..10 {
        workload.step(&mut state);
    }
    (disk, state, at, digest)
}

fn receiver(disk: &Disk) -> Receiver {
    Receiver::open(disk.storage(), limits()).unwrap()
}

fn pieces(snapshot: &Snapshot) -> Vec<Chunk> {
    let mut pieces = Vec::new();
    let mut after = Bytes::new();
    loop {
        let chunk = snapshot.chunk(&after, PIECE).unwrap();
        assert!(chunk.is_intact());
        let end = chunk.end.clone();
        pieces.push(chunk);
        match end {
            ChunkEnd::More(next) => after = next,
            ChunkEnd::Last => return pieces,
        }
    }
}

/// Rules T1 and T2.
#[test]
fn t1_t2_the_checkpoint_arrives_while_writes_go_on() {
    for seed in 0..10 {
        let (_disk, mut state, at, digest) = source(seed);
        let snapshot = state.snapshot().unwrap();
        assert_eq!(snapshot.anchor(), at);
        // A later checkpoint replaces the rows of the snapshot, but the snapshot does not change.
        let later = state.begin_checkpoint().unwrap();
        state.finish_checkpoint(later.run().unwrap());
        let pieces = pieces(&snapshot);
        assert!(pieces.len() > 4, "{}", pieces.len());

        let disk = Disk::new();
        let mut receiver = receiver(&disk);
        for piece in &pieces {
            assert!(receiver.stage(at, piece).unwrap());
        }
        assert!(receiver.verify(at).unwrap());
        let mut received = receiver.switch().unwrap();
        assert_eq!((received.applied(), received.checkpoint()), (at, at));
        assert_eq!(received.digest().unwrap(), digest);
        received.check_invariants();
        assert!(!disk.names().contains(&"state.transfer".to_owned()));

        // And it continues like any other state.
        let mut workload = Workload::new(seed);
        let mut twin = StateMachine::in_memory(limits());
        while twin.applied() != received.applied() {
            workload.step(&mut twin);
        }
        let entry = workload.step(&mut twin);
        received.apply(&entry).unwrap();
        assert_eq!(received.digest().unwrap(), twin.digest().unwrap());
        let checkpoint = received.begin_checkpoint().unwrap();
        received.finish_checkpoint(checkpoint.run().unwrap());
        drop(received);
        assert_eq!(
            StateMachine::open(disk.storage(), limits()).unwrap().digest().unwrap(),
            twin.digest().unwrap()
        );
    }
}

/// Rule T2: pieces that were damaged, that are missing, or of two snapshots are never taken for a state.
#[test]
fn t2_an_incomplete_snapshot_is_discarded() {
    let (_disk, state, at, _) = source(1);
    let pieces = pieces(&state.snapshot().unwrap());
    let damage = |change: &dyn Fn(usize, &mut Chunk)| {
        let disk = Disk::new();
        let mut receiver = receiver(&disk);
        let mut stored = true;
        for (index, piece) in pieces.iter().enumerate() {
            let mut piece = piece.clone();
            change(index, &mut piece);
            stored = stored && receiver.stage(at, &piece).unwrap();
        }
        let whole = receiver.verify(at).unwrap();
        assert!(!whole && receiver.progress().is_none());
        assert_eq!(disk.names(), Vec::<String>::new());
        stored
    };
    let flip = |piece: &mut Chunk| {
        let mut rows = piece.rows.to_vec();
        *rows.last_mut().unwrap() ^= 1;
        piece.rows = rows.into();
    };
    assert!(
        !damage(&|index, piece| if index == 2 {
            flip(piece)
        }),
        "the checksum of the piece"
    );
    assert!(!damage(&|index, piece| if index == 2 {
        piece.after = "\u{1}zzz".into();
    }));
    assert!(!damage(&|index, piece| if index == 2 {
        *piece = Chunk::new(piece.after.clone(), Bytes::from_static(&[7, 1, 2, 3]), piece.end.clone());
    }));
    assert!(!damage(&|index, piece| if index == 2 {
        piece.end = ChunkEnd::Last;
    }));
}

/// T6: those of another snapshot, which were begun meanwhile, stay.
#[test]
fn t6_unneeded_pieces_are_deleted() {
    let (_disk, state, at, _) = source(2);
    let pieces = pieces(&state.snapshot().unwrap());
    let disk = Disk::new();
    let mut receiver = receiver(&disk);
    assert!(receiver.stage(at, &pieces[0]).unwrap());
    receiver.discard_at(Anchor { op: at.op.next(), ..at }).unwrap();
    assert_eq!(receiver.progress(), Some((at, pieces[0].end.clone())));
    receiver.discard_at(at).unwrap();
    assert_eq!((receiver.progress(), disk.names()), (None, Vec::new()));
}

#[test]
fn t2_a_part_of_a_snapshot_is_no_state() {
    let (_disk, state, at, _) = source(2);
    let pieces = pieces(&state.snapshot().unwrap());
    let disk = Disk::new();
    let mut receiver = receiver(&disk);
    for piece in &pieces[..pieces.len() - 1] {
        assert!(receiver.stage(at, piece).unwrap());
    }
    assert!(!receiver.verify(at).unwrap());
}

/// Rule T2, at every operation on the disk: after a power cut there is the old state or the new one, and a partly
/// stored snapshot is resumed or fetched again (rule T6).
#[test]
fn t2_f_disk_20_a_power_cut_during_the_transfer_leaves_the_old_state_or_the_new() {
    let (_disk, state, at, digest) = source(3);
    let snapshot = state.snapshot().unwrap();
    let pieces = pieces(&snapshot);
    let mut seen = [0; 3];
    for operation in (0..).map(|round| 1 + round * 3) {
        let mut rng = fastrand::Rng::with_seed(operation);
        let (disk, old, old_at, old_digest) = source(4);
        drop(old);
        let old_disk = disk;
        old_disk.fail_after(operation);
        let done = (|| -> Result<(), EngineError> {
            let mut receiver = Receiver::open(old_disk.storage(), limits())?;
            for piece in &pieces {
                assert!(receiver.stage(at, piece)?);
            }
            assert!(receiver.verify(at)?);
            receiver.switch().map(drop)
        })();
        old_disk.crash(&mut rng);
        let found = StateMachine::open(old_disk.storage(), limits()).unwrap();
        let new = found.applied() == at;
        assert!(new || found.applied() == old_at, "operation {operation}");
        assert_eq!(found.digest().unwrap(), if new { digest } else { old_digest }, "operation {operation}");
        drop(found);
        assert!(done.is_err() || new, "operation {operation}: an acknowledged switch is undone");
        let mut again = Receiver::open(old_disk.storage(), limits()).unwrap();
        if new {
            assert!(again.progress().is_none(), "operation {operation}");
        } else {
            let rest = match again.progress() {
                Some((_, ChunkEnd::More(place))) => {
                    seen[1] += 1;
                    pieces.iter().position(|piece| piece.after == place).expect("a place between two pieces")
                }
                Some((_, ChunkEnd::Last)) => pieces.len(),
                None => 0,
            };
            for piece in &pieces[rest..] {
                assert!(again.stage(at, piece).unwrap(), "operation {operation}");
            }
            assert!(again.verify(at).unwrap(), "operation {operation}");
            assert_eq!(again.switch().unwrap().digest().unwrap(), digest, "operation {operation}");
        }
        seen[usize::from(new) * 2] += 1;
        if done.is_ok() {
            break;
        }
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");
}

/// Rule T6: the source is restarted in the middle. Its checkpoint is the same, and the transfer continues at the same
/// place.
#[test]
fn t6_a_restarted_source_resumes() {
    let (disk, state, at, digest) = source(5);
    let before = pieces(&state.snapshot().unwrap());
    drop(state);
    disk.kill();
    let state = StateMachine::open(disk.storage(), limits()).unwrap();
    let mut sources = Sources::default();
    sources.publish(state.snapshot());
    let now = Instant::new(1);
    let peer = MemberId::new(2);
    let snapshot = sources.get(peer, Some(at), now).expect("its checkpoint is the same");
    let after = pieces(&snapshot);
    assert!(before == after, "the rows of one checkpoint are the same whenever they are read");
    let other = Disk::new();
    let mut receiver = receiver(&other);
    let half = before.len() / 2;
    for piece in before[..half].iter().chain(&after[half..]) {
        assert!(receiver.stage(at, piece).unwrap());
    }
    assert!(receiver.verify(at).unwrap());
    assert_eq!(receiver.switch().unwrap().digest().unwrap(), digest);
}

/// A snapshot that a peer fetches is kept; one that is not requested any more is released.
#[test]
fn t6_a_source_keeps_what_is_being_fetched_for_a_while() {
    let (_disk, mut state, at, _) = source(6);
    let mut sources = Sources::default();
    let (peer, other) = (MemberId::new(1), MemberId::new(2));
    let second = |seconds: u64| Instant::new(seconds * 1_000_000_000);
    assert!(sources.get(peer, None, second(0)).is_none());
    sources.publish(state.snapshot());
    assert_eq!(sources.get(peer, None, second(0)).map(|it| it.anchor()), Some(at));
    let later = state.begin_checkpoint().unwrap();
    state.finish_checkpoint(later.run().unwrap());
    sources.publish(state.snapshot());
    assert!(sources.get(peer, Some(at), second(20)).is_some());
    assert!(sources.get(other, Some(at), second(40)).is_some(), "also for others");
    assert_eq!(sources.get(other, None, second(40)).map(|it| it.anchor()), Some(state.checkpoint()));
    assert!(!sources.held(second(70)).is_empty());
    assert!(sources.held(second(71)).is_empty(), "nobody has asked for 31 seconds");
    assert!(sources.get(peer, Some(at), second(71)).is_none());
}

/// Rule T9a.
#[test]
fn t9a_a_damaged_state_is_kept_until_it_is_replaced() {
    let (disk, state, _, _) = source(7);
    drop(state);
    for (name, at) in places(&image(&disk), 100) {
        disk.flip_bit(&name, at, 3);
    }
    let storage: Arc<dyn Storage> = disk.storage();
    assert!(matches!(StateMachine::open(storage.clone(), limits()), Err(EngineError::Damaged { .. })));
    let before = image(&disk);
    assert!(StateMachine::open_or_set_aside(&storage, &limits()).unwrap().is_none());
    assert!(StateMachine::open_or_set_aside(&storage, &limits()).unwrap().is_none(), "after a restart too");
    assert_eq!(disk.contents("state.damaged"), before.get("state").cloned());
    assert_eq!((disk.contents("state"), run_files(&disk).len()), (None, before.len() - 1));
    let (_, from, at, digest) = source(8);
    let mut receiver = receiver(&disk);
    for piece in &pieces(&from.snapshot().unwrap()) {
        assert!(receiver.stage(at, piece).unwrap());
    }
    assert!(receiver.verify(at).unwrap());
    assert!(disk.contents("state.damaged").is_some(), "what is verified is not in its place yet");
    assert_eq!(receiver.switch().unwrap().digest().unwrap(), digest);
    assert_eq!(disk.names()[0], "state");
    assert_eq!(disk.names().len(), 1 + run_files(&disk).len());
    // A crash before it was removed leaves it for the next start.
    let left = image(&disk);
    disk.put("state.damaged", before["state"].clone());
    disk.put(before.keys().last().unwrap(), vec![7; 5000]);
    assert!(StateMachine::open_or_set_aside(&storage, &limits()).unwrap().is_some());
    assert_eq!(image(&disk), left);
}

/// Rule T9a: a piece ends before a bad block, even if more was requested, so that another source can continue there.
#[test]
fn t9a_a_piece_ends_where_the_state_cannot_be_read() {
    let (disk, state, at, _) = source(11);
    drop(state);
    let places = places(&run_files(&disk), 100);
    let mut ended = 0;
    for (name, offset) in &places {
        let disk = disk.fork();
        disk.flip_bit(name, *offset, 3);
        StateMachine::set_aside(&*disk.storage()).unwrap();
        let Ok(Some(state)) = receiver(&disk).open_aside() else { continue };
        let Some(snapshot) = state.snapshot() else { continue };
        assert_eq!(snapshot.anchor(), at);
        let Ok(Chunk { end: ChunkEnd::More(next), rows, .. }) = snapshot.chunk(b"", usize::MAX) else {
            continue;
        };
        assert!(!rows.is_empty() && snapshot.chunk(&next, usize::MAX).is_err());
        ended += 1;
    }
    assert!(ended > 0, "in none of {} places", places.len());
}

/// Rule T9b: a bad block, whichever it is, takes only its own rows with it, and those of the state itself take no data
/// with them.
#[test]
fn t9b_any_bad_block_leaves_all_others_to_be_fetched() {
    for keeps_its_checkpoint in [true, false] {
        let (disk, state, at, _) = source(11);
        let starts: Vec<Bytes> =
            pieces(&state.snapshot().unwrap()).into_iter().map(|piece| piece.after).collect();
        let disk = if keeps_its_checkpoint { disk } else { received(&state, at) };
        drop(state);
        let mut missing = BTreeSet::new();
        for (name, offset) in places(&run_files(&disk), 100) {
            let disk = disk.fork();
            disk.flip_bit(&name, offset, 3);
            StateMachine::set_aside(&*disk.storage()).unwrap();
            let aside = receiver(&disk).open_aside().unwrap().expect("it is there");
            let snapshot = aside.snapshot().expect("it is a checkpoint");
            assert_eq!(snapshot.anchor(), at);
            let cannot_be_read = |start: &&Bytes| snapshot.chunk(start, PIECE).is_err();
            missing.insert(starts.iter().filter(cannot_be_read).collect::<BTreeSet<_>>());
        }
        missing.remove(&BTreeSet::new());
        let all: Vec<_> = missing.iter().flatten().collect();
        let once: BTreeSet<_> = all.iter().collect();
        assert!(missing.len() > 3 && all.len() == once.len(), "{} blocks are missing", missing.len());
        let own = missing.iter().filter(|starts| starts.contains(&Bytes::new()));
        assert!(own.flatten().all(|start| start.first().is_none_or(|part| *part == 0)));
    }
}

/// A disk with the state that a member has received.
fn received(state: &StateMachine, at: Anchor) -> Disk {
    let disk = Disk::new();
    let mut receiver = receiver(&disk);
    for piece in pieces(&state.snapshot().unwrap()) {
        assert!(receiver.stage(at, &piece).unwrap());
    }
    assert!(receiver.verify(at).unwrap());
    drop(receiver.switch().unwrap());
    disk
}

/// Rule T9b: each has one bad block, elsewhere. Brought to one op, they make up a whole.
#[test]
fn t9b_states_that_are_damaged_in_different_places_complete_each_other() {
    let mut workload = Workload::new(9);
    let (mut entries, mut twin) = (Vec::new(), StateMachine::in_memory(limits()));
    for _ in 0..200 {
        entries.push(workload.step(&mut twin));
    }
    let read = |op: Op| entries.get(usize::try_from(op.get()).unwrap() - 1).cloned();
    // Their last checkpoints lie at different ops.
    let mut states = [120, 150, 199].map(|through| {
        let disk = Disk::new();
        let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
        state.apply_through(Op::new(through), read).unwrap();
        drop(state);
        StateMachine::set_aside(&*disk.storage()).unwrap();
        let state = receiver(&disk).open_aside().unwrap().unwrap();
        assert_eq!(state.snapshot().unwrap().anchor().op, Op::new(through));
        (disk, state)
    });
    for (_, state) in &mut states {
        state.apply_through(twin.applied().op, read).unwrap();
        assert_eq!(state.snapshot().unwrap().anchor(), twin.applied());
    }
    let disk = Disk::new();
    let mut receiver = receiver(&disk);
    let (mut after, mut turn) = (Bytes::new(), 0);
    loop {
        // Whoever is asked cannot read every third piece; the next can.
        turn += 1;
        if turn % 3 == 0 {
            continue;
        }
        let snapshot = states[turn % 3].1.snapshot().unwrap();
        let chunk = snapshot.chunk(&after, PIECE).unwrap();
        assert!(receiver.stage(twin.applied(), &chunk).unwrap());
        match chunk.end {
            ChunkEnd::More(next) => after = next,
            ChunkEnd::Last => break,
        }
    }
    assert!(receiver.verify(twin.applied()).unwrap());
    assert_eq!(receiver.switch().unwrap().digest().unwrap(), twin.digest().unwrap());
}
