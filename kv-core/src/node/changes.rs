//! Requests to change the member list: what is checked before the replica sees them.

use super::inbox::AdminCall;
use super::reply::Responder;
use super::shared::Shared;
use crate::client::Client;
use crate::config::Change;
use crate::ids::MemberId;
use crate::message::{Answer, ChangeCall, RefusalKind};
use std::sync::Arc;
use std::time::Duration;

/// How long the primary tries to reach a member at its new address.
const MEET_WITHIN: Duration = Duration::from_secs(2);

/// Passes a request on to the replica, if the addresses in it can be used.
pub(super) fn begin(shared: &Arc<Shared>, change: Box<ChangeCall>, reply: Responder) {
    let refused = |kind, reason| Answer::ChangeRefused { kind, reason };
    if let Change::Add { address, .. } | Change::Address { address, .. } = &change.change
        && let Err(error) = shared.transport.check_address(address)
    {
        return reply.send(refused(RefusalKind::Invalid, error.to_string()));
    }
    let Change::Address { id, address } = change.change.clone() else {
        return shared.inbox.admin(AdminCall::Change(change), reply);
    };
    let checked = shared.clone();
    shared.run_part("the check of an address", async move {
        match meet(&checked, id, &address).await {
            Ok(()) => checked.inbox.admin(AdminCall::Change(change), reply),
            Err(reason) => reply.send(refused(RefusalKind::NotReady, reason)),
        }
    });
}

/// Connects to the member at its new address. A wrong address would not be noticed before the next connection breaks,
/// and two wrong ones of three would be the end of the cluster.
async fn meet(shared: &Shared, id: MemberId, address: &str) -> Result<(), String> {
    let cluster = shared.members.now().cluster.name().to_owned();
    let client = Client::builder(cluster)
        .transport(shared.transport.clone())
        .member_address(id, address)
        .connect_timeout(MEET_WITHIN);
    match client.connect().await {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("start member {id} at its new address first: {error}")),
    }
}
