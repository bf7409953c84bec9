//! `kv backup`: writes the content of the cluster to a file.

use super::format::{Description, Item, Writer};
use super::part::PartFile;
use super::{MARKER, check_restored, summary_json, summary_text};
use crate::commands::{print_either, report_either};
use crate::config::ConnectArgs;
use crate::context::Context;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::signals::Signals;
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;
use kv_core::Client;
use kv_core::client::{LeaseId, Record, Revision, RevisionRaised, Scan, Timestamp};
use kv_core::config::{MemberId, Role};
use kv_core::error::ReadError;
use kv_core::node::MemberState;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, BufWriter, IsTerminal as _, Write};
use std::num::NonZeroU64;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::pin::pin;

/// The time to live of a key whose lease has ended since the backup began. It existed at the revision of the backup.
pub(super) const ENDED_LEASE_MS: u64 = 1000;

/// How often a lease is asked for, each time for as long as the client waits: a failover should not end a long backup.
const LEASE_ATTEMPTS: u32 = 5;

#[derive(Args, Debug)]
#[command(
    after_help = "The backup has the state at one revision, and the cluster goes on working. kv reads it page by page from a backup member if there is one, so \
it needs little memory. The members must keep this revision until the backup is done: if `--history-revisions` or `--history-bytes` of the cluster are too \
small for its writes, kv backup fails. A backup member that fails is replaced by another member.

A key with a time to live is stored with its remaining time, and a key of a lease with the time to live of the lease, or with one second if the lease has \
ended since the backup began.

With -o FILE, kv writes a new file beside it, whose name ends in .part and which only you can read, and gives it its name when it is complete and on the disk. An \
existing FILE is not replaced. If the backup fails, or is stopped by Ctrl-C, SIGTERM or SIGHUP, kv removes the new file. `kv verify FILE` reads a \
backup and checks it; `kv restore FILE` writes it to a new cluster."
)]
pub(crate) struct BackupArgs {
    /// The file to write, or `-` for standard output.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Read from this member [default: a backup member]
    #[arg(long, value_name = "ID", value_parser = crate::config::whole(0..=u8::MAX))]
    pub(crate) member: Option<u8>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// `kv backup`.
pub(crate) async fn backup(context: &Context, args: BackupArgs, json: bool) -> Result<(), Failure> {
    let cluster = context.cluster()?;
    if args.output.as_os_str() == "-" {
        if context.is_shell() {
            return Err(Failure::usage("a backup cannot be mixed with the output of the shell: name a file"));
        }
        if io::stdout().is_terminal() {
            return Err(Failure::usage("a backup is not printed on a terminal: name a file, or use a pipe"));
        }
        let out = BufWriter::new(io::stdout().lock());
        let (_, revision, summary) = Box::pin(take(context, &args, cluster, out, json)).await?;
        // Standard output is the backup.
        let object = Value::Object(summary_json("-", revision, &summary));
        return report_either(json, &object, &summary_text(revision, &summary));
    }
    let file = &args.output;
    refuse_existing(file)?;
    let mut signals = Signals::catch()?;
    let (part, out) = PartFile::create(file)?;
    let taking = async {
        let (out, revision, summary) = take(context, &args, cluster, BufWriter::new(out), json).await?;
        let out = out.into_inner().map_err(|error| unwritten(error.error()))?;
        part.sync(out).await?;
        Ok::<_, Failure>((revision, summary))
    };
    let taken = tokio::select! {
        taken = Box::pin(taking) => taken,
        signal = signals.next_end() => {
            Err(signal.ended(format!("{signal}: the backup is not complete, and its file was removed")))
        }
    };
    let (revision, summary) = taken?;
    part.publish()?;
    let object = Value::Object(summary_json(&file.display().to_string(), revision, &summary));
    print_either(json, &object, &summary_text(revision, &summary))
}

/// Refuses to replace a file.
pub(super) fn refuse_existing(file: &Path) -> Result<(), Failure> {
    if file.exists() {
        return Err(Failure::usage(format!("{} exists: choose another name", file.display())));
    }
    Ok(())
}

/// Writes the backup.
async fn take<W: Write>(
    context: &Context,
    args: &BackupArgs,
    cluster: String,
    out: W,
    json: bool,
) -> Result<(W, u64, super::format::Summary), Failure> {
    let client = context.client().await?;
    // The newest revision, and its time on the clock of the cluster: no write that was acknowledged before is missing.
    // Nothing is raised. The clock of this machine may differ.
    let RevisionRaised { revision, timestamp, .. } = client.raise_revision(Revision::ZERO).await?;
    let taken_ms = timestamp.get();
    check_restored(client.get(MARKER).at(revision).await?.as_ref())?;
    let mut source = Source {
        client,
        revision,
        member: args.member.map(MemberId::new),
        is_fixed: args.member.is_some(),
        after: None,
    };
    if source.member.is_none() {
        source.member = backup_member(client).await;
    }
    let written = |error: io::Error| unwritten(&error);
    let mut writer =
        Writer::new(out, &Description::new(cluster, revision.get(), taken_ms)).map_err(written)?;
    let mut progress = Progress::new("backed up", json);
    let mut leases = HashMap::new();
    loop {
        let mut records = pin!(source.scan().stream());
        let error = loop {
            match records.next().await {
                None => break None,
                Some(Err(error)) => break Some(error),
                Some(Ok((key, record))) => {
                    source.after = Some(key.clone());
                    let ttl_ms = remaining(client, &record, taken_ms, &mut leases).await?;
                    let item = Item::of(key, record, ttl_ms);
                    writer.add(&item).map_err(written)?;
                    progress.add(1, item.bytes());
                }
            }
        };
        match error {
            None => break,
            Some(error) => source.failed(error)?,
        }
    }
    let (out, summary) = writer.finish().map_err(written)?;
    Ok((out, revision.get(), summary))
}

pub(super) fn unwritten(error: &io::Error) -> Failure {
    Failure::failed(format!("cannot write the backup: {error}"))
}

/// How long a key is still to be kept, in milliseconds, and `None` for ever.
async fn remaining(
    client: &Client,
    record: &Record,
    taken_ms: u64,
    leases: &mut HashMap<LeaseId, u64>,
) -> Result<Option<NonZeroU64>, Failure> {
    let own = record.expires.map(|at| left(at, taken_ms));
    let Some(lease) = record.lease else { return Ok(shorter(own, None)) };
    let of_lease = match leases.get(&lease) {
        Some(known) => *known,
        None => {
            let found = ttl_of(client, lease).await?;
            leases.insert(lease, found);
            found
        }
    };
    Ok(shorter(own, Some(of_lease)))
}

/// The time that is left for a key with a time to live of its own, and one of its lease.
pub(super) fn shorter(own: Option<u64>, of_lease: Option<u64>) -> Option<NonZeroU64> {
    own.into_iter().chain(of_lease).min().and_then(NonZeroU64::new)
}

/// How long a key that ends at this time was still to be kept when the backup began. Both times are those of the
/// cluster. A key that is overdue exists until it is removed.
pub(super) fn left(end: Timestamp, taken_ms: u64) -> u64 {
    end.get().saturating_sub(taken_ms).max(1)
}

/// The time to live of a lease, in milliseconds.
async fn ttl_of(client: &Client, lease: LeaseId) -> Result<u64, Failure> {
    let mut attempts = 1;
    loop {
        match client.lease_by_id(lease).info().await {
            Ok(found) => return Ok(found.map_or(ENDED_LEASE_MS, |info| info.ttl_ms)),
            // It changes nothing, so it is asked again.
            Err(error) if attempts < LEASE_ATTEMPTS && (error.is_retryable() || error.outcome_unknown()) => {
                attempts += 1
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A data member that follows the primary.
async fn backup_member(client: &Client) -> Option<MemberId> {
    let reports = client.cluster_status().await;
    let mut answers = reports.into_iter().filter_map(|report| report.status.ok());
    answers
        .find(|status| status.state == MemberState::Backup && status.role == Role::Data)
        .map(|status| status.id)
}

/// Where the keys are read.
struct Source<'a> {
    client: &'a Client,
    revision: Revision,
    /// The member to read from; any if there is none.
    member: Option<MemberId>,
    /// Whether the user chose the member.
    is_fixed: bool,
    /// The last key that was read.
    after: Option<Bytes>,
}

impl Source<'_> {
    /// A scan of the keys that have not been read.
    fn scan(&self) -> Scan {
        let from = self.after.as_ref().map_or(Bound::Unbounded, |key| Bound::Excluded(key.clone()));
        let scan = self.client.scan_range((from, Bound::Unbounded)).at_least(self.revision).at(self.revision);
        self.member.into_iter().fold(scan, Scan::member)
    }

    /// Decides how to go on after an error: if the member has failed, with another one.
    fn failed(&mut self, error: ReadError) -> Result<(), Failure> {
        match error {
            ReadError::Unavailable(_) if self.member.is_some() && !self.is_fixed => {
                self.member = None;
                Ok(())
            }
            ReadError::Compacted { oldest } => Err(Failure::failed(format!(
                "the cluster no longer keeps revision {}, and the oldest that it keeps is {oldest}: it writes too much \
                 for its history; repeat the backup when it writes less, or form clusters with a larger \
                 history_revisions and history_bytes",
                self.revision
            ))),
            error => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock of the cluster is decades behind that of this machine, and decades ahead of it.
    #[test]
    fn times_to_live_are_those_of_the_clock_of_the_cluster() {
        for taken_ms in [1_000, 4_000_000_000_000] {
            assert_eq!(left(Timestamp::new(taken_ms + 3_600_000), taken_ms), 3_600_000);
            assert_eq!(left(Timestamp::new(taken_ms), taken_ms), 1, "it is overdue");
            assert_eq!(left(Timestamp::new(taken_ms - 500), taken_ms), 1);
        }
    }
}
