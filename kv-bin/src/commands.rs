//! The client commands: each runs one operation and prints its result.

use crate::cli::{DeleteArgs, PutArgs};
use crate::context::Context;
use crate::encoding::{Encoding, json_line};
use crate::failure::Failure;
use crate::members::{self, Seen};
use crate::output;
use kv_core::client::{LeaseId, Record, Revision, WrittenWithPrevious};
use serde_json::{Map, Value, json};
use std::io::{self, Write as _};
use std::path::Path;

/// `kv put`.
pub(crate) async fn put(context: &Context, args: PutArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let key = encoding.read("key", args.key)?;
    let value =
        if args.value == "-" { context.standard_input()? } else { encoding.read("value", args.value)? };
    let client = context.client().await?;
    let mut put = client.put(&key, value);
    if args.if_absent {
        put = put.if_absent();
    }
    if args.if_present {
        put = put.if_present();
    }
    if let Some(revision) = args.if_revision {
        put = put.if_revision(Revision::new(revision));
    }
    if let Some(ttl) = args.ttl {
        put = put.ttl(ttl.0);
    }
    if let Some(lease) = args.lease {
        put = put.lease(LeaseId::new(lease));
    }
    if args.previous {
        return print_replaced(&key, &put.previous().await?, encoding, json);
    }
    let written = put.await?;
    let (revision, time) = (written.revision.get(), written.timestamp.get());
    let object = json!({ "revision": revision, "timestamp_ms": time });
    print_either(json, &object, &format!("revision {revision}"))
}

/// `kv delete`.
pub(crate) async fn delete(context: &Context, args: DeleteArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let key = encoding.read("key", args.key)?;
    let client = context.client().await?;
    let delete = client.delete(&key);
    if args.previous {
        return print_replaced(&key, &delete.previous().await?, encoding, json);
    }
    let deleted = delete.await?;
    let (existed, revision) = (deleted.existed, deleted.revision.get());
    let text = if existed { format!("revision {revision}") } else { "the key did not exist".to_owned() };
    print_either(json, &json!({ "existed": existed, "revision": revision }), &text)
}

/// Prints the result of a write with `--previous`, and the previous value on a line of its own.
fn print_replaced(
    key: &[u8],
    done: &WrittenWithPrevious,
    encoding: Encoding,
    json: bool,
) -> Result<(), Failure> {
    let (revision, time) = (done.revision.get(), done.timestamp.get());
    if json {
        let previous = done.previous.as_ref().map(|record| record_json(key, record, encoding));
        return print_line(&json_line(
            &json!({ "revision": revision, "timestamp_ms": time, "previous": previous }),
        ));
    }
    print_line(&format!("revision {revision}"))?;
    done.previous.as_ref().map_or(Ok(()), |record| print_bytes(&encoding.shown_alone(&record.value)))
}

/// `kv status`.
pub(crate) async fn status(context: &Context, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let members = members::look(client).await;
    print_status(&members, json)
}

/// Prints the status of all members.
pub(crate) fn print_status(members: &[Seen], json: bool) -> Result<(), Failure> {
    let object = json!({ "members": members.iter().map(Seen::json).collect::<Vec<_>>() });
    print_either(json, &object, members::table(members).trim_end())
}

/// `kv members`.
pub(crate) async fn members(context: &Context, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let members = members::look(client).await;
    if json {
        return members::objects(&members).iter().try_for_each(|object| print_line(&json_line(object)));
    }
    print_line(members::lines(&members).trim_end())
}

pub(crate) fn print_line(line: &str) -> Result<(), Failure> {
    still_read(output::print(line)).map(drop)
}

/// Prints the object with `--json`, and the text without.
pub(crate) fn print_either(json: bool, object: &Value, text: &str) -> Result<(), Failure> {
    if json { print_line(&object.to_string()) } else { print_line(text) }
}

/// The same on standard error: what a command reports besides its result.
pub(crate) fn report_either(json: bool, object: &Value, text: &str) -> Result<(), Failure> {
    let line = if json { format!("{object}\n") } else { format!("{text}\n") };
    still_read(anstream::stderr().write_all(line.as_bytes())).map(drop)
}

/// Prints the name of a file that was written.
pub(crate) fn print_written(json: bool, file: &Path) -> Result<(), Failure> {
    let shown = file.display().to_string();
    print_either(json, &json!({ "event": "written", "file": shown }), &shown)
}

/// Prints bytes unchanged, and a line end.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    still_read(write_line(bytes)).map(drop)
}

pub(crate) fn write_line(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.write_all(b"\n")?;
    stdout.flush()
}

/// Returns whether anyone still reads the output. It is no failure if nobody does (`kv scan | head`).
pub(crate) fn still_read(written: io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

pub(crate) fn record_json(key: &[u8], record: &Record, encoding: Encoding) -> Value {
    let mut object = Map::new();
    encoding.put(&mut object, "key", key);
    encoding.put(&mut object, "value", &record.value);
    object.insert("created".to_owned(), record.created.get().into());
    object.insert("modified".to_owned(), record.modified.get().into());
    object.insert("version".to_owned(), record.version.into());
    if let Some(expires) = record.expires {
        object.insert("expires_ms".to_owned(), expires.get().into());
    }
    if let Some(lease) = record.lease {
        object.insert("lease".to_owned(), lease.get().into());
    }
    Value::Object(object)
}
