//! `kv bench`: what things cost on this machine, measured on a cluster of real processes of its own.

mod process;
mod watchers;

use crate::cli::{BenchArgs, BenchCommand};
use crate::failure::Failure;
use crate::signals::Signals;

/// Runs a measurement. However it ends, no process and no folder of it is left.
pub(crate) async fn run(args: BenchArgs, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let BenchCommand::Watchers(args) = args.command;
    tokio::select! {
        measured = watchers::run(&args, json) => measured,
        signal = signals.next() => {
            Err(signal.ended(format!("stopped by {signal}: no process and no folder is left behind")))
        }
    }
}
