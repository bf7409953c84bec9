//! `kv touch`: replaces the time to live of a key.

use crate::args::TouchArgs;
use crate::commands::print_either;
use crate::context::Context;
use crate::failure::Failure;
use kv_core::client::Revision;
use serde_json::json;

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
