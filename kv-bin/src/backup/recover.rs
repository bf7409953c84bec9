//! `kv recover`, and `kv verify` of a data directory: what a stopped member has stored.

use super::format::{Description, Item, Summary, Writer};
use super::part::PartFile;
use super::take::{ENDED_LEASE_MS, left, refuse_existing, shorter, unwritten};
use super::{MARKER, check_restored, on_thread, summary_json, summary_text};
use crate::commands::{print_either, report_either};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::signals::Signals;
use clap::Args;
use kv_core::client::Record;
use kv_core::node::DirectoryError;
use kv_core::offline::{DataDirectory, OfflineError};
use serde_json::{Value, json};
use std::io::{BufWriter, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

#[derive(Args, Debug)]
#[command(
    after_help = "Use kv recover when so many members are lost for good that the others cannot form a quorum (a majority). As long as a quorum can still be \
formed, use it: kv recover can miss writes that were acknowledged.

1. Stop all members that are left, and never start them again.
2. Run kv recover with the data directories of all of them.
3. Start a new cluster with empty data directories, and run `kv restore FILE`.

Among the directories, kv recover chooses as a cluster does: a checkpoint that is ahead of the logs of the others, then the log of the latest view, then the longest \
log. It does not change a directory, but it locks them, so it must run under an account that can write them. It reads the last checkpoint of the member and \
all entries of its journal, even entries for which the member does not know whether the cluster had committed them. It needs memory for what these entries change.

Writes that the chosen member has not stored are missing; nobody can know which these are. A write can be included although its client received no answer, or \
although the cluster had replaced it by another one. Locks, leases and sessions are not kept, and a key of a lease gets the time to live of the lease. If a block of the \
state of the chosen member is damaged, kv recover fails."
)]
pub(crate) struct RecoverArgs {
    /// The data directories of stopped members.
    #[arg(required = true, value_name = "DIRECTORY")]
    pub(crate) directories: Vec<PathBuf>,
    /// The backup file to write.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

/// `kv recover`.
pub(crate) async fn recover(args: RecoverArgs, json: bool) -> Result<(), Failure> {
    if args.output.as_os_str() == "-" {
        return Err(Failure::usage("name a file: it is synced before it gets its name"));
    }
    refuse_existing(&args.output)?;
    let mut signals = Signals::catch()?;
    let done = async {
        let directories = args.directories.clone();
        let (directory, opened) = on_thread(move || choose(&directories, json)).await??;
        let about = object(&directory, &opened);
        // It is removed if this future is dropped.
        let (part, out) = PartFile::create(&args.output)?;
        let revision = opened.revision().get();
        let (out, summary) = on_thread(move || write(&opened, BufWriter::new(out), json)).await??;
        let out = out.into_inner().map_err(|error| unwritten(error.error()))?;
        part.sync(out).await?;
        Ok::<_, Failure>((part, about, revision, summary))
    };
    let (part, mut about, revision, summary) = tokio::select! {
        done = done => done?,
        signal = signals.next_end() => {
            let text = format!("{signal}: the backup is not complete, and its file was removed");
            return Err(signal.ended(text));
        }
    };
    part.publish()?;
    let shown = args.output.display().to_string();
    let text =
        format!("{}\nwrite it to a new cluster with: kv restore {shown}", summary_text(revision, &summary));
    if let Some(about) = about.as_object_mut() {
        about.extend(summary_json(&shown, revision, &summary));
    }
    print_either(json, &about, &text)
}

/// Opens the directories, reports what is in each, and returns the one that is ahead of the others.
fn choose(directories: &[PathBuf], json: bool) -> Result<(PathBuf, DataDirectory), Failure> {
    let mut chosen: Option<(PathBuf, DataDirectory)> = None;
    let (mut failed, mut logs) = (Vec::new(), Vec::new());
    for directory in directories {
        let opened = match DataDirectory::open(directory) {
            Ok(opened) => opened,
            Err(error) => {
                if let OfflineError::NoState { member, log_view, last, .. } = &error {
                    logs.push((*log_view, *last, *member));
                }
                let failure = unusable(directory, &error);
                if directories.len() > 1 {
                    let object = json!({ "event": "unusable", "error": failure.to_string() });
                    report_either(json, &object, &format!("warning: {failure}"))?;
                }
                failed.push(failure);
                continue;
            }
        };
        let bad = unreadable(&opened).map(|bad| format!("\nwarning: {bad}")).unwrap_or_default();
        let text = format!("{}: {}{bad}", directory.display(), description(&opened));
        report_either(json, &event("found", directory, &opened), &text)?;
        match &chosen {
            Some((other, before)) if before.cluster() != opened.cluster() => {
                let (one, other) = (directory.display(), other.display());
                return Err(Failure::usage(format!("{one} and {other} belong to different clusters")));
            }
            Some((_, before)) if !opened.is_ahead_of(before) => {}
            Some(_) | None => chosen = Some((directory.clone(), opened)),
        }
    }
    let Some((directory, opened)) = chosen else {
        return Err(failed.swap_remove(0));
    };
    if opened.last_op().get() == 0 {
        return Err(Failure::failed(format!("{} contains no data", directory.display())));
    }
    for (log_view, last, member) in logs {
        if (log_view, last) > (opened.log_view(), opened.last_op()) {
            let text = format!(
                "warning: the journal of member {member} goes further (view {log_view}, op {last}), but without its state it \
                 cannot be used: later writes are missing"
            );
            let object = json!({ "event": "missing", "member": member.get(), "op": last.get() });
            report_either(json, &object, &text)?;
        }
    }
    let text = format!("recovering {}; writes that it does not contain will be missing", directory.display());
    report_either(json, &event("recovering", &directory, &opened), &text)?;
    Ok((directory, opened))
}

/// `kv verify` of a data directory.
pub(crate) fn verify(directory: &Path, json: bool) -> Result<(), Failure> {
    let opened = DataDirectory::open(directory).map_err(|error| unusable(directory, &error))?;
    let mut progress = Progress::new("verified", json);
    opened
        .verify_state(|bytes| progress.add(0, bytes))
        .map_err(|error| unusable(directory, &error).with_hint(description(&opened)))?;
    if let Some(bad) = unreadable(&opened) {
        return Err(
            Failure::failed(format!("{}: {bad}", directory.display())).with_hint(description(&opened))
        );
    }
    print_either(json, &object(directory, &opened), &description(&opened))
}

fn unusable(directory: &Path, error: &OfflineError) -> Failure {
    match error {
        OfflineError::Directory(DirectoryError::Locked(_) | DirectoryError::NotADirectory(_))
        | OfflineError::NotADataDirectory(_) => Failure::usage(error.to_string()),
        error => Failure::failed(format!("{}: {error}", directory.display())),
    }
}

fn description(opened: &DataDirectory) -> String {
    format!(
        "cluster {:?}, member {}: log of view {}, op {}, revision {}, last checkpoint at op {}",
        opened.cluster(),
        opened.member(),
        opened.log_view(),
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
        "log_view": opened.log_view().get(),
        "op": opened.last_op().get(),
        "revision": opened.revision().get(),
        "checkpoint": opened.checkpoint().get(),
        "unreadable_from": opened.unreadable().map(|entries| entries.first.get()),
    })
}

fn event(name: &str, directory: &Path, opened: &DataDirectory) -> Value {
    let mut object = object(directory, opened);
    object["event"] = json!(name);
    object
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

/// Writes the backup.
fn write<W: Write>(opened: &DataDirectory, out: W, json: bool) -> Result<(W, Summary), Failure> {
    let taken_ms = opened.timestamp().get();
    let description = Description::new(opened.cluster().to_owned(), opened.revision().get(), taken_ms);
    let mut writer = Writer::new(out, &description).map_err(|error| unwritten(&error))?;
    let mut progress = Progress::new("recovered", json);
    for record in opened.records() {
        let (key, record) = record.map_err(|error| Failure::failed(error.to_string()))?;
        check_restored((key == MARKER).then_some(&record))?;
        let ttl_ms = remaining(opened, &record, taken_ms);
        let item = Item::of(key, record, ttl_ms);
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
    shorter(own, of_lease)
}
