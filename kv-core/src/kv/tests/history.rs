//! What is kept of the past: whatever was checkpointed, trimmed and restarted, it is what the model remembers.

use super::model::{Records, Workload};
use super::*;
use crate::message::{Event, EventKind, Record};

/// A workload whose model remembers everything.
fn remembering(seed: u64) -> Workload {
    let mut workload = Workload::new(seed);
    workload.model.past.push(Records::new());
    workload
}

fn record(records: &Records, key: &Bytes) -> Option<Record> {
    records.get(key).cloned()
}

/// What the model says has changed in a range after a revision.
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

/// Asks again and again, for a little each time.
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
    let floor = reader.point().floor();
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
fn the_changes_in_memory_are_those_of_the_model_and_the_oldest_go() {
    for seed in 0..10 {
        let mut state = State::in_memory(limits());
        let mut workload = remembering(seed);
        for _ in 0..300 {
            workload.step(&mut state);
            check_changes(&mut workload, &state.reader());
        }
        assert!(state.reader().point().floor() > Revision::ZERO);
        assert!(state.overlay_bytes() < 250_000, "{}", state.overlay_bytes());
    }
}

#[test]
fn without_history_there_are_no_changes_but_those_to_come() {
    let mut workload = remembering(3);
    let mut state = State::in_memory(Limits { history_revisions: 0, ..limits() });
    for _ in 0..50 {
        workload.step(&mut state);
        assert_eq!(state.reader().point().floor(), state.revision());
        check_changes(&mut workload, &state.reader());
    }
}
