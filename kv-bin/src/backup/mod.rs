//! `kv backup`, `kv recover`, `kv verify` and `kv restore`: the content of a cluster at one revision, as a file.

mod format;
mod part;
mod read;
mod recover;
mod restore;
mod take;

use crate::failure::Failure;
use format::{FileError, Summary};
use kv_core::Client;
use kv_core::client::{AtRevision, Record, Revision};
use serde_json::{Map, Value, json};
use std::path::Path;
use tokio::sync::oneshot;

pub(crate) use read::{VerifyArgs, verify};
pub(crate) use recover::{RecoverArgs, recover};
pub(crate) use restore::{RestoreArgs, restore};
pub(crate) use take::{BackupArgs, backup};

/// This key exists while a restore is not complete. Its value says what is being restored.
const MARKER: &str = "\0kv/restore";

/// Fails if a restore to the cluster is not complete. `marker` is what was found at [`MARKER`].
fn check_restored(marker: Option<&Record>) -> Result<(), Failure> {
    match marker {
        None => Ok(()),
        Some(_) => Err(Failure::failed(
            "a restore to this cluster is not complete, as its key \"\\0kv/restore\" says: run kv restore again with \
             the same file",
        )),
    }
}

/// The newest revision of the cluster, as its primary confirms it: no write that was acknowledged before is missing.
/// Fails if a restore to the cluster is not complete.
pub(crate) async fn restored_revision(client: &Client) -> Result<Revision, Failure> {
    let AtRevision { found, revision, .. } = client.get(MARKER).with_revision().await?;
    check_restored(found.as_ref()).map(|()| revision)
}

/// Does work that blocks. If the process is to end, nobody waits for it.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    result.await.map_err(|_| Failure::failed("a thread that uses the disk has failed"))
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
