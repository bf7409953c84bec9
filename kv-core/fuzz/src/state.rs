//! Damaged states: runs and manifests that differ from what was written.

use super::dice::{Dice, entry_after};
use super::disks::damage;
use kv_core::config::Options;
use kv_core::ids::{Hash, RequestNumber, SessionId};
use kv_core::kv::{HeldFiles, Limits, MergeStep, StateMachine};
use kv_core::message::{Command, Entry, Lifetime, Operation, Request};
use kv_core::storage::simulated::Disk;
use std::sync::OnceLock;

fn limits() -> Limits {
    let mut options = Options::default();
    (options.checkpoint_bytes, options.cache_bytes) = (64 << 10, 1 << 20);
    Limits::from(&options)
}

/// A disk with a state of several runs, of some files each, and the digest of the state.
fn intact() -> &'static (Disk, Hash) {
    static INTACT: OnceLock<(Disk, Hash)> = OnceLock::new();
    INTACT.get_or_init(|| {
        let disk = Disk::new();
        let mut state = StateMachine::open(disk.storage(), limits()).expect("an empty disk opens");
        let mut last: Option<Entry> = None;
        for n in 0..200u64 {
            let (number, session) = (RequestNumber::new(n), SessionId::new(u64::from(n > 0)));
            let key = format!("key{}", n % 70).into_bytes().into();
            let value = vec![b'v'; usize::try_from(n % 7 * 40).expect("small")].into();
            let operation = match n {
                0 => Operation::OpenSession { nonce: 7 },
                _ if n % 5 == 4 => Operation::Command(Command::Delete { key, condition: None }),
                _ => {
                    let life = Lifetime::FOREVER;
                    Operation::Command(Command::Put { key, value, condition: None, life })
                }
            };
            let request = Request { session, number, acked_through: number.back(3), operation };
            let entry = entry_after(last.as_ref(), 1, request.encode().to_vec());
            state.apply(&entry).expect("the disk is good");
            last = Some(entry);
            if n % 40 == 39 {
                let checkpoint = state.begin_checkpoint().expect("there is something new");
                state.finish_checkpoint(checkpoint.run().expect("the disk is good"));
            }
        }
        let digest = state.digest().expect("the disk is good");
        (disk, digest)
    })
}

/// Damages some files of the state and opens it: it is refused, or everything that can be read of it is right, also
/// after its runs were merged.
pub fn state(data: &[u8]) {
    let mut dice = Dice(data);
    let (disk, digest) = intact();
    let disk = disk.fork();
    let names = disk.names();
    while !dice.is_empty() {
        let at = usize::try_from(dice.below(names.len() as u64)).expect("few files");
        match dice.below(16) {
            0 => drop(disk.storage().remove(&names[at])),
            1 => drop(disk.storage().rename(&names[at], &names[(at + 1) % names.len()])),
            _ => damage(&disk, &names[at], &mut dice),
        }
    }
    let Ok(mut state) = StateMachine::open(disk.storage(), limits()) else { return };
    if state.applied().op.get() == 0 {
        // Its manifest is gone.
        return;
    }
    let check = |state: &StateMachine| state.digest().map_or(true, |found| found == *digest);
    assert!(check(&state), "a wrong answer");
    while let Some(Ok(MergeStep::Merged)) = state.merger().map(|merger| merger.step(&HeldFiles::default())) {
        state.finish_merge();
        assert!(check(&state), "a wrong answer after a merge");
    }
    if let Some(snapshot) = state.snapshot() {
        let _ = snapshot.chunk(&[], 1 << 20);
    }
}
