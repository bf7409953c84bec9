//! Notices that the data directory was removed or replaced under the running member: what it acknowledges from then on would be lost
//! when it stops.

use super::StopReason;
use super::shared::Shared;
use crate::storage::Storage;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often the names are looked at: so long a member may acknowledge what only files without a name hold.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until the node stops. The storage is the journal's: this does not keep it open, nor locked.
pub(super) async fn run(shared: Arc<Shared>, storage: Weak<dyn Storage>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(storage) = storage.upgrade() else { return };
        let checked = tokio::task::spawn_blocking(move || storage.check_names()).await;
        if let Ok(Err(error)) = checked {
            tracing::error!(%error, "the data directory is not the one that was opened: this member stops");
            return shared.retire(StopReason::DirectoryChanged(Arc::new(error)));
        }
    }
}
