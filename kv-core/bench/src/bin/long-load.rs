//! How fast puts are applied in a long run, to a state that grows far beyond the cache: `cargo run --release -p
//! kv-benchmarks --bin long-load [KEYS] [ROUNDS]`. Each round applies 50,000 puts of random keys, with checkpoints and
//! merges in between. It prints the processor time of the puts alone, because another process may use the processor.

use kv_benchmarks::{Log, Puts, open_session};
use kv_core::config::Options;
use kv_core::kv::{HeldFiles, Limits, MergeStep, StateMachine};
use kv_core::storage::Directory;
use std::error::Error;
use std::time::{Duration, Instant};

const PUTS: usize = 50_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<u64>());
    let keys = numbers.next().transpose()?.unwrap_or(1_000_000);
    let rounds = numbers.next().transpose()?.unwrap_or(40);
    let folder = tempfile::tempdir_in(".")?;
    let options = Options::default();
    let mut state = StateMachine::open(Directory::open(folder.path())?, Limits::from(&options))?;
    let (mut log, mut puts) = (Log::default(), Puts::new(keys));
    state.apply(&log.entry(&[open_session()]))?;
    for round in 1..=rounds {
        let (mut applying, mut writing, mut merging) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..PUTS / 100 {
            let entry = log.entry(&puts.encoded(100));
            let begun = processor_time();
            state.apply(&entry)?;
            applying += processor_time() - begun;
            if state.memtable_bytes() < options.checkpoint_bytes {
                continue;
            }
            let begun = Instant::now();
            if let Some(checkpoint) = state.begin_checkpoint() {
                state.finish_checkpoint(checkpoint.run()?);
            }
            writing += begun.elapsed();
            let begun = Instant::now();
            let merger = state.merger().ok_or("there is a disk")?;
            while merger.step(&HeldFiles::default())? == MergeStep::Merged {
                state.finish_merge();
            }
            merging += begun.elapsed();
        }
        println!("round {round}: applied in {applying:?}, checkpoints {writing:?}, merges {merging:?}");
    }
    Ok(())
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or_default())
}
