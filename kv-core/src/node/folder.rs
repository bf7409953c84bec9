//! Notices that the data directory was removed or replaced under the running member: what it acknowledges from then on would be lost
//! when it stops.

use super::StopReason;
use super::pool::{For, Kind};
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
        let (give, take) = tokio::sync::oneshot::channel();
        // On a thread of the node's, for the end of which a drop waits only so long: the disk may not return.
        shared.peers.run(Kind::Read, For::NODE, move || {
            // The receiver is gone only if the node stops.
            let _ = give.send(storage.check_names());
        });
        match take.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "the data directory was removed or replaced: this member stops");
                // At once, without a handover: what it would acknowledge meanwhile is on no disk here.
                return shared.stop(StopReason::DirectoryChanged(Arc::new(error)));
            }
            // The node stops.
            Err(_) => return,
        }
    }
}
