//! Notices that the data directory was removed or replaced while the member runs. Everything that the member
//! acknowledges from then on would be lost when it stops.

use super::StopReason;
use super::shared::Shared;
use crate::storage::Storage;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often the names are checked. For at most this long, a member may acknowledge writes that are only in deleted
/// files.
const EVERY: Duration = Duration::from_secs(1);

/// Runs until the node stops. It holds the journal's storage weakly, and so neither keeps it open nor locked.
pub(super) async fn run(shared: Arc<Shared>, storage: Weak<dyn Storage>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(storage) = storage.upgrade() else { return };
        // Runs on a thread of the node, for which a drop waits only a limited time: the disk may never return.
        match shared.peers.ask(move || storage.check_names()).await {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::error!(%error, "the data directory was removed or replaced: this member stops");
                // Stops at once, without a handover: no disk here would have what the member acknowledged meanwhile.
                return shared.stop(StopReason::DirectoryChanged(Arc::new(error)));
            }
            // The node is stopping.
            None => return,
        }
    }
}
