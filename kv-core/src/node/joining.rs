//! How a member with an empty directory learns which cluster it joins.

use super::error::JoinError;
use crate::client::Client;
use crate::config::{Cluster, MemberId, Role};
use crate::message::MembersAnswer;
use kv_transport::Transport;
use std::sync::Arc;

/// Asks the other members for the member list, in which this member must be a standby.
pub(super) async fn ask(
    cluster: &Cluster,
    me: MemberId,
    role: Role,
    transport: Arc<dyn Transport>,
) -> Result<MembersAnswer, JoinError> {
    let builder = Client::builder(cluster.name()).transport(transport);
    let client = cluster.peers(me).fold(builder, |builder, peer| builder.address(&peer.address)).connect();
    let client = client.await.map_err(JoinError::Connect)?;
    let list = client.newest_list().await;
    client.close().await;
    let list = list.map_err(JoinError::List)?;
    match list.configuration.members.get(&me) {
        None => Err(JoinError::NotListed(me)),
        Some(member) if !member.is_standby => Err(JoinError::HasVote(me)),
        Some(member) if member.role != role => Err(JoinError::OtherRole { me, role: member.role }),
        Some(_) => Ok(list),
    }
}
