//! `kv touch`: replaces the time to live of a key.

use crate::commands::print_either;
use crate::config::{ConnectArgs, DurationArg, whole};
use crate::context::Context;
use crate::encoding::Encoding;
use crate::failure::Failure;
use clap::Args;
use kv_core::client::Revision;
use serde_json::json;
use std::ffi::OsString;

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("life").required(true))]
pub(crate) struct TouchArgs {
    /// The key.
    pub(crate) key: OsString,
    /// Remove the key this long after now, such as 10s.
    #[arg(long, value_name = "TIME", group = "life")]
    pub(crate) ttl: Option<DurationArg>,
    /// Remove the time to live, so that the key does not expire.
    #[arg(long, group = "life")]
    pub(crate) no_ttl: bool,
    /// Change the key only if it was last changed at this revision.
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) if_revision: Option<u64>,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// `kv touch`.
pub(crate) async fn touch(context: &Context, args: TouchArgs, json: bool) -> Result<(), Failure> {
    let key = args.encoding.read("key", args.key)?;
    let client = context.client().await?;
    let mut touch = match args.ttl {
        Some(ttl) => client.touch(&key, ttl.0),
        None => client.persist(&key),
    };
    if let Some(revision) = args.if_revision {
        touch = touch.if_revision(Revision::new(revision));
    }
    let done = touch.await?;
    let (existed, revision, time) = (done.existed, done.revision.get(), done.timestamp.get());
    let object = json!({ "existed": existed, "revision": revision, "timestamp_ms": time });
    if existed {
        return print_either(json, &object, &format!("revision {revision}"));
    }
    if json {
        print_either(json, &object, "")?;
    }
    Err(Failure::failed(format!("the key {} does not exist", args.encoding.quoted(&key))))
}
