//! `kv watch`: prints changes as they happen.

use crate::cli::WatchArgs;
use crate::commands::{record_json, still_read, write_line};
use crate::context::Context;
use crate::encoding::{Encoding, json_line};
use crate::failure::Failure;
use crate::signals::{Caught, Signals};
use kv_core::client::{Event, Revision};
use kv_core::error::WatchError;
use serde_json::{Map, Value};

/// Prints a line for each change, until the requested number has been printed. If no number was requested, it goes on
/// until a signal arrives, which is then no failure.
pub(crate) async fn watch(context: &Context, args: WatchArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let prefix = encoding.read("prefix", args.prefix)?;
    let mut signals = Signals::catch()?;
    let client = context.client_unless(&mut signals).await?;
    let mut watch = client.watch(prefix);
    if let Some(first) = args.from {
        watch = watch.after(Revision::new(first.saturating_sub(1)));
    }
    if args.previous {
        watch = watch.previous();
    }
    let mut events = watch.stream();
    let mut seen = None;
    let mut left = args.limit.unwrap_or(usize::MAX);
    while left > 0 {
        let event = tokio::select! {
            event = events.next() => event,
            signal = signals.next() => return ended(signal, args.limit, left),
        };
        let Some(event) = event else { break };
        let event = event.map_err(|error| failure(error, seen, args.from.map(|_| "--from")))?;
        seen = Some(event.revision);
        let line =
            if json { json_line(&event_json(&event, encoding)).into_bytes() } else { text(&event, encoding) };
        if !still_read(write_line(&line))? {
            break;
        }
        left -= 1;
    }
    drop(events);
    Ok(())
}

/// A signal ends a watch. That is a failure only if a number of changes was requested, of which some are left.
pub(crate) fn ended(signal: Caught, limit: Option<usize>, left: usize) -> Result<(), Failure> {
    let Some(limit) = limit else { return Ok(()) };
    Err(signal.ended(format!("{signal} after {} of {limit} changes", limit - left)))
}

/// Asking for history that is no longer kept is wrong usage. If a running watch fell behind, it is a failure. `asked`:
/// the option that names the first revision, if it was given.
pub(crate) fn failure(error: WatchError, seen: Option<Revision>, asked: Option<&str>) -> Failure {
    match error {
        WatchError::Compacted { .. } => match (seen, asked) {
            (None, Some(option)) => {
                Failure::usage(format!("{error}; omit {option} or choose a later revision"))
            }
            (None, None) => Failure::failed(format!("{error}; the watch fell behind: start it again")),
            (Some(seen), _) => Failure::failed(format!(
                "{error}; the watch fell behind after revision {seen}: read the keys again, and watch from there"
            )),
        },
        WatchError::Read(error) => error.into(),
        WatchError::Malformed(error) => Failure::usage(error),
        _ => Failure::failed(error),
    }
}

/// The revision, the kind of change, the key, and the value if there is one.
fn text(event: &Event, encoding: Encoding) -> Vec<u8> {
    let mut line = format!("{}\t{}\t", event.revision.get(), event.kind).into_bytes();
    line.extend_from_slice(&encoding.shown(&event.key));
    if let Some(record) = &event.record {
        line.push(b'\t');
        line.extend_from_slice(&encoding.shown(&record.value));
    }
    line
}

pub(crate) fn event_json(event: &Event, encoding: Encoding) -> Value {
    let mut object = Map::new();
    object.insert("revision".to_owned(), event.revision.get().into());
    object.insert("event".to_owned(), event.kind.to_string().into());
    encoding.put(&mut object, "key", &event.key);
    for (name, record) in [("record", &event.record), ("previous", &event.previous)] {
        if let Some(record) = record {
            let mut record = record_json(&event.key, record, encoding);
            if let Some(fields) = record.as_object_mut() {
                fields.retain(|name, _| !name.starts_with("key"));
            }
            object.insert(name.to_owned(), record);
        }
    }
    Value::Object(object)
}
