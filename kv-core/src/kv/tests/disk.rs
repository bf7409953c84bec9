//! The state on disk: checkpoints, restarts, data larger than memory.

use super::model::Workload;
use super::*;
use crate::storage::Directory;
use std::sync::atomic::{AtomicBool, Ordering};

fn open_on(disk: &Disk) -> StateMachine {
    StateMachine::open(disk.storage(), limits()).unwrap()
}

fn checkpoint(state: &mut StateMachine) {
    let begun = state.begin_checkpoint().expect("there is something new");
    let anchor = begun.anchor();
    let done = begun.run().unwrap();
    assert_eq!(done.anchor(), anchor);
    state.finish_checkpoint(done);
    assert_eq!(state.checkpoint(), anchor);
}

/// Applies the part of the log that the state lacks.
fn replay(state: &mut StateMachine, log: &[Entry]) {
    for entry in log {
        if entry.header.op > state.applied().op {
            state.apply(entry).unwrap();
        }
    }
}

#[test]
fn an_empty_directory_gives_an_empty_state_and_stays_empty() {
    let disk = Disk::new();
    let mut workload = Workload::new(0);
    let mut state = open_on(&disk);
    assert_eq!(
        (state.applied(), state.checkpoint(), state.revision()),
        (Anchor::ZERO, Anchor::ZERO, Revision::ZERO)
    );
    assert!(state.begin_checkpoint().is_none(), "nothing is new");
    for _ in 0..10 {
        workload.step(&mut state);
    }
    drop(state);
    assert!(disk.names().is_empty());
}

#[test]
fn a_restart_is_exactly_at_the_last_checkpoint() {
    let disk = Disk::new();
    let mut workload = Workload::new(1);
    let mut state = open_on(&disk);
    for _ in 0..4 {
        for _ in 0..50 {
            workload.step(&mut state);
        }
        checkpoint(&mut state);
        let (applied, revision, digest) = (state.applied(), state.revision(), state.digest().unwrap());
        let model = workload.model.clone();
        workload.step(&mut state);
        drop(state);
        state = open_on(&disk);
        assert_eq!((state.applied(), state.checkpoint(), state.revision()), (applied, applied, revision));
        assert_eq!(state.digest().unwrap(), digest);
        model.check(&state.reader());
        state.check_invariants();
        // Go on from there with another future.
        let mut other = Workload::new(2);
        other.log = Log { head: applied, next_revision: revision.next(), timestamp: workload.log.timestamp };
        other.model = model;
        workload = other;
    }
}

/// Members make checkpoints at different ops, restart at different times, or have no disk: their states are equal.
#[test]
fn digests_at_equal_ops_do_not_depend_on_checkpoints_or_restarts() {
    for seed in 0..10 {
        let disk = Disk::new();
        let mut workload = Workload::new(seed);
        let mut plain = StateMachine::in_memory(limits());
        let mut state = open_on(&disk);
        let mut log = Vec::new();
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut running = None;
        for step in 0..250 {
            let entry = workload.step(&mut plain);
            state.apply(&entry).unwrap();
            log.push(entry);
            match rng.u8(..20) {
                0 if running.is_none() => running = state.begin_checkpoint(),
                1 => {
                    if let Some(checkpoint) = running.take() {
                        let done = checkpoint.run().unwrap();
                        state.finish_checkpoint(done);
                    }
                }
                2 => {
                    running = None;
                    drop(state);
                    disk.crash(&mut rng);
                    state = open_on(&disk);
                    replay(&mut state, &log);
                }
                _ => {}
            }
            if step % 7 == 0 {
                assert_eq!(state.digest().unwrap(), plain.digest().unwrap(), "seed {seed}, step {step}");
                workload.model.check(&state.reader());
            }
        }
    }
}

#[test]
fn one_checkpoint_runs_at_a_time_and_an_unchanged_state_needs_none() {
    let disk = Disk::new();
    let mut workload = Workload::new(3);
    let mut state = open_on(&disk);
    workload.step(&mut state);
    let running = state.begin_checkpoint().unwrap();
    workload.step(&mut state);
    assert!(state.begin_checkpoint().is_none());
    assert_eq!(state.checkpoint(), Anchor::ZERO, "not durable yet");
    state.finish_checkpoint(running.run().unwrap());
    checkpoint(&mut state);
    assert!(state.begin_checkpoint().is_none());
}

#[test]
fn the_state_is_full_only_beside_a_running_checkpoint() {
    let disk = Disk::new();
    let mut machine = Machine { state: open_on(&disk), log: Log::new() };
    let session = machine.open();
    let fill = |machine: &mut Machine, from: u64| {
        for n in from..from + 8 {
            machine.effect(put(session, n, &n.to_string(), &"v".repeat(10_000), None));
        }
    };
    fill(&mut machine, 1);
    assert!(machine.state.memtable_bytes() > limits().checkpoint_bytes);
    assert!(!machine.state.is_full(), "a checkpoint would help");
    let running = machine.state.begin_checkpoint().unwrap();
    assert!(!machine.state.is_full());
    fill(&mut machine, 9);
    assert!(machine.state.is_full());
    machine.state.finish_checkpoint(running.run().unwrap());
    assert!(!machine.state.is_full());
}

/// Sessions and deduplication take memory and log too: without a single change of data a checkpoint falls due.
#[test]
fn requests_that_change_nothing_lead_to_a_checkpoint_too() {
    let disk = Disk::new();
    let mut machine = Machine { state: open_on(&disk), log: Log::new() };
    let session = machine.open();
    for n in 1..1000 {
        machine.run(&[put(session, n, "k", "v", Some(Condition::Present))]);
    }
    assert!(machine.state.memtable_bytes() > limits().checkpoint_bytes);
}

/// A reader that began before the end of a checkpoint, or before two, still sees its own revision, in all three layers.
#[test]
fn a_read_point_stays_consistent_while_layers_are_switched_under_it() {
    let disk = Disk::new();
    let mut workload = Workload::new(4);
    let mut state = open_on(&disk);
    let mut held = Vec::new();
    let mut running: Option<Checkpoint> = None;
    for step in 0..300 {
        workload.step(&mut state);
        if step % 10 == 0 {
            held.push((state.engine.reader().latest(), workload.model.clone()));
        }
        match step % 30 {
            12 => running = state.begin_checkpoint(),
            25 => state.finish_checkpoint(running.take().unwrap().run().unwrap()),
            _ => {}
        }
        if held.len() > 6 {
            held.remove(0);
        }
        for (point, model) in &held {
            model.check_point(point);
        }
    }
}

#[test]
fn scans_and_gets_are_consistent_while_a_checkpoint_runs_on_another_thread() {
    let disk = Disk::new();
    let mut machine = Machine { state: open_on(&disk), log: Log::new() };
    let session = machine.open();
    let keys: Vec<String> = (0..30).map(|n| format!("key{n:02}")).collect();
    let done = AtomicBool::new(false);
    let mut number = 0;
    let mut round = |machine: &mut Machine, n: u64| {
        let requests: Vec<Request> = keys
            .iter()
            .map(|key| {
                number += 1;
                put(session, number, key, &n.to_string(), None)
            })
            .collect();
        machine.run(&requests);
    };
    round(&mut machine, 0);
    let reader = machine.state.reader();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let page = reader.scan(b"key", None, 99, usize::MAX).unwrap();
                    assert_eq!(page.records.len(), keys.len());
                    let values: Vec<&Bytes> = page.records.iter().map(|(_, record)| &record.value).collect();
                    assert!(
                        values.iter().all(|value| *value == values[0]),
                        "at {}: {values:?}",
                        page.revision
                    );
                    let (record, revision) = reader.get(b"key07").unwrap();
                    assert!(
                        revision >= page.revision && record.unwrap().modified >= page.records[7].1.modified
                    );
                }
            });
        }
        let _end = SetOnDrop(&done);
        for n in 1..40 {
            round(&mut machine, n);
            // Readers that are slow may hold too much of those before.
            let checkpoint = loop {
                match machine.state.begin_checkpoint() {
                    Some(checkpoint) => break checkpoint,
                    None => machine.state.release(),
                }
            };
            let merging = scope.spawn(|| checkpoint.run().unwrap());
            while !merging.is_finished() {
                if machine.state.is_full() {
                    std::thread::yield_now();
                } else {
                    round(&mut machine, n);
                }
            }
            machine.state.finish_checkpoint(merging.join().unwrap());
        }
    });
}

#[test]
fn other_limits_than_those_of_the_state_are_refused_by_name() {
    let disk = Disk::new();
    let mut workload = Workload::new(5);
    let mut state = open_on(&disk);
    workload.step(&mut state);
    checkpoint(&mut state);
    drop(state);
    type Change = fn(&mut Limits);
    let changes: [(&str, Change); 6] = [
        ("max_key_bytes", |limits| limits.fixed.max_key_bytes += 1),
        ("max_value_bytes", |limits| limits.fixed.max_value_bytes += 1),
        ("max_sessions", |limits| limits.fixed.max_sessions += 1),
        ("max_leases", |limits| limits.fixed.max_leases += 1),
        ("session_ttl", |limits| limits.fixed.session_ttl += Duration::from_millis(1)),
        ("max_in_flight_per_session", |limits| limits.fixed.max_in_flight_per_session += 1),
    ];
    for (name, change) in changes {
        let mut changed = limits();
        change(&mut changed);
        let error = StateMachine::open(disk.storage(), changed).unwrap_err();
        assert!(error.to_string().starts_with(name), "{error}");
    }
    let mut local = limits();
    local.checkpoint_bytes *= 2;
    local.cache_bytes *= 2;
    StateMachine::open(disk.storage(), local).unwrap();
}

#[test]
fn dropping_a_state_writes_nothing_and_ends_a_running_checkpoint() {
    let disk = Disk::new();
    let mut workload = Workload::new(6);
    let mut state = open_on(&disk);
    workload.step(&mut state);
    checkpoint(&mut state);
    let (anchor, before) = (state.checkpoint(), image(&disk));
    workload.step(&mut state);
    let running = state.begin_checkpoint().unwrap();
    drop(state);
    running.run().unwrap_err();
    assert_eq!(image(&disk), before);
    let state = open_on(&disk);
    assert_eq!(state.checkpoint(), anchor);
    assert_eq!(image(&disk), before, "opening writes nothing either");
}

#[test]
fn data_larger_than_the_cache_and_the_memtables_is_kept_on_real_files() {
    let directory = tempfile::tempdir().unwrap();
    let storage = Directory::open(directory.path()).unwrap();
    let limits = Limits { checkpoint_bytes: 1 << 20, ..limits() };
    let mut machine =
        Machine { state: StateMachine::open(storage.clone(), limits.clone()).unwrap(), log: Log::new() };
    let session = machine.open();
    let value = |n: u64| format!("{n:04}").repeat(500);
    for batch in 0..150 {
        let requests: Vec<Request> = (batch * 64..(batch + 1) * 64)
            .map(|n| put(session, n + 1, &format!("key{n:05}"), &value(n % 10_000), None))
            .collect();
        let entry = machine.log.entry(&requests);
        machine.state.apply(&entry).unwrap();
        if machine.state.memtable_bytes() > limits.checkpoint_bytes {
            checkpoint(&mut machine.state);
        }
        assert!(machine.state.memtable_bytes() < 2 * limits.checkpoint_bytes);
    }
    checkpoint(&mut machine.state);
    let digest = machine.digest();
    drop(machine);
    let state = StateMachine::open(storage, limits).unwrap();
    assert_eq!(state.digest().unwrap(), digest);
    for n in [0_u64, 1, 4_999, 9_599] {
        let (record, _) = state.reader().get(format!("key{n:05}").as_bytes()).unwrap();
        assert_eq!(record.unwrap().value, value(n));
    }
}

/// Rule S1 of PROTOCOL.md: the running digest goes through checkpoints, and an entry that does something else changes
/// it for ever.
#[test]
fn s1_the_digest_depends_on_the_requests_and_not_on_checkpoints() {
    let disk = Disk::new();
    let mut log = Log::new();
    let mut plain = StateMachine::in_memory(limits());
    let mut other = StateMachine::in_memory(limits());
    let mut state = open_on(&disk);
    let mut session = None;
    for n in 0..20_u64 {
        let request = match session {
            None => open(1),
            Some(session) => put(session, n, "k", &format!("{n}"), None),
        };
        let entry = log.entry(&[request]);
        let revision = entry.header.first_revision;
        for state in [&mut plain, &mut state] {
            state.apply(&entry).unwrap();
        }
        // It stores other values from revision 8 on.
        let wrong =
            session.filter(|_| revision.get() >= 8).map(|session| put(session, n, "k", "wrong", None));
        let body = wrong.map_or_else(|| entry.body.clone(), |request| body_of(&[request.encode()]));
        other.apply(&Entry { body, ..entry }).unwrap();
        session = session.or(Some(SessionId::new(1)));
        assert_eq!(state.state_digest(), plain.state_digest());
        assert_eq!(plain.state_digest() != other.state_digest(), revision.get() >= 8, "{revision}");
        if n % 7 == 3 {
            checkpoint(&mut state);
            drop(state);
            state = open_on(&disk);
        }
    }
}
