//! `kv bench`: measurements on this machine, with a cluster of real processes of its own.

mod process;
mod watchers;

use crate::cli::BenchCommand;
use crate::failure::Failure;
use crate::signals::Signals;

/// Runs a measurement. Leaves neither a process nor a folder behind, however it ends.
pub(crate) async fn run(command: BenchCommand, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let BenchCommand::Watchers(args) = command;
    tokio::select! {
        measured = watchers::run(&args, json) => measured,
        signal = signals.next() => {
            Err(signal.ended(format!("stopped by {signal}: no process and no folder is left behind")))
        }
    }
}
