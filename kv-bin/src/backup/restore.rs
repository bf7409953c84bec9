//! `kv restore`: writes a backup to a new cluster.

use super::format::{FileError, Item, Part, Summary};
use super::read::{self, check, open};
use super::{MARKER, summary_json, unreadable};
use crate::commands::print_either;
use crate::config::ConnectArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Progress;
use clap::Args;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use kv_core::Client;
use kv_core::client::Revision;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How many puts are in flight at once.
const AT_ONCE: usize = 64;

/// How far the revisions of the new cluster begin above that of the backup. The longest history that a cluster can keep
/// is a billion revisions, so a revision that the former cluster took within a billion after the backup is compacted.
const MARGIN: u64 = 1 << 31;

#[derive(Args, Debug)]
#[command(
    after_help = "kv reads and checks the whole file before it writes anything. The cluster must be new and empty, and nobody else should use it yet.

The revisions of the cluster go on more than two billion above that of the backup. So a watch that resumes from a revision of the former cluster \
is told that this revision is compacted, and a condition on such a revision does not hold. Keys are created anew: their revisions and versions are not those \
of the backup. A key with a time to live gets the time that it had left when the backup was made. A key of a lease gets the time to live of the lease, and \
belongs to no lease: its owner must put it again.

While the restore is not complete, the key \"\\0kv/restore\" exists. If the restore is interrupted, run it again with the same file."
)]
pub(crate) struct RestoreArgs {
    /// The backup.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// What is being restored.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
struct Marker {
    checksum: String,
}

/// `kv restore`.
pub(crate) async fn restore(context: &Context, args: RestoreArgs, json: bool) -> Result<(), Failure> {
    let mut file = open(&args.file)?;
    let shown = args.file.display();
    let failed = |error: io::Error| Failure::usage(format!("cannot read {shown}: {error}"));
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(Failure::usage(format!(
            "{shown} is no regular file, and kv restore reads a backup twice: save it to a file first"
        )));
    }
    let (description, summary) = check(&args.file, &file, json)?;
    file.rewind().map_err(failed)?;
    let client = context.client().await?;
    begin(client, &summary).await?;
    let incomplete = "the restore is not complete: run it again with the same file";
    let least = Revision::new(description.revision.saturating_add(MARGIN));
    client.raise_revision(least).await.map_err(|error| Failure::from(error).within(incomplete))?;
    write(client, (&args.file, &file), &summary, json).await.map_err(|failure| failure.within(incomplete))?;
    let deleted = client.delete(MARKER).await.map_err(|error| Failure::from(error).within(incomplete))?;
    let revision = deleted.revision.get();
    let object = Value::Object(summary_json(&args.file.display().to_string(), revision, &summary));
    print_either(json, &object, &format!("keys restored: {}, revision {revision}", summary.keys))
}

/// Checks that the cluster is empty, or that an earlier restore of the same backup was interrupted.
async fn begin(client: &Client, summary: &Summary) -> Result<(), Failure> {
    let marker = Marker { checksum: summary.checksum.clone() };
    if let Some(found) = client.get(MARKER).await? {
        return match serde_json::from_slice::<Marker>(&found.value) {
            Ok(found) if found == marker => Ok(()),
            _ => Err(Failure::failed(
                "a restore of another backup was begun here: use its file, or form a new cluster",
            )),
        };
    }
    if !client.scan("").limit(1).keys_only().await?.is_empty() {
        return Err(Failure::failed(
            "the cluster has keys: a backup is restored only to a new cluster, which is empty",
        ));
    }
    let value = serde_json::to_vec(&marker).expect("plain data always encodes");
    client.put(MARKER, value).if_absent().await.map_err(|error| {
        if error.is_condition_failed() {
            Failure::failed("another restore has just begun here")
        } else {
            error.into()
        }
    })?;
    Ok(())
}

/// Puts every key of the file, which is checked again: it may have changed since it was checked.
async fn write(
    client: &Client,
    (name, file): (&Path, &File),
    checked: &Summary,
    json: bool,
) -> Result<(), Failure> {
    let (mut reader, _) = read::begin(name, file)?;
    let mut progress = Progress::new("restored", json);
    loop {
        let items = match reader.next().map_err(|error: FileError| unreadable(name, &error))? {
            Part::Records(items) => items,
            Part::End(summary) if summary == *checked => return Ok(()),
            Part::End(_) => return Err(Failure::failed("the file was changed during the restore")),
        };
        let (keys, bytes) = (items.len() as u64, items.iter().map(Item::bytes).sum());
        let sent = stream::iter(items).map(|Item { key, value, ttl_ms, .. }| async move {
            let put = client.put(key, value);
            match ttl_ms {
                Some(ms) => put.ttl(Duration::from_millis(ms.get())).await,
                None => put.await,
            }
        });
        sent.buffer_unordered(AT_ONCE).try_for_each(|_| async { Ok(()) }).await?;
        progress.add(keys, bytes);
    }
}
