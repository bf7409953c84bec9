//! `kv bench`: puts a load on a cluster and measures it. A cluster of its own consists of real processes on this
//! machine.

mod args;
mod failover;
mod load_test;
mod process;
mod report;
mod svg;
mod target;
mod watchers;
mod workload;

pub(crate) use args::{BenchArgs, BenchCommand};

use crate::failure::Failure;
use crate::signals::Signals;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Runs a measurement. Leaves neither a process nor a folder behind, however it ends.
pub(crate) async fn run(args: BenchArgs, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let measured = async {
        match args.command {
            Some(BenchCommand::Watchers(args)) => watchers::run(&args, json).await,
            None if let Err(useless) = args.load.check() => Err(useless),
            None if args.load.failover => failover::run(&args.load, json).await,
            None => load(&args.load, json).await,
        }
    };
    tokio::select! {
        measured = measured => measured,
        signal = signals.next() => {
            Err(signal.ended(format!("stopped by {signal}: no process and no folder is left behind")))
        }
    }
}

async fn load(args: &args::LoadTestArgs, json: bool) -> Result<(), Failure> {
    let summary = load_test::run(args, json).await?;
    summary.print(json)?;
    match summary.first_error {
        None => Ok(()),
        Some(error) => {
            Err(Failure::failed(format!("{} operations failed, the first with: {error}", summary.errors)))
        }
    }
}

/// Locks. What a task that has panicked had recorded still counts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
