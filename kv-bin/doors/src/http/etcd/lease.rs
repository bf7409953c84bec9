//! Leases.
//!
//! A lease of kv is the same thing as one of etcd: several keys belong to it, and they are removed together when it
//! ends. There are these differences: kv chooses the ids. A lease has up to 1,000 keys, and lasts up to 30 days. kv
//! does not list leases, nor the keys of one; the keys are found by reading all keys, up to a limit.

use super::super::door::Door;
use super::super::errors::{self, Code, Failure};
use super::super::respond::{self, Response};
use super::json::{Flag, Int, blobs, is_default, number, parse, parse_all, signed};
use super::messages::{Done, Header};
use super::range::again;
use super::write::lease_of;
use crate::memory::Share;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use hyper::StatusCode;
use kv_core::client::{LeaseId, Revision};
use kv_core::error::LeaseFailure;
use serde::{Deserialize, Serialize};
use std::pin::pin;
use std::time::Duration;

/// The longest time to live, in seconds.
const MAX_TTL: u64 = 30 * 24 * 3600;
/// How many renewals one request may have.
const MAX_RENEWALS: usize = 100;
/// How many keys are read to find those of a lease.
const MAX_KEYS_READ: usize = 100_000;
/// The time to live of a lease that has ended.
const ENDED: i64 = -1;

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct GrantRequest {
    #[serde(rename = "TTL")]
    ttl: Int,
    #[serde(rename = "ID")]
    id: Int,
}

#[derive(Serialize, Debug)]
struct Granted {
    header: Header,
    #[serde(rename = "ID", serialize_with = "number")]
    id: u64,
    #[serde(rename = "TTL", serialize_with = "number")]
    ttl: u64,
}

#[derive(Deserialize, Debug, Default)]
#[serde(default)]
struct LeaseRequest {
    #[serde(rename = "ID")]
    id: Int,
    keys: Flag,
}

#[derive(Serialize, Debug)]
struct Kept {
    header: Header,
    #[serde(rename = "ID", serialize_with = "signed")]
    id: i64,
    /// Left out if the lease has ended.
    #[serde(rename = "TTL", serialize_with = "number", skip_serializing_if = "is_default")]
    ttl: u64,
}

#[derive(Serialize, Debug)]
struct TimeToLive {
    header: Header,
    #[serde(rename = "ID", serialize_with = "signed")]
    id: i64,
    #[serde(rename = "TTL", serialize_with = "signed")]
    ttl: i64,
    #[serde(rename = "grantedTTL", serialize_with = "number", skip_serializing_if = "is_default")]
    granted: u64,
    #[serde(serialize_with = "blobs", skip_serializing_if = "Vec::is_empty")]
    keys: Vec<Bytes>,
}

pub(super) async fn grant(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: GrantRequest = parse(body)?;
    if request.id.0 != 0 {
        return Err(Failure::not_offered("kv chooses the ids of leases: grant a lease with the ID 0"));
    }
    let ttl = request.ttl.positive().filter(|ttl| *ttl <= MAX_TTL);
    let Some(ttl) = ttl else {
        let message = format!("the time to live is {} s: 1 to {MAX_TTL} s are allowed", request.ttl.0);
        return Err(Failure::new(Code::OutOfRange, message));
    };
    let lease = door.client.lease(Duration::from_secs(ttl)).detached().await?.id();
    door.leases.remember(lease, ttl * 1000);
    respond_ok(&Granted { header: door.header(None), id: lease.get(), ttl })
}

pub(super) async fn revoke(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let request: LeaseRequest = parse(body)?;
    let lease = lease_of(request.id)?.ok_or(LeaseFailure::Unknown)?;
    door.client.lease_by_id(lease).revoke().await?;
    respond_ok(&Done { header: door.header(None) })
}

/// The answer to each renewal of the body is a line of its own.
pub(super) async fn keep_alive(door: &Door, body: &[u8]) -> Result<Response, Failure> {
    let requests: Vec<LeaseRequest> = parse_all(body, MAX_RENEWALS)?;
    if requests.is_empty() {
        return Err(Failure::invalid("the body names no lease, as in {\"ID\": 7}"));
    }
    let mut lines = Vec::new();
    for request in requests {
        let ttl_ms = match lease_of(request.id) {
            Ok(Some(lease)) => renew(door, lease).await?,
            _ => None,
        };
        let kept =
            Kept { header: door.header(None), id: request.id.0, ttl: ttl_ms.map_or(0, |ms| ms / 1000) };
        lines.extend_from_slice(&result_line(&kept));
    }
    let lines = stream::iter([Bytes::from(lines)]);
    Ok(respond::parts(lines.boxed()))
}

/// Renews a lease, and returns its time to live in milliseconds; `None` if it has ended.
async fn renew(door: &Door, lease: LeaseId) -> Result<Option<u64>, Failure> {
    let handle = door.client.lease_by_id(lease);
    let known = match door.leases.ttl_ms(lease) {
        Some(ttl_ms) => Some(ttl_ms),
        None => handle.info().await?.map(|info| info.ttl_ms),
    };
    let Some(ttl_ms) = known else { return Ok(None) };
    match handle.keep_alive().await {
        Ok(()) => {
            door.leases.remember(lease, ttl_ms);
            Ok(Some(ttl_ms))
        }
        Err(error) if error.is_lease_ended() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn time_to_live(door: &Door, body: &[u8], mut share: Share) -> Result<Response, Failure> {
    let request: LeaseRequest = parse(body)?;
    let ended = |header| TimeToLive { header, id: request.id.0, ttl: ENDED, granted: 0, keys: Vec::new() };
    let Ok(Some(lease)) = lease_of(request.id) else { return respond_ok(&ended(door.header(None))) };
    let info = door.client.lease_by_id(lease).info().await?;
    // This changes nothing, and reports the time of the cluster.
    let now = door.client.raise_revision(Revision::ZERO).await?;
    let header = door.header(Some(now.revision));
    let Some(info) = info else { return respond_ok(&ended(header)) };
    let left_ms = info.deadline.get().saturating_sub(now.timestamp.get()).min(info.ttl_ms);
    let keys =
        if request.keys.0 && info.keys > 0 { keys_of(door, lease, &mut share).await? } else { Vec::new() };
    let response = TimeToLive {
        header,
        id: request.id.0,
        ttl: i64::try_from(left_ms / 1000).unwrap_or(i64::MAX),
        granted: info.ttl_ms / 1000,
        keys,
    };
    Ok(respond::json_of(share, &response))
}

/// The keys of a lease, which are found by reading all keys.
async fn keys_of(door: &Door, lease: LeaseId, share: &mut Share) -> Result<Vec<Bytes>, Failure> {
    let _permit = door.expensive_read().await;
    let others = share.bytes();
    let mut attempt = 0;
    loop {
        match find_keys_of(door, lease, share).await {
            Err(failure) if failure == errors::compacted() => {
                share.set(others);
                again(&mut attempt).await?;
            }
            found => return found,
        }
    }
}

async fn find_keys_of(door: &Door, lease: LeaseId, share: &mut Share) -> Result<Vec<Bytes>, Failure> {
    let mut all = pin!(door.client.scan("").keys_only().stream().enumerate());
    let mut keys = Vec::new();
    while let Some((index, record)) = all.next().await {
        if index == MAX_KEYS_READ {
            let message =
                format!("the store has more than {MAX_KEYS_READ} keys, too many to find those of a lease");
            return Err(Failure::new(Code::ResourceExhausted, message));
        }
        let (key, record) = record?;
        if record.lease == Some(lease) {
            if !share.add(3 * (key.len() + 64)) {
                return Err(Failure::no_memory());
            }
            keys.push(key);
        }
    }
    Ok(keys)
}

fn respond_ok(value: &impl Serialize) -> Result<Response, Failure> {
    Ok(respond::json(StatusCode::OK, value))
}

/// One answer of a stream.
pub(super) fn result_line(value: &impl Serialize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'a, T> {
        result: &'a T,
    }
    let mut line = respond::encode(&Line { result: value }).to_vec();
    line.push(b'\n');
    line
}
