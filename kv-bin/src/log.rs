//! The log on stderr, written by a thread of its own: if stderr is a pipe that nobody reads, logging must not block.

use crate::failure::Failure;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// How many lines may wait for stderr. Further lines are dropped and counted.
const WAITING_LINES: usize = 4096;

/// How long the process waits at its end for the remaining lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The destination of the lines. There is one log.
static LINES: OnceLock<SyncSender<Entry>> = OnceLock::new();

/// An item for the thread.
enum Entry {
    Line(Vec<u8>),
    /// Notify this receiver once everything before has been written.
    Flush(SyncSender<()>),
}

/// Passes lines to the thread that writes them.
#[derive(Clone, Debug)]
struct Queue {
    lines: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    fn start() -> impl Fn() -> Self {
        let (lines, waiting) = mpsc::sync_channel(WAITING_LINES);
        let queue = Self { lines, lost: Arc::default() };
        let lost = queue.lost.clone();
        // The thread ends with the process. Without it, each line counts as dropped.
        let _ = std::thread::Builder::new().name("kv-log".to_owned()).spawn(move || write(&waiting, &lost));
        let _ = LINES.set(queue.lines.clone());
        move || queue.clone()
    }
}

impl Write for Queue {
    /// One event, which the subscriber has formatted as a whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.try_send(Entry::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(waiting: &Receiver<Entry>, lost: &AtomicU64) {
    for entry in waiting {
        // If stderr is closed, nobody can be notified.
        match entry {
            Entry::Line(line) => {
                let _ = io::stderr().write_all(&line);
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ = writeln!(io::stderr(), "{lost} lines of the log were lost: stderr was not read");
                }
            }
            Entry::Flush(done) => drop(done.send(())),
        }
    }
}

/// Waits until everything logged has been written, for a limited time.
pub(crate) fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (done, written) = mpsc::sync_channel(1);
    if lines.try_send(Entry::Flush(done)).is_ok() {
        // Too late: nobody reads.
        let _ = written.recv_timeout(LAST_LINES);
    }
}

/// Logs what `filter` selects to stderr: a level, or levels per module as in `info,kv_core=debug`.
pub(crate) fn init(filter: &str) -> Result<(), Failure> {
    let targets = parse(filter).map_err(|wrong| {
        Failure::usage(format!(
            "{wrong:?} is not a log filter: write error, warn, info, debug, trace or off, or levels per module as in \
             info,kv_core=debug"
        ))
    })?;
    let colours = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    // Internal errors are not logged: they are failures to write to stderr, and reporting one would end the process.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(Queue::start())
        .with_ansi(colours)
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot start the log: {error}")))
}

/// Stricter than the library, which takes a misspelled level for the name of a module, and no level for the most
/// detailed one. Returns the part that is wrong.
fn parse(filter: &str) -> Result<Targets, &str> {
    let is_known = |part: &&str| {
        let (module, level) = part.rsplit_once('=').unwrap_or(("all", part));
        !module.trim().is_empty() && !level.trim().is_empty() && level.trim().parse::<LevelFilter>().is_ok()
    };
    match filter.split(',').find(|part| !is_known(part)) {
        Some(wrong) => Err(wrong),
        None => filter.parse().map_err(|_| filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_levels_per_module_are_understood() {
        for filter in ["info", "off", "info,kv_core=debug", "kv_core::node=trace"] {
            assert!(parse(filter).is_ok(), "{filter}");
        }
        for filter in ["loud", "", "info,loud", "kv_core=loud", "kv_core=", "info,=debug"] {
            assert!(parse(filter).is_err(), "{filter}");
        }
    }
}
