//! `kv dump`: the content of the cluster as lines of JSON, and perhaps every later change.

use crate::args::DumpArgs;
use crate::backup::restored_revision;
use crate::commands::{record_json, still_read, write_line};
use crate::context::Context;
use crate::encoding::json_line;
use crate::failure::Failure;
use crate::signals::Signals;
use crate::watch::{ended, event_json, failure};
use futures::StreamExt as _;
use kv_core::Client;
use kv_core::client::Revision;
use serde_json::{Value, json};
use std::pin::pin;
use std::time::Duration;

/// How often a line names a revision up to which every change has been printed.
const INTERVAL: Duration = Duration::from_secs(1);

/// `kv dump`.
pub(crate) async fn dump(context: &Context, args: DumpArgs) -> Result<(), Failure> {
    let prefix = args.encoding.read("prefix", args.prefix.clone())?;
    let mut signals = if args.follow { Some(Signals::catch()?) } else { None };
    let client = match &mut signals {
        Some(signals) => context.client_unless(signals).await?,
        None => context.client().await?,
    };
    let after = match args.after {
        Some(after) => Revision::new(after),
        None => {
            let printing = snapshot(client, &args, &prefix);
            let printed = match &mut signals {
                Some(signals) => tokio::select! {
                    printed = printing => printed?,
                    signal = signals.next_end() => return Err(signal.ended("the dump is not complete")),
                },
                None => printing.await?,
            };
            let Some(revision) = printed else { return Ok(()) };
            revision
        }
    };
    match signals {
        Some(signals) => follow(client, &args, &prefix, after, signals).await,
        None => Ok(()),
    }
}

/// Prints what is there, at one revision, and returns the revision; `None` if nobody reads any more.
async fn snapshot(client: &Client, args: &DumpArgs, prefix: &[u8]) -> Result<Option<Revision>, Failure> {
    // Any member can be read then.
    let revision = restored_revision(client).await?;
    let mut records = pin!(client.scan(prefix).at_least(revision).at(revision).stream());
    let mut keys = 0_u64;
    while let Some(record) = records.next().await {
        let (key, record) = record?;
        if !print(&record_json(&key, &record, args.encoding))? {
            return Ok(None);
        }
        keys += 1;
    }
    let printed = print(&json!({ "event": "complete", "revision": revision.get(), "keys": keys }))?;
    Ok(printed.then_some(revision))
}

/// Prints each change after this revision, until the requested number has been printed. If no number was requested, it
/// goes on until a signal arrives, which is then no failure.
async fn follow(
    client: &Client,
    args: &DumpArgs,
    prefix: &[u8],
    after: Revision,
    mut signals: Signals,
) -> Result<(), Failure> {
    let mut events = client.watch(prefix).after(after).stream();
    let mut ticks = tokio::time::interval(INTERVAL);
    let (mut complete, mut seen) = (after, None);
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.next() => event,
            _ = ticks.tick() => {
                let reached = events.complete();
                let line = json!({ "event": "complete", "revision": reached.get() });
                if reached > complete && !print(&line)? {
                    break;
                }
                complete = complete.max(reached);
                continue;
            }
            signal = signals.next_end() => return ended(signal, args.limit, left),
        };
        let Some(event) = event else { break };
        let event = event.map_err(|error| failure(error, seen, args.after.map(|_| "--after")))?;
        seen = Some(event.revision);
        if !print(&event_json(&event, args.encoding))? {
            break;
        }
        left -= 1;
    }
    Ok(())
}

/// Prints a line, and returns whether anyone reads it.
fn print(value: &Value) -> Result<bool, Failure> {
    still_read(write_line(json_line(value).as_bytes()))
}
