//! `kv count`: the number of keys of a range.

use crate::args::CountArgs;
use crate::commands::print_either;
use crate::context::Context;
use crate::failure::Failure;
use crate::reads::{check_member, with_freshness};
use serde_json::json;

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
