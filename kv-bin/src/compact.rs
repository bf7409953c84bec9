//! `kv compact`: drops old history.

use crate::args::CompactArgs;
use crate::commands::print_either;
use crate::context::Context;
use crate::failure::Failure;
use kv_core::client::Revision;
use serde_json::json;

/// `kv compact`.
pub(crate) async fn compact(context: &Context, args: CompactArgs, json: bool) -> Result<(), Failure> {
    let client = context.client().await?;
    let mut compact = client.compact();
    if let Some(revision) = args.revision {
        let newest = client.get("\0").with_revision().await?.revision;
        // It would drop everything, and is more likely a mistake.
        if revision > newest.get() {
            return Err(Failure::usage(format!(
                "revision {revision} does not exist yet: the newest is {newest}; without --revision, all history is \
                 dropped"
            )));
        }
        compact = compact.before(Revision::new(revision));
    }
    let done = compact.await?;
    let (oldest, revision) = (done.oldest.get(), done.revision.get());
    let text = format!("oldest revision {oldest}, newest revision {revision}");
    print_either(json, &json!({ "oldest": oldest, "revision": revision }), &text)
}
