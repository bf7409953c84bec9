//! `kv recover`, and `kv verify` of a data directory: what a stopped member has stored.

use super::format::{Description, Item, Summary, Writer};
use super::part::PartFile;
use super::take::{ENDED_LEASE_MS, left, refuse_existing, unwritten};
use super::{MARKER, check_restored, summary_json, summary_text};
use crate::commands::print_either;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::signals::Signals;
use clap::Args;
use kv_core::client::Record;
use kv_core::offline::{DataDirectory, OfflineError};
use serde_json::{Value, json};
use std::io::BufWriter;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;

#[derive(Args, Debug)]
#[command(
    after_help = "Use kv recover when so many members are lost for good that the others cannot form a quorum (a majority). As long as a quorum can still be \
formed, use it: kv recover can miss writes that were acknowledged.

1. Stop all members that are left.
2. Run `kv verify DIRECTORY` for each of them. Choose the member with the highest op: it has the most.
3. Run kv recover for this member.
4. Start a new cluster with empty data directories, and run `kv restore FILE`.

kv recover does not change the data directory. It reads the last checkpoint of the member and all entries of its journal, even entries for which the member does not know \
whether the cluster had committed them. It needs memory for what these entries change. Writes that only lost members have stored are missing; nobody can know which \
these are. Locks, leases and sessions are not kept, and a key of a lease gets the time to live of the lease."
)]
pub(crate) struct RecoverArgs {
    /// The data directory of a stopped member.
    pub(crate) directory: PathBuf,
    /// The backup file to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// `kv recover`.
pub(crate) async fn recover(args: RecoverArgs, json: bool) -> Result<(), Failure> {
    refuse_existing(&args.output)?;
    let mut signals = Signals::catch()?;
    let done = async {
        let directory = args.directory.clone();
        let opened = on_thread(move || {
            let opened = open(&directory)?;
            announce(&directory, &opened, json)?;
            Ok(opened)
        });
        let opened = opened.await?;
        let revision = opened.revision().get();
        // It is removed if this future is dropped.
        let (part, out) = PartFile::create(&args.output)?;
        let (out, summary) = on_thread(move || write(&opened, BufWriter::new(out), json)).await?;
        let out = out.into_inner().map_err(|error| unwritten(error.error()))?;
        part.sync(out).await?;
        Ok::<_, Failure>((part, revision, summary))
    };
    let (part, revision, summary) = tokio::select! {
        done = done => done?,
        signal = signals.next_end() => {
            let text = format!("{signal}: the backup is not complete, and its file was removed");
            return Err(signal.ended(text));
        }
    };
    part.publish()?;
    let shown = args.output.display().to_string();
    let hint = format!("write it to a new cluster with: kv restore {shown}");
    let text = format!("{}\n{hint}", summary_text(revision, &summary));
    print_either(json, &Value::Object(summary_json(&shown, revision, &summary)), &text)
}

/// Does work that blocks. If the process is to end, nobody waits for it.
async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (done, result) = oneshot::channel();
    std::thread::spawn(move || done.send(work()));
    result.await.unwrap_or_else(|_| Err(Failure::failed("the thread that reads the directory has failed")))
}

/// `kv verify` of a data directory.
pub(crate) fn verify(directory: &Path, json: bool) -> Result<(), Failure> {
    let opened = open(directory)?;
    let mut progress = Progress::new("verified", json);
    opened.verify_state(|bytes| progress.add(0, bytes)).map_err(|error| unusable(directory, &error))?;
    if let Some(bad) = unreadable(&opened) {
        return Err(
            Failure::failed(format!("{}: {bad}", directory.display())).with_hint(description(&opened))
        );
    }
    print_either(json, &object(directory, &opened), &description(&opened))
}

fn open(directory: &Path) -> Result<DataDirectory, Failure> {
    DataDirectory::open(directory).map_err(|error| unusable(directory, &error))
}

fn unusable(directory: &Path, error: &OfflineError) -> Failure {
    match error {
        OfflineError::Directory(_) | OfflineError::NotADataDirectory(_) => Failure::usage(error.to_string()),
        error => Failure::failed(format!("{}: {error}", directory.display())),
    }
}

fn description(opened: &DataDirectory) -> String {
    format!(
        "cluster {:?}, member {}: op {}, revision {}, last checkpoint at op {}",
        opened.cluster(),
        opened.member(),
        opened.last_op(),
        opened.revision(),
        opened.checkpoint()
    )
}

fn object(directory: &Path, opened: &DataDirectory) -> Value {
    json!({
        "directory": directory.display().to_string(),
        "cluster": opened.cluster(),
        "member": opened.member().get(),
        "op": opened.last_op().get(),
        "revision": opened.revision().get(),
        "checkpoint": opened.checkpoint().get(),
        "unreadable_from": opened.unreadable().map(|entries| entries.first.get()),
    })
}

fn unreadable(opened: &DataDirectory) -> Option<String> {
    let entries = opened.unreadable()?;
    let last = entries.last.map_or("an unknown op".to_owned(), |last| format!("op {last}"));
    Some(format!(
        "the journal is damaged: its entries from op {} to {last} cannot be read. They may have been acknowledged, and \
         other members may have them",
        entries.first
    ))
}

/// Says what is going to be saved, and what is missing.
fn announce(directory: &Path, opened: &DataDirectory, json: bool) -> Result<(), Failure> {
    use std::io::Write as _;
    let text = if json {
        let mut object = object(directory, opened);
        object["event"] = json!("recovering");
        format!("{object}\n")
    } else {
        let bad = unreadable(opened).map(|bad| format!("warning: {bad}\n")).unwrap_or_default();
        format!(
            "{}\n{bad}Writes that only other members have stored are missing: compare the op with `kv verify` of their \
             directories.\n",
            description(opened)
        )
    };
    crate::commands::still_read(anstream::stderr().write_all(text.as_bytes())).map(drop)
}

/// Writes the backup.
fn write<W: std::io::Write>(opened: &DataDirectory, out: W, json: bool) -> Result<(W, Summary), Failure> {
    let taken_ms = opened.timestamp().get();
    let description = Description::new(opened.cluster().to_owned(), opened.revision().get(), taken_ms);
    let mut writer = Writer::new(out, &description).map_err(|error| unwritten(&error))?;
    let mut progress = Progress::new("recovered", json);
    for record in opened.records() {
        let (key, record) = record.map_err(|error| Failure::failed(error.to_string()))?;
        check_restored((key == MARKER).then_some(&record))?;
        let ttl_ms = remaining(opened, &record, taken_ms);
        let Record { value, created, modified, version, .. } = record;
        let (created, modified) = (created.get(), modified.get());
        let item = Item { key, value, created, modified, version, ttl_ms };
        writer.add(&item).map_err(|error| unwritten(&error))?;
        progress.add(1, item.bytes());
    }
    writer.finish().map_err(|error| unwritten(&error))
}

/// How long a key is still to be kept, in milliseconds, and `None` for ever.
fn remaining(opened: &DataDirectory, record: &Record, taken_ms: u64) -> Option<NonZeroU64> {
    let own = record.expires.map(|at| left(at, taken_ms));
    let of_lease = record.lease.map(|lease| {
        let ttl = opened.lease_ttl(lease).map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        ttl.unwrap_or(ENDED_LEASE_MS)
    });
    own.into_iter().chain(of_lease).min().and_then(NonZeroU64::new)
}
