//! `kv watch`: what changes, as it changes.

use crate::cli::WatchArgs;
use crate::commands::{bytes, read_failure, record_json, still_read, write_line};
use crate::context::Context;
use crate::failure::Failure;
use crate::output;
use crate::signals::Signals;
use kv_core::error::WatchError;
use kv_core::ids::Revision;
use kv_core::message::{Event, EventKind};
use serde_json::{Map, Value};

/// Prints a line for each change, until it is told to stop or has printed as many as were asked for.
pub(crate) async fn watch(context: &Context, args: WatchArgs, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    let client = context.client_unless(&mut signals).await?;
    let mut watch = client.watch(bytes(args.prefix));
    if let Some(first) = args.from {
        watch = watch.after(Revision::new(first.saturating_sub(1)));
    }
    if args.previous {
        watch = watch.previous();
    }
    let mut events = watch.stream();
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.next() => event,
            _ = signals.next() => break,
        };
        let Some(event) = event else { break };
        let event = event.map_err(|error| failure(&error))?;
        let line = if json { event_json(&event).to_string().into_bytes() } else { text(&event) };
        if !still_read(write_line(&line))? {
            break;
        }
        left -= 1;
    }
    drop(events);
    Ok(())
}

fn failure(error: &WatchError) -> Failure {
    match error {
        WatchError::Compacted { .. } => Failure::usage(format!("{error}; leave --from out, or begin later")),
        WatchError::Read(error) => read_failure(error),
        _ => Failure::failed(error),
    }
}

fn kind(event: &Event) -> &'static str {
    match event.kind {
        EventKind::Put => "put",
        EventKind::Deleted => "deleted",
        EventKind::Expired => "expired",
        _ => "changed",
    }
}

/// Revision, what was done, key, and value if there is one.
fn text(event: &Event) -> Vec<u8> {
    let mut line = format!("{}\t{}\t", event.revision.get(), kind(event)).into_bytes();
    line.extend_from_slice(&event.key);
    if let Some(record) = &event.record {
        line.push(b'\t');
        line.extend_from_slice(&record.value);
    }
    line
}

fn event_json(event: &Event) -> Value {
    let mut object = Map::new();
    object.insert("revision".to_owned(), event.revision.get().into());
    object.insert("event".to_owned(), kind(event).into());
    output::put_bytes(&mut object, "key", &event.key);
    for (name, record) in [("record", &event.record), ("previous", &event.previous)] {
        if let Some(record) = record {
            let mut record = record_json(&event.key, record);
            if let Some(fields) = record.as_object_mut() {
                fields.retain(|name, _| !name.starts_with("key"));
            }
            object.insert(name.to_owned(), record);
        }
    }
    Value::Object(object)
}
