//! `kv backup`, `kv verify` and `kv restore`: the content of a cluster at one revision, as a file.

mod format;
mod read;
mod restore;
mod take;

use crate::failure::Failure;
use format::{FileError, Summary};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use read::{VerifyArgs, verify};
pub(crate) use restore::{RestoreArgs, restore};
pub(crate) use take::{BackupArgs, backup};

/// How often progress is reported.
const INTERVAL: Duration = Duration::from_secs(1);

/// Reports the progress on standard error, so that standard output can be the backup itself: for people if standard
/// error is a terminal, and as JSON if that is wanted.
#[derive(Debug)]
struct Progress {
    doing: &'static str,
    json: bool,
    last: Instant,
    keys: u64,
    bytes: u64,
}

impl Progress {
    fn new(doing: &'static str, json: bool) -> Self {
        Self { doing, json, last: Instant::now(), keys: 0, bytes: 0 }
    }

    fn add(&mut self, keys: u64, bytes: u64) {
        use std::io::IsTerminal as _;
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

/// What a file contains, for the output of a command.
fn summary_json(shown: &str, revision: u64, summary: &Summary) -> Map<String, Value> {
    let Summary { keys, bytes, checksum } = summary;
    let object =
        json!({ "file": shown, "revision": revision, "keys": keys, "bytes": bytes, "checksum": checksum });
    object.as_object().cloned().unwrap_or_default()
}

fn summary_text(revision: u64, summary: &Summary) -> String {
    let Summary { keys, bytes, checksum } = summary;
    format!("revision {revision}, keys {keys}, bytes {bytes}, checksum {checksum}")
}

/// The failure of reading a backup, with the name of the file.
fn unreadable(file: &Path, error: &FileError) -> Failure {
    let file = file.display();
    match error {
        FileError::Io(error) => Failure::failed(format!("cannot read {file}: {error}")),
        error => Failure::failed(format!("{file} is not a whole backup: {error}")),
    }
}
