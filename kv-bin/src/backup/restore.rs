//! `kv restore`: writes a backup to a new cluster.

use super::format::{Item, Part, Summary};
use super::read::{self, Checked, check, open};
use super::{MARKER, summary_json, unreadable};
use crate::commands::print_either;
use crate::config::ConnectArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Progress;
use clap::Args;
use futures::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use kv_core::Client;
use kv_core::client::{Lifetime, Revision};
use kv_core::error::WriteError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Seek as _};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

/// How many puts of one block are in flight at once.
const AT_ONCE: usize = 32;

/// How many blocks are put at once, at most.
const BLOCKS: usize = 8;

/// How many bytes of keys and values these blocks have together, at most. A larger block is put alone.
const MOST_BYTES: u64 = 16 << 20;

/// How far the revisions of the new cluster begin above that of the backup, at least. A cluster keeps a billion
/// revisions at most, so a revision that the former cluster took within a billion after the backup is compacted.
const MARGIN: u64 = 1 << 31;

/// The revisions of the new cluster begin at its time in milliseconds, times this number. So the later of two restores
/// of one backup begins above the revisions of the earlier one, unless that takes more than 65 million revisions in a
/// second.
const PER_MS: u64 = 1 << 16;

/// The greatest revision to which a cluster can be raised.
const MOST_REVISION: u64 = 1 << 61;

#[derive(Args, Debug)]
#[command(
    after_help = "kv reads and checks the whole file before it writes anything, and checks whether the cluster allows its keys and values. The cluster must be \
new and empty, and nobody else should use it yet.

The revisions of the cluster go on above all revisions of the former cluster, and above those of an earlier restore of the same backup: they begin more than \
two billion above that of the backup, and at the time of the cluster in milliseconds times 65536 at least. So a watch that resumes from a revision of the \
former cluster is told that this revision is compacted, and a condition on such a revision does not hold. Keys are created anew: their revisions and versions \
are not those of the backup. A key with a time to live gets the time that it had left when the backup was made. A key of a lease gets the time to live of the \
lease, and belongs to no lease: its owner must put it again.

While the restore is not complete, the key \"\\0kv/restore\" exists. If the restore is interrupted, run it again with the same file. If an earlier run still \
works then, it ends with an error at its next write."
)]
pub(crate) struct RestoreArgs {
    /// The backup.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
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
    let checked = check(&args.file, &file, json)?;
    file.rewind().map_err(failed)?;
    let client = context.client().await?;
    check_sizes(client, &checked)?;
    // Nothing is raised. The clock of this machine may differ from that of the cluster.
    let now = client.raise_revision(Revision::ZERO).await?.timestamp;
    let backup = checked.description.revision;
    let to = target(backup, now.get()).ok_or_else(|| {
        Failure::failed(format!(
            "the revisions of the cluster cannot go on above revision {backup} of the backup and time {now} of the \
             cluster: {MOST_REVISION} is the greatest allowed"
        ))
    })?;
    let Checked { summary, .. } = checked;
    let run = Run::begin(client, &summary, to).await?;
    run.write(&args.file, &file, &summary, json).await?;
    let revision = run.finish().await?.get();
    let object = Value::Object(summary_json(&args.file.display().to_string(), revision, &summary));
    print_either(json, &object, &format!("keys restored: {}, revision {revision}", summary.keys))
}

/// Checks whether the cluster allows every key and value of the backup.
fn check_sizes(client: &Client, Checked { longest, .. }: &Checked) -> Result<(), Failure> {
    let key = longest.key.max(MARKER.len());
    for (what, found, option, most) in [
        ("key", key, "max_key_bytes", client.max_key_bytes()),
        ("value", longest.value, "max_value_bytes", client.max_value_bytes()),
    ] {
        if found > most {
            return Err(Failure::failed(format!(
                "the restore puts a {what} of {found} bytes, and the {option} of this cluster is {most}: form a \
                 cluster with a larger {option}"
            )));
        }
    }
    Ok(())
}

/// Where the revisions of the new cluster begin: above that of the backup, and above the revisions of every earlier
/// restore of the same backup. `None` if no cluster allows it.
fn target(backup: u64, now_ms: u64) -> Option<u64> {
    let to = backup.checked_add(MARGIN)?.max(now_ms.checked_mul(PER_MS)?);
    Some(to).filter(|to| *to <= MOST_REVISION)
}

/// The value of the [`MARKER`]: what is being restored.
#[derive(Serialize, Deserialize, Debug)]
struct Marker {
    /// The checksum of the backup.
    checksum: String,
    /// Where the revisions begin. The first run has chosen it, and later ones change nothing about it.
    to: u64,
}

/// One run of `kv restore`. It may be taken for dead and still go on. So each run writes the marker again, and all its
/// other writes require the marker as it has written it: only the last run that has begun can write.
#[derive(Clone, Copy, Debug)]
struct Run<'a> {
    client: &'a Client,
    /// The revision of the marker.
    fence: Revision,
}

impl<'a> Run<'a> {
    /// Begins a restore in an empty cluster, or takes over an interrupted restore of the same backup, and raises the
    /// revision.
    async fn begin(client: &'a Client, summary: &Summary, to: u64) -> Result<Self, Failure> {
        let mut marker = Marker { checksum: summary.checksum.clone(), to };
        let found = client.get(MARKER).await?;
        if let Some(found) = &found {
            match serde_json::from_slice::<Marker>(&found.value) {
                Ok(found) if found.checksum == marker.checksum => marker = found,
                _ => {
                    return Err(Failure::failed(
                        "a restore of another backup was begun here: use its file, or form a new cluster",
                    ));
                }
            }
        } else if !client.scan("").limit(1).keys_only().await?.is_empty() {
            return Err(has_keys());
        }
        Self::mark(client, marker, found.map(|found| found.modified)).await
    }

    /// Writes the marker, over the one of an earlier run if there is one, and raises the revision.
    async fn mark(client: &'a Client, marker: Marker, before: Option<Revision>) -> Result<Self, Failure> {
        let value = serde_json::to_vec(&marker).expect("plain data always encodes");
        let put = client.put(MARKER, value);
        let put = match before {
            Some(before) => put.if_revision(before),
            None => put.if_absent(),
        };
        let fence = match put.await {
            Ok(written) => written.revision,
            Err(error) if error.is_condition_failed() => {
                return Err(Failure::failed("another run of kv restore has just begun here"));
            }
            Err(error) => return Err(error.into()),
        };
        if before.is_none() || fence.get() <= marker.to {
            // No run has raised the revision, so none has put a key.
            Self::check_alone(client, fence).await?;
        }
        client.raise_revision(Revision::new(marker.to)).await.map_err(incomplete)?;
        Ok(Self { client, fence })
    }

    /// Checks again whether the cluster was empty: others may have written before they could see the marker. Removes
    /// the marker if it was not. Otherwise a further run would go on where this one stops.
    async fn check_alone(client: &Client, fence: Revision) -> Result<(), Failure> {
        let found = client.scan("").limit(2).keys_only().await;
        if found.as_ref().is_ok_and(|found| found.iter().all(|(key, _)| key == MARKER)) {
            return Ok(());
        }
        let removed = client.delete(MARKER).if_revision(fence).await;
        found?;
        match removed {
            // Another run has taken over, and checks this too.
            Err(error) if error.is_condition_failed() => Err(has_keys()),
            Err(error) => Err(Failure::from(error).within(
                "the cluster has keys, so nothing is restored; if the key \"\\0kv/restore\" still exists, delete it",
            )),
            Ok(_) => Err(has_keys()),
        }
    }

    /// Puts every key of the file, which is checked again: it may have changed since it was checked. When this returns
    /// without an error, every put has been answered.
    async fn write(&self, name: &Path, file: &File, checked: &Summary, json: bool) -> Result<(), Failure> {
        let (mut reader, _) = read::begin(name, file).map_err(unfinished)?;
        let mut progress = Progress::new("restored", json);
        let mut next = || match reader.next() {
            Ok(Part::Records(items)) => Ok(Some(items)),
            Ok(Part::End(summary)) if summary == *checked => Ok(None),
            Ok(Part::End(_)) => Err(Failure::failed("the file was changed during the restore")),
            Err(error) => Err(unreadable(name, &error)),
        };
        let put = |item| self.put(item);
        put_blocks(|| next().map_err(unfinished), put, |keys, bytes| progress.add(keys, bytes)).await
    }

    async fn put(&self, Item { key, value, ttl_ms, .. }: Item) -> Result<(), Failure> {
        // A key that got the longest time may have had a little more left: members add what clocks may differ by.
        let ttl_ms = ttl_ms.map(NonZeroU64::get).map(|ttl_ms| ttl_ms.min(Lifetime::MAX_TTL_MS));
        let life = Lifetime { ttl_ms, lease: None };
        let put = self.client.transaction().if_revision(MARKER, self.fence).put_for(key, value, life);
        if put.await.map_err(incomplete)?.succeeded { Ok(()) } else { Err(superseded()) }
    }

    /// Removes the marker, and returns the revision.
    async fn finish(self) -> Result<Revision, Failure> {
        match self.client.delete(MARKER).if_revision(self.fence).await {
            Ok(deleted) => Ok(deleted.revision),
            Err(error) if error.is_condition_failed() => Err(superseded()),
            Err(error) => Err(Failure::from(error).within(
                "all keys are written; if the key \"\\0kv/restore\" still exists, run kv restore again with the same \
                 file",
            )),
        }
    }
}

/// Puts the records of all blocks that `next` returns: of several blocks at once, so that the last puts of one block,
/// or a large record, do not keep the others waiting. `done` is told how many records and bytes of a block were put.
async fn put_blocks<P: Future<Output = Result<(), Failure>>>(
    mut next: impl FnMut() -> Result<Option<Vec<Item>>, Failure>,
    put: impl Fn(Item) -> P,
    mut done: impl FnMut(u64, u64),
) -> Result<(), Failure> {
    let put_block = async |items: Vec<Item>, keys: u64, bytes: u64| {
        let puts = stream::iter(items).map(&put).buffer_unordered(AT_ONCE);
        puts.try_for_each(|()| async { Ok(()) }).await.map(|()| (keys, bytes))
    };
    let (mut under_way, mut held) = (FuturesUnordered::new(), 0);
    let mut block = next()?;
    loop {
        let bytes: u64 = block.iter().flatten().map(Item::bytes).sum();
        let fits = under_way.is_empty() || under_way.len() < BLOCKS && held + bytes <= MOST_BYTES;
        if let Some(items) = block.take_if(|_| fits) {
            held += bytes;
            let keys = items.len() as u64;
            under_way.push(put_block(items, keys, bytes));
            block = next()?;
            continue;
        }
        let Some((keys, bytes)) = under_way.try_next().await? else { return Ok(()) };
        held -= bytes;
        done(keys, bytes);
    }
}

fn incomplete(error: WriteError) -> Failure {
    unfinished(error.into())
}

fn unfinished(failure: Failure) -> Failure {
    failure.within("the restore is not complete: run it again with the same file")
}

fn has_keys() -> Failure {
    Failure::failed("the cluster has keys: a backup is restored only to a new cluster, which is empty")
}

fn superseded() -> Failure {
    Failure::failed(
        "another run of kv restore has taken over, or has completed the restore: this run has stopped, and has changed \
         nothing since then",
    )
}

#[cfg(test)]
mod tests {
    use super::super::format::{Description, Writer};
    use super::*;
    use kv_core::transport::Memory;
    use kv_core::{Cluster, Node};
    use std::cell::Cell;

    /// A new cluster of one member in this process, which keeps its data in a folder.
    async fn cluster() -> (Node, tempfile::TempDir) {
        let folder = tempfile::tempdir().expect("a folder");
        let cluster = Cluster::builder("test").member(0, "a:1").build().expect("a cluster");
        let builder = Node::builder(cluster, 0).transport(Memory::new()).data_dir(folder.path());
        (builder.start().await.expect("it starts"), folder)
    }

    fn summary(checksum: &str) -> Summary {
        Summary { keys: 1, bytes: 2, checksum: checksum.to_owned() }
    }

    fn item(value: &'static str) -> Item {
        let (key, value) = ("k".into(), value.into());
        Item { key, value, created: 1, modified: 1, version: 1, ttl_ms: None }
    }

    #[tokio::test]
    async fn of_two_runs_only_the_last_that_has_begun_writes() {
        let (node, _folder) = cluster().await;
        let client = &node.client();
        let first = Run::begin(client, &summary("one"), 1 << 40).await.expect("the cluster is empty");
        first.put(item("first")).await.expect("nobody else is here");
        let other = Run::begin(client, &summary("two"), 1 << 40).await.expect_err("another backup");
        assert!(other.to_string().contains("another backup"), "{other}");
        // The first run seems to be dead. Its time is over, but it does not know.
        let second = Run::begin(client, &summary("one"), 1 << 50).await.expect("the same backup");
        let stopped = first.put(item("first again")).await.expect_err("it was taken over");
        assert!(stopped.to_string().contains("another run"), "{stopped}");
        second.put(item("second")).await.expect("it has taken over");
        assert!(first.finish().await.is_err(), "the restore is not complete");
        let revision = second.finish().await.expect("it is complete").get();
        assert!((1 << 40..1 << 41).contains(&revision), "the first run has chosen it: {revision}");
        client.put("k", "of an application").await.expect("the cluster is in use");
        assert!(first.put(item("first again")).await.is_err());
        assert!(first.finish().await.is_err() && second.finish().await.is_err());
        let found = client.get("k").await.expect("it is there").expect("it is there");
        assert_eq!(found.value, "of an application");
        assert_eq!(client.get(MARKER).await.expect("it can be read"), None);
        let used = Run::begin(client, &summary("one"), 1 << 50).await.expect_err("it has keys");
        assert!(used.to_string().contains("has keys"), "{used}");
    }

    /// Another client writes when the cluster has just been found empty.
    #[tokio::test]
    async fn a_restore_does_not_begin_among_the_keys_of_others() {
        let (node, _folder) = cluster().await;
        let client = &node.client();
        client.put("k", "of an application").await.expect("the cluster is in use");
        let marker = || Marker { checksum: "one".to_owned(), to: 1 << 40 };
        let refused = Run::mark(client, marker(), None).await.expect_err("it has keys");
        assert!(refused.to_string().contains("has keys"), "{refused}");
        assert_eq!(client.get(MARKER).await.expect("it can be read"), None);
        let revision = client.delete("k").await.expect("it is deleted").revision;
        assert!(revision.get() < 1 << 40, "nothing was raised: {revision}");
        let run = Run::mark(client, marker(), None).await.expect("the cluster is empty");
        // Once the revision is raised, there may be keys of an earlier run.
        run.put(item("v")).await.expect("it is put");
        Run::mark(client, marker(), Some(run.fence)).await.expect("it takes over");
    }

    /// A run has ended between its check and its removal of the marker.
    #[tokio::test]
    async fn a_restore_does_not_take_over_a_marker_among_the_keys_of_others() {
        let (node, _folder) = cluster().await;
        let client = &node.client();
        client.put("k", "of an application").await.expect("the cluster is in use");
        let marker = Marker { checksum: "one".to_owned(), to: 1 << 40 };
        let value = serde_json::to_vec(&marker).expect("plain data always encodes");
        client.put(MARKER, value).await.expect("it is put");
        let refused = Run::begin(client, &summary("one"), 1 << 50).await.expect_err("it has keys");
        assert!(refused.to_string().contains("has keys"), "{refused}");
        assert_eq!(client.get(MARKER).await.expect("it can be read"), None);
    }

    #[tokio::test]
    async fn a_key_is_restored_with_the_longest_time_to_live() {
        let (node, _folder) = cluster().await;
        let client = &node.client();
        let run = Run::begin(client, &summary("one"), 1 << 40).await.expect("the cluster is empty");
        // As a backup of a key has it that was put with the longest time just before.
        for more in [0, 1, Lifetime::MAX_TTL_MS / 1000 + 1] {
            let ttl_ms = NonZeroU64::new(Lifetime::MAX_TTL_MS + more);
            run.put(Item { ttl_ms, ..item("v") }).await.expect("it is put");
            let found = client.get("k").await.expect("it can be read").expect("it is there");
            assert!(found.expires.is_some(), "{found:?}");
        }
    }

    /// A backup of several blocks, as a file.
    fn backup(folder: &Path) -> (PathBuf, Summary) {
        let name = folder.join("backup");
        let file = File::create(&name).expect("a file");
        let mut writer =
            Writer::new(file, &Description::new("test".to_owned(), 9, 1234)).expect("it is written");
        for number in 0..200 {
            let (key, value) = (format!("key/{number:03}").into(), vec![7; 10_000].into());
            let item = Item { key, value, created: 1, modified: 1, version: 1, ttl_ms: None };
            writer.add(&item).expect("it is written");
        }
        (name, writer.finish().expect("it is written").1)
    }

    #[tokio::test]
    async fn a_run_that_was_taken_over_stops_in_the_middle_of_its_blocks() {
        let (node, folder) = cluster().await;
        let client = &node.client();
        let (name, summary) = backup(folder.path());
        let file = open(&name).expect("it is there");
        let first = Run::begin(client, &summary, 1 << 40).await.expect("the cluster is empty");
        let second = Run::begin(client, &summary, 1 << 40).await.expect("the same backup");
        let stopped = first.write(&name, &file, &summary, false).await.expect_err("it was taken over");
        assert!(stopped.to_string().contains("another run"), "{stopped}");
        assert_eq!(client.count("key/").await.expect("it is counted"), 0);
        let file = open(&name).expect("it is there");
        second.write(&name, &file, &summary, false).await.expect("it has taken over");
        assert_eq!(client.count("key/").await.expect("it is counted"), 200);
        second.finish().await.expect("it is complete");
    }

    /// How many puts of these blocks, of one record each, are under way at the same time.
    async fn most_under_way(sizes: &[usize]) -> usize {
        let (under_way, most, put, reported) = (Cell::new(0), Cell::new(0), Cell::new(0), Cell::new((0, 0)));
        let mut blocks = sizes.iter().map(|size| vec![Item { value: vec![0; *size].into(), ..item("") }]);
        let put_one = async |_: Item| {
            under_way.set(under_way.get() + 1);
            most.set(most.get().max(under_way.get()));
            // Others could begin meanwhile.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            under_way.set(under_way.get() - 1);
            put.set(put.get() + 1);
            Ok(())
        };
        let add = |keys, bytes| reported.set((reported.get().0 + keys, reported.get().1 + bytes));
        put_blocks(|| Ok(blocks.next()), put_one, add).await.expect("no put fails");
        assert_eq!((put.get(), under_way.get()), (sizes.len(), 0));
        let bytes = sizes.iter().map(|size| *size as u64 + 1).sum();
        assert_eq!(reported.get(), (sizes.len() as u64, bytes));
        most.get()
    }

    #[tokio::test]
    async fn several_blocks_are_put_at_once_and_not_too_many_bytes() {
        assert_eq!(most_under_way(&[]).await, 0);
        assert_eq!(most_under_way(&[1; 100]).await, BLOCKS);
        assert_eq!(most_under_way(&[7 << 20; 5]).await, 2);
        assert_eq!(most_under_way(&[20 << 20; 3]).await, 1, "a large one is put alone");
        assert_eq!(most_under_way(&[1, 20 << 20, 1, 1]).await, 2);
    }

    #[tokio::test]
    async fn no_block_is_put_after_a_put_or_the_file_has_failed() {
        let puts = Cell::new(0);
        let put = async |_: Item| {
            puts.set(puts.get() + 1);
            if puts.get() == 3 { Err(superseded()) } else { Ok(()) }
        };
        let mut blocks = (0..100).map(|_| vec![item("v")]);
        assert_eq!(put_blocks(|| Ok(blocks.next()), put, |_, _| {}).await, Err(superseded()));
        assert!(puts.get() <= BLOCKS, "{} puts", puts.get());
        let mut blocks = [Ok(Some(vec![item("v")])), Err(superseded())].into_iter();
        let next = || blocks.next().expect("it is not asked again");
        assert_eq!(put_blocks(next, async |_| Ok(()), |_, _| {}).await, Err(superseded()));
    }

    #[test]
    fn the_revisions_of_a_restore_begin_above_every_earlier_one() {
        let year_2026 = 1_780_000_000_000;
        let first = target(1000, year_2026).expect("it is allowed");
        assert!(first > 1000 + 1_000_000_000, "the longest history is a billion revisions");
        // The second one begins a minute later. The first cluster has taken a million revisions in each second.
        let second = target(1000, year_2026 + 60_000).expect("it is allowed");
        assert!(second - 1_000_000_000 > first + 60_000_000);
        // The backup of a restored cluster, by a clock that was set back. And revisions and times without any above.
        assert_eq!(target(second, 5), Some(second + MARGIN));
        assert_eq!((target(u64::MAX, 5), target(MOST_REVISION - 5, 5)), (None, None));
        assert_eq!((target(5, u64::MAX), target(5, 1 << 50)), (None, None));
        assert_eq!(target(MOST_REVISION - MARGIN, 5), Some(MOST_REVISION));
    }
}
