//! The commands that read one key or many.

use crate::cli::ConnectArgs;
use crate::commands::{print_bytes, print_line, read_failure, record_json, still_read, write_line};
use crate::config::DurationArg;
use crate::context::Context;
use crate::encoding::{Encoding, json_line};
use crate::failure::Failure;
use clap::Args;
use futures::StreamExt as _;
use kv_core::client::Revision;
use kv_core::config::MemberId;
use serde_json::{Map, Value};
use std::ffi::OsString;
use std::pin::pin;

/// The freshness of a read, and the member that answers it.
#[derive(Args, Debug)]
pub(crate) struct Freshness {
    /// Read from any member, without asking a quorum. The answer may be stale.
    #[arg(long, conflicts_with_all = ["at_least", "max_staleness"])]
    local: bool,
    /// Read from any member, as soon as it has this revision or a later one. Use the revision of your own write to read
    /// that write.
    #[arg(long, value_name = "REVISION", conflicts_with = "max_staleness")]
    at_least: Option<u64>,
    /// Read from any member whose state is at most this old (2s, 500ms). If no backup can prove that, the primary
    /// answers.
    #[arg(long, value_name = "TIME")]
    max_staleness: Option<DurationArg>,
    /// Ask only this member. Without another option, it must be the primary.
    #[arg(long, value_name = "ID")]
    member: Option<u8>,
    /// Read the state at this revision. The cluster keeps a limited number of past revisions.
    #[arg(long, value_name = "REVISION")]
    revision: Option<u64>,
}

/// Applies the options to a read. Reads of keys and of ranges have the same methods.
macro_rules! with_freshness {
    ($read:expr, $freshness:expr) => {{
        let (mut read, freshness) = ($read, $freshness);
        if freshness.local {
            read = read.local();
        }
        if let Some(revision) = freshness.at_least {
            read = read.at_least(Revision::new(revision));
        }
        if let Some(bound) = freshness.max_staleness {
            read = read.max_staleness(bound.0);
        }
        if let Some(member) = freshness.member {
            read = read.member(MemberId::new(member));
        }
        if let Some(revision) = freshness.revision {
            read = read.at(Revision::new(revision));
        }
        read
    }};
}

#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// The key.
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ScanArgs {
    /// Print only keys that begin with this prefix.
    #[arg(default_value = "")]
    pub(crate) prefix: OsString,
    /// Print at most this many keys.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// Print the keys in reverse order.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// Print the keys without their values.
    #[arg(long)]
    pub(crate) keys_only: bool,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// `kv get`.
pub(crate) async fn get(context: &Context, args: GetArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let key = encoding.read("key", args.key)?;
    let client = context.client().await?;
    let read = with_freshness!(client.get(&key), args.freshness).with_revision().await;
    let read = read.map_err(|error| read_failure(&error))?;
    let revision = read.revision.get();
    match read.found {
        Some(record) if json => {
            let mut line = record_json(&key, &record, encoding);
            line["revision"] = revision.into();
            print_line(&json_line(&line))
        }
        Some(record) => print_bytes(&encoding.shown_alone(&record.value)),
        None => {
            if json {
                let mut line = Map::new();
                encoding.put(&mut line, "key", &key);
                line.insert("value".to_owned(), Value::Null);
                line.insert("revision".to_owned(), revision.into());
                print_line(&json_line(&Value::Object(line)))?;
            }
            let key = encoding.quoted(&key);
            Err(Failure::failed(format!("the key {key} does not exist")))
        }
    }
}

/// `kv scan`.
pub(crate) async fn scan(context: &Context, args: ScanArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let prefix = encoding.read("prefix", args.prefix)?;
    let client = context.client().await?;
    let mut scan = with_freshness!(client.scan(prefix), args.freshness);
    if let Some(limit) = args.limit {
        scan = scan.limit(limit);
    }
    if args.reverse {
        scan = scan.reverse();
    }
    if args.keys_only {
        scan = scan.keys_only();
    }
    let mut records = pin!(scan.stream());
    while let Some(next) = records.next().await {
        let (key, record) = next.map_err(|error| read_failure(&error))?;
        let line = if json {
            let mut line = record_json(&key, &record, encoding);
            if let Some(object) = line.as_object_mut().filter(|_| args.keys_only) {
                object.retain(|name, _| !name.starts_with("value"));
            }
            json_line(&line).into_bytes()
        } else if args.keys_only {
            encoding.shown(&key)
        } else {
            [&encoding.shown(&key)[..], b"\t", &encoding.shown(&record.value)[..]].concat()
        };
        if !still_read(write_line(&line))? {
            break;
        }
    }
    Ok(())
}
