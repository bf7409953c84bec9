//! The progress of commands that take long.

use serde_json::json;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// How often progress is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports the progress on standard error, so that standard output can be the result itself: for people if standard
/// error is a terminal, and as JSON if that is wanted.
#[derive(Debug)]
pub(crate) struct Progress {
    doing: &'static str,
    json: bool,
    last: Instant,
    keys: u64,
    bytes: u64,
}

impl Progress {
    pub(crate) fn new(doing: &'static str, json: bool) -> Self {
        Self { doing, json, last: Instant::now(), keys: 0, bytes: 0 }
    }

    /// Adds what was done, and reports it if it is time.
    pub(crate) fn add(&mut self, keys: u64, bytes: u64) {
        self.keys += keys;
        self.bytes += bytes;
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        let Self { doing, keys, bytes, .. } = self;
        // If nobody reads the progress, that is no reason to stop.
        let _ = if self.json {
            let line = json!({ "event": "progress", "doing": doing, "keys": keys, "bytes": bytes });
            writeln!(anstream::stderr(), "{line}")
        } else if std::io::stderr().is_terminal() {
            writeln!(anstream::stderr(), "{doing}: {keys} keys, {} MiB", *bytes >> 20)
        } else {
            Ok(())
        };
    }
}
