//! Crashes: at every operation on the disk, with every way in which a power cut can leave it.

use super::model::Workload;
use super::*;
use crate::storage::simulated::{Disk, Kind, Tearing};

/// A state with a checkpoint behind it and more to come, and the log that made it.
fn prepared(seed: u64, steps: usize) -> (Disk, Workload, Vec<Entry>) {
    let disk = Disk::new();
    let mut workload = Workload::new(seed);
    let mut log = Vec::new();
    let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
    for _ in 0..steps {
        log.push(workload.step(&mut state));
    }
    if let Some(checkpoint) = state.begin_checkpoint() {
        state.finish_checkpoint(checkpoint.run().unwrap());
    }
    (disk, workload, log)
}

/// Opens, applies the missing part of the log, makes a checkpoint on the way and one at the end, and returns the last.
fn live(disk: &Disk, log: &[Entry], split: usize) -> Result<Anchor, EngineError> {
    let mut state = StateMachine::open(disk.storage(), limits())?;
    for part in [&log[..split], log] {
        for entry in part {
            if entry.header.op > state.applied().op {
                state.apply(entry)?;
            }
        }
        if let Some(checkpoint) = state.begin_checkpoint() {
            let done = checkpoint.run()?;
            state.finish_checkpoint(done);
        }
    }
    Ok(state.checkpoint())
}

/// After the crash, the state is at one of the checkpoints, not before the last durable one. Replaying the log from
/// there leads to the same digest.
fn check(disk: &Disk, durable: Op, log: &[Entry], digests: &[Hash], what: &str) {
    let mut state =
        StateMachine::open(disk.storage(), limits()).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(state.checkpoint().op >= durable, "{what}: went back to {:?}", state.checkpoint());
    let digest = |state: &StateMachine| state.digest().unwrap_or_else(|error| panic!("{what}: {error}"));
    if state.checkpoint().op > Op::ZERO {
        let at = usize::try_from(state.checkpoint().op.get()).unwrap();
        assert_eq!(state.checkpoint(), log[at - 1].header.anchor(), "{what}");
        assert_eq!(digest(&state), digests[at - 1], "{what}: the checkpoint");
    }
    for entry in log {
        if entry.header.op > state.applied().op {
            state.apply(entry).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    assert_eq!(digest(&state), *digests.last().unwrap(), "{what}: the replay");
    if let Some(checkpoint) = state.begin_checkpoint() {
        let done = checkpoint.run().unwrap_or_else(|error| panic!("{what}: {error}"));
        state.finish_checkpoint(done);
    }
    assert_eq!(digest(&state), *digests.last().unwrap(), "{what}: after another checkpoint");
}

fn digests(log: &[Entry]) -> Vec<Hash> {
    let mut state = StateMachine::in_memory(limits());
    let apply = |entry| {
        state.apply(entry).unwrap();
        state.digest().unwrap()
    };
    log.iter().map(apply).collect()
}

/// Power cuts, torn both ways, and mere deaths of the process, at every single operation of a life with two
/// checkpoints: from nothing, and over an earlier checkpoint.
#[test]
fn a_checkpoint_that_crashes_at_any_operation_leaves_the_last_one_or_itself() {
    for steps in [0, 30] {
        let (disk, mut workload, mut log) = prepared(11, steps);
        let mut plain = StateMachine::in_memory(limits());
        for entry in &log {
            plain.apply(entry).unwrap();
        }
        let split = log.len() + 10;
        for _ in 0..25 {
            log.push(workload.step(&mut plain));
        }
        let digests = digests(&log);
        let whole = disk.fork();
        let before = whole.counters().operations;
        live(&whole, &log, split).unwrap();
        let operations = whole.counters().operations - before;
        assert!(operations > 20, "{operations}");
        let floor = Op::new(steps as u64);
        for at in 1..=operations {
            let crashed = disk.fork();
            crashed.fail_after(at);
            live(&crashed, &log, split).unwrap_err();
            for cut in 0..4 {
                let left = crashed.fork();
                match cut {
                    0 => left.kill(),
                    1 => left.crash_losing_all(),
                    n => {
                        left.set_tearing(if n % 2 == 0 { Tearing::Sector } else { Tearing::Block });
                        left.crash(&mut fastrand::Rng::with_seed(at * 10 + n));
                    }
                }
                check(&left, floor, &log, &digests, &format!("{steps} steps, operation {at}, cut {cut}"));
            }
        }
    }
}

/// Repeated crashes at random operations. Everything that was reported durable stays durable.
#[test]
fn a_durable_checkpoint_survives_any_number_of_crashes() {
    for seed in 0..12 {
        let (disk, mut workload, mut log) = prepared(seed, 20);
        let mut plain = StateMachine::in_memory(limits());
        for entry in &log {
            plain.apply(entry).unwrap();
        }
        let mut durable = Op::new(20);
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut expected = digests(&log);
        for round in 0..15 {
            for _ in 0..rng.usize(1..15) {
                log.push(workload.step(&mut plain));
                expected.push(plain.digest().unwrap());
            }
            disk.fail_after(rng.u64(1..200));
            let split = rng.usize(..=log.len());
            if let Ok(checkpoint) = live(&disk, &log, split) {
                durable = checkpoint.op;
            }
            if rng.u8(..4) == 0 {
                disk.kill()
            } else {
                disk.crash(&mut rng)
            }
            let left = disk.fork();
            let what = format!("seed {seed}, round {round}");
            check(&left, durable, &log, &expected, &what);
        }
    }
}

/// What a killed process wrote and never synced is readable, until the power goes: it must not be taken for durable.
#[test]
fn the_opened_state_is_durable_when_open_returns() {
    let (disk, mut workload, mut log) = prepared(12, 20);
    let mut plain = StateMachine::in_memory(limits());
    for entry in &log {
        plain.apply(entry).unwrap();
    }
    log.push(workload.step(&mut plain));
    let whole = disk.fork();
    let before = whole.counters().operations;
    live(&whole, &log, log.len()).unwrap();
    for at in 1..=whole.counters().operations - before {
        let disk = disk.fork();
        disk.fail_after(at);
        live(&disk, &log, log.len()).unwrap_err();
        disk.kill();
        let found = StateMachine::open(disk.storage(), limits()).unwrap().checkpoint();
        disk.crash_losing_all();
        assert_eq!(
            StateMachine::open(disk.storage(), limits()).unwrap().checkpoint(),
            found,
            "operation {at}"
        );
    }
}

#[test]
fn an_error_of_the_disk_is_reported_and_final() {
    for kind in [Kind::Write, Kind::Sync] {
        let (disk, mut workload, _) = prepared(13, 20);
        let mut state = StateMachine::open(disk.storage(), limits()).unwrap();
        let at = state.checkpoint();
        workload.step(&mut state);
        let checkpoint = state.begin_checkpoint().unwrap();
        disk.fail_next(kind);
        assert!(matches!(checkpoint.run(), Err(EngineError::Io { .. })), "{kind:?}");
        assert!(state.begin_checkpoint().is_none(), "the one that failed was the last");
        drop(state);
        disk.crash_losing_all();
        assert_eq!(StateMachine::open(disk.storage(), limits()).unwrap().checkpoint(), at);
    }
}
