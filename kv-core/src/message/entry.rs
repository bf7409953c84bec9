//! Log entries: a batch of requests under a header that chains to the entry before. The layout here is the one on disk
//! and on the wire, because the header's hash is taken over it.

use super::Request;
use crate::ids::{Anchor, ClusterId, Hash, Op, Revision, Timestamp, View};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// Bytes of an encoded [`EntryHeader`], without its own hash.
pub const HEADER_BYTES: usize = 16 + 8 + 8 + 16 + 8 + 8 + 4 + 4 + 16;

/// Bytes that each request takes in a body besides its own: its length.
pub const BODY_OVERHEAD: usize = 4;

/// The replicated header of an entry. Equal on every member, whenever and wherever the entry is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EntryHeader {
    /// Whose log.
    pub cluster: ClusterId,
    /// The view in which it was first prepared.
    pub view: View,
    /// Its place.
    pub op: Op,
    /// The hash of the entry before it; [`Hash::ZERO`] for op 1.
    pub parent: Hash,
    /// The revision of its first request.
    pub first_revision: Revision,
    /// When it was prepared, by the primary's stamp; never less than the entry before.
    pub timestamp: Timestamp,
    /// How many requests it holds: at least 1.
    pub request_count: u32,
    /// Bytes of the body.
    pub body_len: u32,
    /// The hash of the body.
    pub body_hash: Hash,
}

/// A log entry. [`Entry::check`] holds for every entry that a decoder or the journal hands out.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The header.
    pub header: EntryHeader,
    /// The requests, each encoded behind its length.
    pub body: Bytes,
}

/// Why bytes are not an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The body's length is not the header's.
    #[error("the body has another length than its header says")]
    Length,
    /// The body's hash is not the header's.
    #[error("the body does not match its hash")]
    BodyHash,
    /// The request lengths do not add up to the body, or their number is not the header's.
    #[error("the requests do not add up to the body")]
    Requests,
}

impl EntryHeader {
    /// The hash that names this entry and, by the chain, the whole log up to it.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// The op and the hash.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        Anchor::new(self.op, self.hash())
    }

    /// The revision after its last request.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        self.first_revision.advance(u64::from(self.request_count))
    }

    /// The fixed little-endian layout.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = BytesMut::with_capacity(HEADER_BYTES);
        out.put_u128_le(self.cluster.get());
        out.put_u64_le(self.view.get());
        out.put_u64_le(self.op.get());
        out.put_u128_le(self.parent.get());
        out.put_u64_le(self.first_revision.get());
        out.put_u64_le(self.timestamp.get());
        out.put_u32_le(self.request_count);
        out.put_u32_le(self.body_len);
        out.put_u128_le(self.body_hash.get());
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&out);
        fixed
    }

    /// Reads the layout of [`encode`](Self::encode). Says nothing about whether the values make sense.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        use bytes::Buf;
        let mut input = &bytes[..];
        Self {
            cluster: ClusterId::new(input.get_u128_le()),
            view: View::new(input.get_u64_le()),
            op: Op::new(input.get_u64_le()),
            parent: Hash::new(input.get_u128_le()),
            first_revision: Revision::new(input.get_u64_le()),
            timestamp: Timestamp::new(input.get_u64_le()),
            request_count: input.get_u32_le(),
            body_len: input.get_u32_le(),
            body_hash: Hash::new(input.get_u128_le()),
        }
    }
}

impl Entry {
    /// Whether the body is the one that the header describes, and splits into its requests.
    ///
    /// # Errors
    /// [`EntryError`] says which part does not match.
    pub fn check(&self) -> Result<(), EntryError> {
        if self.body.len() as u64 != u64::from(self.header.body_len) {
            return Err(EntryError::Length);
        }
        if Hash::of(&self.body) != self.header.body_hash {
            return Err(EntryError::BodyHash);
        }
        let mut requests = RequestIter { rest: self.body.clone() };
        let count = requests.by_ref().count() as u64;
        if !requests.rest.is_empty() || count != u64::from(self.header.request_count) || count == 0 {
            return Err(EntryError::Requests);
        }
        Ok(())
    }

    /// The encoded requests in order, without copying.
    #[must_use]
    pub fn requests(&self) -> RequestIter {
        RequestIter { rest: self.body.clone() }
    }
}

/// The encoded requests of a body; ends at the first length that does not fit.
#[derive(Clone, Debug)]
pub struct RequestIter {
    rest: Bytes,
}

impl Iterator for RequestIter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let length = self.rest.get(..BODY_OVERHEAD)?;
        let length = u32::from_le_bytes(length.try_into().ok()?) as usize;
        let end = BODY_OVERHEAD.checked_add(length)?;
        if self.rest.len() < end {
            return None;
        }
        let taken = self.rest.split_to(end);
        Some(taken.slice(BODY_OVERHEAD..))
    }
}

/// A body of these encoded requests (each made by [`Request::encode`]).
///
/// # Panics
/// If a request is 4 GiB or longer: limits forbid it long before.
#[must_use]
pub fn body_of<'a>(requests: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut body = BytesMut::new();
    for request in requests {
        body.put_u32_le(u32::try_from(request.len()).expect("requests are limited to a few MiB"));
        body.extend_from_slice(request);
    }
    body.freeze()
}

impl Request {
    /// The bytes that go into an entry's body.
    ///
    /// # Panics
    /// Never: a request always encodes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a request always encodes").into()
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// If the bytes are not a request.
    pub fn decode(bytes: &[u8]) -> Result<Self, super::RequestError> {
        match postcard::take_from_bytes(bytes) {
            Ok((request, [])) => Ok(request),
            _ => Err(super::RequestError::Malformed),
        }
    }
}
