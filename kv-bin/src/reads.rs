//! The commands that read one key or many.

use crate::args::Freshness;
use crate::cli::{GetArgs, ScanArgs};
use crate::commands::{print_bytes, print_line, record_json, still_read, write_line};
use crate::context::Context;
use crate::encoding::json_line;
use crate::failure::Failure;
use futures::StreamExt as _;
use kv_core::Client;
use kv_core::config::{MemberId, Role};
use kv_core::node::MemberState;
use serde_json::{Map, Value};
use std::pin::pin;

/// Applies the options to a read. Reads of keys and of ranges have the same methods.
macro_rules! with_freshness {
    ($read:expr, $freshness:expr) => {{
        let (mut read, freshness) = ($read, $freshness);
        if freshness.local {
            read = read.local();
        }
        if let Some(revision) = freshness.at_least {
            read = read.at_least(kv_core::client::Revision::new(revision));
        }
        if let Some(bound) = freshness.max_staleness {
            read = read.max_staleness(bound.0);
        }
        if let Some(member) = freshness.member {
            read = read.member(kv_core::config::MemberId::new(member));
        }
        if let Some(revision) = freshness.revision {
            read = read.at(kv_core::client::Revision::new(revision));
        }
        read
    }};
}

pub(crate) use with_freshness;

/// Refuses a linearizable read from a backup, which would wait until the backup is the primary.
pub(crate) async fn check_member(client: &Client, freshness: &Freshness) -> Result<(), Failure> {
    let Freshness { local: false, at_least: None, max_staleness: None, member: Some(id), .. } = *freshness
    else {
        return Ok(());
    };
    match client.member_status(MemberId::new(id)).await {
        Ok(status) if status.state == MemberState::Backup && status.role == Role::Data => {
            Err(Failure::failed(format!(
                "member {id} is not the primary: omit --member, or add --local for a read that may be stale"
            )))
        }
        _ => Ok(()),
    }
}

/// `kv get`.
pub(crate) async fn get(context: &Context, args: GetArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let key = encoding.read("key", args.key)?;
    let client = context.client().await?;
    check_member(client, &args.freshness).await?;
    let read = with_freshness!(client.get(&key), args.freshness).with_revision().await?;
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
    check_member(client, &args.freshness).await?;
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
        let (key, record) = next?;
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
