//! How a member with an empty directory learns which cluster it joins.

use super::error::JoinError;
use super::members::MemberList;
use crate::client::Client;
use crate::config::Configuration;
use crate::ids::{MemberId, View};
use crate::message::MembersAnswer;
use crate::wire::{self, FrameReader, FrameWriter, Hello, HelloReply};
use kv_transport::{Lane, Transport};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long a member may take to accept this one.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(2);

/// Asks the members at these addresses for the member list, in which this member must be a standby.
pub(super) async fn ask(
    cluster: &str,
    me: MemberId,
    addresses: &[String],
    transport: Arc<dyn Transport>,
) -> Result<MembersAnswer, JoinError> {
    let builder = Client::builder(cluster).transport(transport);
    let client = addresses.iter().fold(builder, |builder, address| builder.address(address)).connect();
    let client = client.await.map_err(JoinError::Connect)?;
    let list = client.newest_list().await;
    client.close().await;
    let list = list.map_err(JoinError::List)?;
    let can_go_on = View::of_number(list.configuration.epoch, list.ended.saturating_add(2)).is_some();
    if !list.configuration.is_sound() || !can_go_on {
        return Err(JoinError::Malformed);
    }
    match list.configuration.members.get(&me) {
        None if list.configuration.used.contains(me) => Err(JoinError::Removed(me)),
        None => Err(JoinError::NotListed(me)),
        Some(member) if !member.is_standby => Err(JoinError::HasVote(me)),
        Some(_) => Ok(list),
    }
}

/// Asks the other members whether they accept this one, before anything is written: with options that differ, it could
/// never take part. The first one that answers decides. If none does, that is seen later.
pub(super) async fn introduce(
    members: &MemberList,
    configuration: &Configuration,
    transport: &Arc<dyn Transport>,
) -> Result<(), JoinError> {
    let me = members.expectation.me;
    for (id, member) in configuration.members.iter().filter(|(id, _)| **id != me) {
        let hello = Hello::member(&members.expectation, *id, Lane::Control);
        let answer = async {
            let connection = transport.connect(&member.address, Lane::Control).await.ok()?;
            let mut writer = FrameWriter::new(connection.writer);
            writer.push(wire::encode_hello(&hello));
            writer.flush().await.ok()?;
            FrameReader::new(connection.reader, 0).read_hello_reply().await.ok()
        };
        match timeout(ACCEPTED_WITHIN, answer).await.ok().flatten() {
            Some(HelloReply::Refused { reason, temporary: false }) => {
                return Err(JoinError::Refused { id: *id, reason });
            }
            Some(HelloReply::Ok(_)) => return Ok(()),
            Some(HelloReply::Refused { .. }) | None => {}
        }
    }
    Ok(())
}
