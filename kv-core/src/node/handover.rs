//! Passing the primary role to another member.

use super::HandoverError;
use super::shared::Shared;
use crate::config::Role;
use std::time::Duration;
use tokio::time::timeout;

/// How often the replica is asked again.
const AGAIN: Duration = Duration::from_millis(250);

/// Waits until another member serves as primary. Returns at once if this member is not the primary.
pub(super) async fn hand_over(shared: &Shared, within: Duration) -> Result<(), HandoverError> {
    let me = shared.me;
    let mut status = shared.status.watch();
    if shared.status.primary() != Some(me) {
        return Ok(());
    }
    if !shared.members.now().cluster.voters().any(|peer| peer.role == Role::Data && peer.id != me) {
        return Err(HandoverError::NoOther);
    }
    let handed = async {
        loop {
            if shared.status.primary() == Some(me) {
                shared.inbox.handover();
            }
            let other = status
                .wait_for(|status| status.and_then(|it| it.primary).is_some_and(|primary| primary != me));
            // An error means that the node, and so the primary, is gone.
            if timeout(AGAIN, other).await.is_ok() {
                return;
            }
        }
    };
    timeout(within, handed).await.map_err(|_| HandoverError::TimedOut)
}
