//! Observes the cluster from outside, like an operator: polls its status until it is as expected.

use super::members::{CLUSTER, Members};
use crate::failure::Failure;
use crate::members::newest_primary;
use bytes::Bytes;
use kv_core::Client;
use kv_core::client::Record;
use kv_core::config::MemberId;
use kv_core::node::{MemberState, MemberStatus};
use kv_core::transport::Transport;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the expected status.
const LIMIT: Duration = Duration::from_secs(20);
/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(10);

/// Clients that know the addresses of all members.
pub(crate) async fn connect(
    members: &Members,
    transport: &Arc<dyn Transport>,
    seed: u64,
    count: usize,
) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::new();
    for number in 0..count as u64 {
        let builder =
            Client::builder(CLUSTER).transport(transport.clone()).name("demo").connect_timeout(LIMIT);
        let builder =
            members.addresses().into_iter().fold(builder, |builder, address| builder.address(address));
        let client = builder.seed(seed + number).connect().await;
        clients.push(client.map_err(|error| Failure::failed(format!("a client cannot connect: {error}")))?);
    }
    Ok(clients)
}

/// The status of the members that answer.
async fn poll(client: &Client) -> Vec<MemberStatus> {
    client.cluster_status().await.into_iter().filter_map(|report| report.status.ok()).collect()
}

/// Polls the status of the members until `check` returns something, and returns that.
async fn wait_for<T>(
    client: &Client,
    what: &str,
    check: impl Fn(&[MemberStatus]) -> Option<T>,
) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        let seen = poll(client).await;
        if let Some(found) = check(&seen) {
            return Ok(found);
        }
        if start.elapsed() > LIMIT {
            let states: Vec<_> =
                seen.iter().map(|status| format!("{}: {}", status.id, status.state)).collect();
            return Err(Failure::failed(format!(
                "{what} within {LIMIT:?}; seen last: {}",
                states.join(", ")
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Waits until one member serves as primary and all others follow it. Returns the primary.
pub(crate) async fn formed(client: &Client, count: usize) -> Result<MemberStatus, Failure> {
    wait_for(client, "the cluster did not form", |seen| {
        let primary = newest_primary(seen)?;
        let settled = seen.iter().all(|status| status.primary == Some(primary.id));
        (seen.len() == count && settled).then(|| primary.clone())
    })
    .await
}

/// Waits until a member serves as primary.
pub(crate) async fn primary(client: &Client) -> Result<MemberStatus, Failure> {
    wait_for(client, "no primary is seen", |seen| newest_primary(seen).cloned()).await
}

/// Waits until another member than `old` serves as primary.
pub(crate) async fn promoted(client: &Client, old: MemberId) -> Result<MemberStatus, Failure> {
    wait_for(client, "no backup was promoted", |seen| {
        newest_primary(seen).filter(|status| status.id != old).cloned()
    })
    .await
}

/// Waits until `member` follows the primary and has everything that the primary had when this began. Returns its
/// status.
pub(crate) async fn level(client: &Client, member: MemberId) -> Result<MemberStatus, Failure> {
    let goal = primary(client).await?.commit;
    wait_for(client, "the member that returned did not catch up", |seen| {
        let status = seen.iter().find(|status| status.id == member)?;
        let settled = matches!(status.state, MemberState::Backup | MemberState::Primary);
        (settled && status.applied >= goal).then(|| status.clone())
    })
    .await
}

/// Reads the whole store, linearizably.
pub(crate) async fn read_back(client: &Client) -> Result<BTreeMap<Bytes, Record>, Failure> {
    let records =
        client.scan("").await.map_err(|error| Failure::failed(format!("cannot read back: {error}")))?;
    Ok(records.into_iter().collect())
}
