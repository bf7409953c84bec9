//! `kv count`: the number of keys of a range.

use crate::cli::Freshness;
use crate::commands::print_either;
use crate::config::ConnectArgs;
use crate::context::Context;
use crate::encoding::Encoding;
use crate::failure::Failure;
use crate::reads::{check_member, with_freshness};
use clap::Args;
use serde_json::json;
use std::ffi::OsString;

#[derive(Args, Debug)]
pub(crate) struct CountArgs {
    /// Count only keys that begin with this prefix.
    #[arg(default_value = "", conflicts_with_all = ["start", "end"])]
    pub(crate) prefix: OsString,
    /// Count only this key and the keys after it.
    #[arg(long, value_name = "KEY")]
    pub(crate) start: Option<OsString>,
    /// Count only keys before this one.
    #[arg(long, value_name = "KEY")]
    pub(crate) end: Option<OsString>,
    #[command(flatten)]
    pub(crate) freshness: Freshness,
    #[command(flatten)]
    pub(crate) encoding: Encoding,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// `kv count`.
pub(crate) async fn count(context: &Context, args: CountArgs, json: bool) -> Result<(), Failure> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let read = |what, word| args.encoding.read(what, word);
    let start = args.start.map(|word| read("start", word)).transpose()?;
    let end = args.end.map(|word| read("end", word)).transpose()?;
    let prefix = read("prefix", args.prefix)?;
    let client = context.client().await?;
    check_member(client, &args.freshness).await?;
    let count = if start.is_some() || end.is_some() {
        client.count_range((start.map_or(Unbounded, Included), end.map_or(Unbounded, Excluded)))
    } else {
        client.count(prefix)
    };
    let counted = with_freshness!(count, args.freshness).with_revision().await?;
    let (count, revision) = (counted.found, counted.revision.get());
    print_either(json, &json!({ "count": count, "revision": revision }), &count.to_string())
}
