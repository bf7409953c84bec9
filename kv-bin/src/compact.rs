//! `kv compact`: drops old history.

use crate::commands::print_either;
use crate::config::{ConnectArgs, whole};
use crate::context::Context;
use crate::failure::Failure;
use clap::Args;
use kv_core::client::Revision;
use serde_json::json;

#[derive(Args, Debug)]
pub(crate) struct CompactArgs {
    /// Drop only the history before this revision. If others write at the same time, a little more is dropped.
    #[arg(long, value_name = "REVISION", value_parser = whole(0..=u64::MAX))]
    pub(crate) revision: Option<u64>,
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
}

/// `kv compact`.
pub(crate) async fn compact(context: &Context, args: CompactArgs, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let mut compact = client.compact();
    if let Some(revision) = args.revision {
        compact = compact.before(Revision::new(revision));
    }
    let done = compact.await?;
    let (oldest, revision) = (done.oldest.get(), done.revision.get());
    let text = format!("oldest revision {oldest}, newest revision {revision}");
    print_either(json, &json!({ "oldest": oldest, "revision": revision }), &text)
}
