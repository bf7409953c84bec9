//! The history: after any checkpoints, trimming and restarts, it matches the model.

use super::model::{Records, Workload};
use super::*;
use crate::engine::Snapshot;
use crate::message::{ChunkEnd, Event, EventKind, Record};

/// A workload with a model that keeps the whole history.
fn remembering(seed: u64) -> Workload {
    let mut workload = Workload::new(seed);
    workload.model.past.push(Records::new());
    workload
}

fn record(records: &Records, key: &Bytes) -> Option<Record> {
    records.get(key).cloned()
}

/// The changes of a range after a revision, by the model.
fn expected(workload: &Workload, after: Revision, from: &[u8], to: Option<&[u8]>) -> Vec<Event> {
    let first = usize::try_from(after.get()).unwrap();
    let mut events = Vec::new();
    for (revision, pair) in (after.next().get()..).zip(workload.model.past[first..].windows(2)) {
        let keys: std::collections::BTreeSet<&Bytes> = pair.iter().flat_map(Records::keys).collect();
        for key in keys.into_iter().filter(|key| key[..] >= *from && to.is_none_or(|to| key[..] < *to)) {
            let (previous, now) = (record(&pair[0], key), record(&pair[1], key));
            if previous != now {
                let (revision, key) = (Revision::new(revision), key.clone());
                let kind = match now {
                    Some(_) => EventKind::Put,
                    None if workload.model.expiries.contains(&revision) => EventKind::Expired,
                    None => EventKind::Deleted,
                };
                events.push(Event { revision, key, kind, record: now, previous });
            }
        }
    }
    events
}

/// Rule W1 of PROTOCOL.md: asks again and again, for a little each time.
fn changes(reader: &StateReader, after: Revision, from: &[u8], to: Option<&[u8]>, most: usize) -> Vec<Event> {
    let mut query = ChangeQuery {
        from,
        to,
        after: Position::after(after),
        previous: true,
        max_events: most,
        max_bytes: 900,
    };
    let mut events = Vec::new();
    loop {
        let changes = reader.changes(&query).unwrap().unwrap();
        assert!(changes.events.len() <= most);
        assert!(!changes.more || changes.next != query.after, "it goes on");
        events.extend(changes.events);
        query.after = changes.next;
        if !changes.more {
            assert_eq!(query.after, Position::after(reader.revision()));
            return events;
        }
    }
}

fn check_changes(workload: &mut Workload, reader: &StateReader) {
    let floor = reader.floor(&reader.latest());
    let rng = &mut workload.rng;
    let after = Revision::new(rng.u64(floor.get()..=reader.revision().get()));
    let (from, to) = (format!("key{:04}", rng.u64(..40)), format!("key{:04}", rng.u64(..60)));
    let (from, to) = match rng.u8(..3) {
        0 => (Bytes::new(), None),
        1 => (Bytes::from(from), None),
        _ => (Bytes::from(from), Some(Bytes::from(to))),
    };
    let most = rng.usize(1..5);
    let found = changes(reader, after, &from, to.as_deref(), most);
    assert_eq!(found, expected(workload, after, &from, to.as_deref()));
    if let Some(older) = floor.get().checked_sub(1) {
        let after = Position::after(Revision::new(older));
        let query = ChangeQuery { from: b"", to: None, after, previous: false, max_events: 9, max_bytes: 9 };
        assert_eq!(reader.changes(&query).unwrap(), Err(Compacted { oldest: floor }));
    }
}

#[test]
fn the_changes_in_memory_match_the_model_and_the_oldest_are_removed() {
    for seed in 0..10 {
        let mut state = StateMachine::in_memory(limits());
        let mut workload = remembering(seed);
        for _ in 0..300 {
            workload.step(&mut state);
            check_changes(&mut workload, &state.reader());
        }
        assert!(state.reader().latest().floor() > Revision::ZERO);
        assert!(state.memtable_bytes() < 250_000, "{}", state.memtable_bytes());
    }
}

#[test]
fn without_history_only_new_changes_are_delivered() {
    let mut workload = remembering(3);
    let mut state = StateMachine::in_memory(limits_without_history());
    for _ in 0..50 {
        workload.step(&mut state);
        assert_eq!(state.reader().latest().floor(), state.revision());
        check_changes(&mut workload, &state.reader());
    }
}

/// Rule R2: any revision that is kept reads as the model remembers it, key by key and range by range, in both
/// directions.
fn check_past(workload: &mut Workload, reader: &StateReader) {
    let (floor, newest) = (reader.floor(&reader.latest()), reader.revision());
    let rng = &mut workload.rng;
    let at = Revision::new(rng.u64(floor.get()..=newest.get()));
    let view = reader.at(at).unwrap();
    let records = &workload.model.past[usize::try_from(at.get()).unwrap()];
    for n in 0..5 {
        let key = Bytes::from(format!("key{:04}", rng.u64(..40) + n));
        assert_eq!(view.get(&key).unwrap(), record(records, &key), "{key:?} at {at}");
    }
    let from = [String::new(), format!("key{:04}", rng.u64(..40))][rng.usize(..2)].clone();
    let to = [None, Some(format!("key{:04}", rng.u64(..50)))][rng.usize(..2)].clone();
    let (reverse, limit) = (rng.bool(), rng.usize(1..20));
    let keys = Keys { from: from.as_bytes(), to: to.as_deref().map(str::as_bytes), reverse };
    let page = view.scan(keys, false, limit, usize::MAX).unwrap();
    let inside =
        records.iter().filter(|(key, _)| key[..] >= *keys.from && keys.to.is_none_or(|to| key[..] < *to));
    let mut inside: Vec<_> = inside.map(|(key, record)| (key.clone(), record.clone())).collect();
    if reverse {
        inside.reverse();
    }
    assert_eq!(page.next.is_some(), inside.len() > limit);
    inside.truncate(limit);
    assert_eq!(page.records, inside, "{keys:?} at {at}, floor {floor}, newest {newest}");
    assert_eq!(reader.at(newest.next()).unwrap_err(), Unreadable::Future { newest });
    if floor > Revision::ZERO {
        let compacted = Unreadable::Compacted(Compacted { oldest: floor });
        assert_eq!(reader.at(floor.back(1)).unwrap_err(), compacted);
    }
}

#[test]
fn history_in_memory_matches_the_model() {
    for seed in 0..5 {
        let mut state = StateMachine::in_memory(limits());
        let mut workload = remembering(seed);
        for _ in 0..300 {
            workload.step(&mut state);
            check_past(&mut workload, &state.reader());
        }
    }
}

/// Rules R2 and R3: members that made checkpoints at different ops, were restarted, or crashed while they wrote one:
/// their history is correct, and after checkpoints at the same op it is the same, byte for byte.
#[test]
fn history_on_disk_matches_the_model_on_all_members() {
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let disks = [Disk::new(), Disk::new()];
        let open = |disk: &Disk| StateMachine::open(disk.storage(), limits()).unwrap();
        let mut states = disks.each_ref().map(open);
        let mut running = [None, None];
        let (mut workload, mut log) = (remembering(seed), Vec::new());
        let mut plain = StateMachine::in_memory(limits());
        for step in 1..300 {
            log.push(workload.step(&mut plain));
            for member in 0..2 {
                let state = &mut states[member];
                state.apply(log.last().unwrap()).unwrap();
                let together = step % 60 == 0;
                match rng.u8(..16) {
                    _ if together => {}
                    0 if running[member].is_none() => running[member] = state.begin_checkpoint(),
                    1 | 2 => finish(state, running[member].take()),
                    3 => {
                        running[member] = None;
                        let lost = std::mem::replace(state, StateMachine::in_memory(limits()));
                        drop(lost);
                        disks[member].crash(&mut rng);
                        *state = open(&disks[member]);
                        for entry in &log[usize::try_from(state.applied().op.get()).unwrap()..] {
                            state.apply(entry).unwrap();
                        }
                    }
                    _ => {}
                }
                if together {
                    finish(state, running[member].take());
                    let checkpoint = state.begin_checkpoint();
                    finish(state, Some(checkpoint.expect("an entry is new")));
                }
                check_changes(&mut workload, &state.reader());
                check_past(&mut workload, &state.reader());
            }
            if step % 60 == 0 {
                let [one, other] = states.each_ref().map(|state| rows(&state.snapshot().unwrap()));
                assert!(one == other, "seed {seed}, step {step}");
                let floors = states.each_ref().map(|state| state.reader().latest().floor());
                assert_eq!(floors[0], floors[1]);
                assert!(step < 120 || floors[0] > Revision::ZERO, "something was trimmed");
            }
        }
    }
}

/// All rows. Where the pieces end depends on the runs.
fn rows(snapshot: &Snapshot) -> Vec<u8> {
    let (mut rows, mut after) = (Vec::new(), Bytes::new());
    loop {
        let chunk = snapshot.chunk(&after, usize::MAX).unwrap();
        rows.extend_from_slice(&chunk.rows);
        match chunk.end {
            ChunkEnd::More(next) => after = next,
            ChunkEnd::Last => return rows,
        }
    }
}

fn finish(state: &mut StateMachine, checkpoint: Option<Checkpoint>) {
    if let Some(checkpoint) = checkpoint {
        state.finish_checkpoint(checkpoint.run().unwrap());
    }
}
