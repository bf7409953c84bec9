//! Log entries: a batch of requests under a header that contains the hash of the entry before. The layout here is that
//! on disk and on the wire, because the hash covers the encoded header.

use super::{Command, NextEpoch, Operation, Request};
use crate::config::Configuration;
use crate::ids::{Anchor, ClusterId, Epoch, Hash, Op, RequestNumber, Revision, SessionId, Timestamp, View};
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

/// The length of an encoded [`EntryHeader`] in bytes, without its own hash.
pub const HEADER_BYTES: usize = 16 + 8 + 8 + 16 + 8 + 8 + 4 + 8 + 4 + 16;

/// The overhead of each request in a body, in bytes: its length.
pub const BODY_OVERHEAD: usize = 4;

/// The bit of [`EntryHeader::request_count`] that marks a stop. No entry has so many requests.
const STOP: u32 = 1 << 31;

/// The replicated header of an entry. It is the same on every member, whenever and wherever the entry is stored.
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
    /// The revision of its first request that takes one; if none does, the revision that the next request takes in a
    /// later entry.
    pub first_revision: Revision,
    /// The stamp of the primary when it was prepared; never less than that of the entry before.
    pub timestamp: Timestamp,
    /// The number of requests: at least 1. In a stop, the last entry of its epoch, the greatest bit is set too.
    pub request_count: u32,
    /// How many revisions they take ([`Request::revisions`]).
    pub revision_count: u64,
    /// Bytes of the body.
    pub body_len: u32,
    pub body_hash: Hash,
}

/// A log entry. [`Entry::check`] holds for every entry that a decoder or the journal returns.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub header: EntryHeader,
    /// The requests, each encoded after its length.
    pub body: Bytes,
}

/// Why bytes are not a valid entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EntryError {
    /// The length of the body differs from the header.
    #[error("the length of the body differs from its header")]
    Length,
    /// The hash of the body differs from the header.
    #[error("the body does not match its hash")]
    BodyHash,
    /// The lengths of the requests do not add up to the body, or their number differs from the header.
    #[error("the requests do not add up to the body")]
    Requests,
    /// An entry that is no stop changes the member list, or a stop does not, or it ends another epoch.
    #[error("an entry is the last one of its epoch if, and only if, it changes the member list")]
    Stop,
    /// The number of revisions that the requests take differs from the header.
    #[error("the header counts {counted} revisions, and the requests take {found}")]
    Revisions {
        /// The number in the header.
        counted: u64,
        /// The number in the body.
        found: u64,
    },
}

impl EntryHeader {
    /// The hash that identifies this entry and, by the chain, the whole log up to it.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// The op and the hash.
    #[must_use]
    pub fn anchor(&self) -> Anchor {
        Anchor::new(self.op, self.hash())
    }

    /// The revision after those that its requests take; [`first_revision`](Self::first_revision) if none takes one.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        self.first_revision.advance(self.revision_count)
    }

    /// What [`request_count`](Self::request_count) is for so many requests.
    ///
    /// # Panics
    /// If they are 2^31 or more: their bytes are limited to a few MiB.
    #[must_use]
    pub fn count_of(requests: usize, is_stop: bool) -> u32 {
        let count = u32::try_from(requests).ok().filter(|count| count & STOP == 0);
        count.expect("a batch is bounded in bytes") | if is_stop { STOP } else { 0 }
    }

    /// The number of its requests.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.request_count & !STOP
    }

    /// Whether this is the header of a stop: the entry after it belongs to the next epoch (rule M1).
    #[must_use]
    pub const fn is_stop(&self) -> bool {
        self.request_count & STOP != 0
    }

    /// The epoch of the entry after it (rule M1).
    #[must_use]
    pub const fn next_epoch(&self) -> Epoch {
        let epoch = self.view.epoch();
        if self.is_stop() { epoch.next() } else { epoch }
    }

    /// Whether a request among its requests surely skips revisions: they take more than one each.
    #[must_use]
    pub fn skips_revisions(&self) -> bool {
        self.revision_count > u64::from(self.requests())
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
        out.put_u64_le(self.revision_count);
        out.put_u32_le(self.body_len);
        out.put_u128_le(self.body_hash.get());
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&out);
        fixed
    }

    /// Decodes the layout of [`encode`](Self::encode). Does not check whether the values make sense.
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
            revision_count: input.get_u64_le(),
            body_len: input.get_u32_le(),
            body_hash: Hash::new(input.get_u128_le()),
        }
    }
}

impl Entry {
    /// Checks that the body matches the header, consists of as many requests and takes as many revisions as the header
    /// states. If it is a stop, it consists of one request, which ends this epoch, and otherwise of none of these (rule
    /// M1).
    ///
    /// # Errors
    /// [`EntryError`] names the part that does not match.
    pub fn check(&self) -> Result<(), EntryError> {
        if self.body.len() as u64 != u64::from(self.header.body_len) {
            return Err(EntryError::Length);
        }
        if Hash::of(&self.body) != self.header.body_hash {
            return Err(EntryError::BodyHash);
        }
        let mut requests = RequestIter { rest: self.body.clone() };
        let (mut count, mut changes) = (0, 0);
        let taken = requests.by_ref().inspect(|request| {
            count += 1;
            changes += u32::from(Request::changes_members(request));
        });
        let found = sum_of_revisions(taken, self.header.first_revision.previous());
        if !requests.rest.is_empty() || count != self.header.requests() || count == 0 {
            return Err(EntryError::Requests);
        }
        let is_stop = count == 1 && changes == 1 && self.next_configuration().is_some();
        if self.header.is_stop() != is_stop || changes != u32::from(is_stop) {
            return Err(EntryError::Stop);
        }
        let counted = self.header.revision_count;
        if counted == found { Ok(()) } else { Err(EntryError::Revisions { counted, found }) }
    }

    /// The next epoch, if this entry is a stop. Its configuration names this entry.
    #[must_use]
    pub fn next_epoch(&self) -> Option<(NextEpoch, Configuration)> {
        let first = self.requests().next().filter(|request| Request::changes_members(request))?;
        let Operation::Reconfigure(next) = Request::decode(&first).ok()?.operation else { return None };
        let configuration = Configuration { stop: self.header.anchor(), ..next.configuration.clone() };
        let follows = configuration.epoch == self.header.view.epoch().next() && configuration.is_sound();
        follows.then_some((*next, configuration))
    }

    /// The configuration of the next epoch, if this entry is a stop.
    #[must_use]
    pub fn next_configuration(&self) -> Option<Box<Configuration>> {
        self.next_epoch().map(|(_, configuration)| Box::new(configuration))
    }

    /// The encoded requests in order, without copying.
    #[must_use]
    pub fn requests(&self) -> RequestIter {
        RequestIter { rest: self.body.clone() }
    }
}

/// The encoded requests of a body. Ends at the first length that does not fit.
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

/// Builds a body of these encoded requests (each made by [`Request::encode`]).
///
/// # Panics
/// If a request is 4 GiB or longer, which the limits forbid.
#[must_use]
pub fn body_of<'a>(requests: impl IntoIterator<Item = &'a Bytes>) -> Bytes {
    let mut body = BytesMut::new();
    for request in requests {
        body.put_u32_le(u32::try_from(request.len()).expect("requests are limited to a few MiB"));
        body.extend_from_slice(request);
    }
    body.freeze()
}

/// How many revisions these encoded requests take, in an entry with this
/// [`first_revision`](EntryHeader::first_revision).
#[must_use]
pub fn revisions_of<'a>(requests: impl IntoIterator<Item = &'a Bytes>, first: Revision) -> u64 {
    sum_of_revisions(requests, first.previous())
}

fn sum_of_revisions(requests: impl IntoIterator<Item = impl AsRef<[u8]>>, last: Revision) -> u64 {
    requests.into_iter().fold(0, |sum: u64, request| {
        // The header of an entry may contain any number.
        let last = Revision::new(last.get().saturating_add(sum));
        sum.saturating_add(Request::revisions(request.as_ref(), last))
    })
}

/// The beginning of an encoded [`Request`], as far as it decides how many revisions the request takes. The variants are
/// those of [`Operation`](super::Operation) and of its content, in the same order, without what follows.
#[derive(Deserialize)]
struct RequestPrefix {
    _session: SessionId,
    _number: RequestNumber,
    _acked_through: RequestNumber,
    operation: OperationKind,
}

#[derive(Deserialize)]
enum OperationKind {
    OpenSession,
    CloseSession,
    Command(CommandKind),
    /// With the length of its list.
    Expire(u64),
    Reconfigure,
}

#[derive(Deserialize)]
enum CommandKind {
    Put,
    Delete,
    Transaction,
    DeleteRange,
    Lease(LeaseKind),
    Touch,
    /// With the last revision that it takes.
    SkipRevisions(Revision),
}

#[derive(Deserialize)]
enum LeaseKind {
    Grant,
    KeepAlive,
    Revoke,
    Look,
}

impl OperationKind {
    fn revisions(&self, last: Revision) -> u64 {
        match self {
            Self::OpenSession | Self::CloseSession | Self::Reconfigure => 0,
            Self::Expire(names) => u64::from(*names > 0),
            Self::Command(command) => match command {
                CommandKind::Put
                | CommandKind::Delete
                | CommandKind::Transaction
                | CommandKind::DeleteRange
                | CommandKind::Lease(LeaseKind::Revoke)
                | CommandKind::Touch => 1,
                CommandKind::Lease(LeaseKind::Grant | LeaseKind::KeepAlive | LeaseKind::Look) => 0,
                // It is refused when it is applied.
                CommandKind::SkipRevisions(to) if *to > Command::MAX_SKIP_TO => 0,
                CommandKind::SkipRevisions(to) => to.distance_from(last),
            },
        }
    }
}

impl Request {
    /// Returns how many revisions a request with these bytes takes in the log (rule N8 of `PROTOCOL.md`): one if it can
    /// change keys, none if it cannot, and all up to the one that it names if it skips revisions. The bytes and the
    /// last revision before decide, not the result, so the primary, the journal and the state agree before it is
    /// applied. Bytes that do not begin like a request take none.
    #[must_use]
    pub fn revisions(encoded: &[u8], last: Revision) -> u64 {
        postcard::take_from_bytes::<RequestPrefix>(encoded)
            .map_or(0, |(request, _)| request.operation.revisions(last))
    }

    /// Whether a request with these bytes would change the member list.
    #[must_use]
    pub fn changes_members(encoded: &[u8]) -> bool {
        let begins = postcard::take_from_bytes::<RequestPrefix>(encoded);
        begins.is_ok_and(|(request, _)| matches!(request.operation, OperationKind::Reconfigure))
            && Self::decode(encoded).is_ok()
    }

    /// Encodes the request for the body of an entry.
    ///
    /// # Panics
    /// Never: a request always encodes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        postcard::to_stdvec(self).expect("a request always encodes").into()
    }

    /// Decodes what [`encode`](Self::encode) returned.
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

#[cfg(test)]
mod tests {
    use super::super::{Command, Expiry, LeaseCommand, Lifetime, Operation, TransactionRequest};
    use super::*;
    use crate::ids::LeaseId;

    /// The last revision before.
    const LAST: u64 = 6;

    fn encoded(operation: Operation) -> Bytes {
        Request { operation, ..Request::expiry(Vec::new()) }.encode()
    }

    /// Every operation, and how many revisions it takes.
    fn all() -> Vec<(Operation, u64)> {
        let (key, value, lease) = (Bytes::from_static(b"k"), Bytes::new(), LeaseId::new(1 << 40));
        let put = Command::Put { key: key.clone(), value, condition: None, life: Lifetime::FOREVER };
        let range = Command::DeleteRange { from: key.clone(), to: None, limit: 1 };
        let skip = |to| Command::SkipRevisions { to: Revision::new(to) };
        let max = Command::MAX_SKIP_TO.get();
        let commands = [
            (skip(0), 0),
            (skip(LAST), 0),
            (skip(LAST + 300), 300),
            (skip(max), max - LAST),
            (skip(max + 1), 0),
            (skip((1 << 62) - 1), 0),
            (put, 1),
            (Command::Delete { key: key.clone(), condition: None }, 1),
            (Command::Touch { key, ttl_ms: Some(1), condition: None }, 1),
            (Command::Transaction(TransactionRequest::default()), 1),
            (range, 1),
            (Command::Lease(LeaseCommand::Grant { ttl_ms: 100 }), 0),
            (Command::Lease(LeaseCommand::KeepAlive { lease }), 0),
            (Command::Lease(LeaseCommand::Revoke { lease }), 1),
            (Command::Lease(LeaseCommand::Info { lease }), 0),
        ];
        let others = [
            (Operation::OpenSession { nonce: u128::MAX }, 0),
            (Operation::CloseSession, 0),
            (Operation::Expire(Vec::new()), 0),
            (Operation::Expire(vec![Expiry::Lease { lease }]), 1),
            (Operation::Expire(vec![Expiry::Lease { lease }; 4000]), 1),
        ];
        commands.into_iter().map(|(it, takes)| (Operation::Command(it), takes)).chain(others).collect()
    }

    fn entry(requests: &[Bytes], revision_count: u64) -> Entry {
        let body = body_of(requests);
        let header = EntryHeader {
            cluster: ClusterId::of_name("test"),
            view: View::ZERO,
            op: Op::new(1),
            parent: Hash::ZERO,
            first_revision: Revision::new(LAST + 1),
            timestamp: Timestamp::ZERO,
            request_count: u32::try_from(requests.len()).unwrap(),
            revision_count,
            body_len: u32::try_from(body.len()).unwrap(),
            body_hash: Hash::of(&body),
        };
        Entry { header, body }
    }

    #[test]
    fn n8_only_requests_that_can_change_keys_or_skip_revisions_take_some() {
        for (operation, takes) in all() {
            let request = encoded(operation.clone());
            assert_eq!(Request::revisions(&request, Revision::new(LAST)), takes, "{operation:?}");
            let (session, far) = (SessionId::new((1 << 62) - 1), RequestNumber::new((1 << 62) - 1));
            let far = Request { session, number: far, acked_through: far, operation };
            assert_eq!(Request::revisions(&far.encode(), Revision::new(LAST)), takes, "{far:?}");
        }
        for bytes in [&b""[..], &[0], &[0, 0, 0], &[0, 0, 0, 2], &[0, 0, 0, 3], &[0, 0, 0, 9], &[0xff; 40]] {
            assert_eq!(Request::revisions(bytes, Revision::new(LAST)), 0, "{bytes:?}");
        }
    }

    #[test]
    fn n8_a_header_that_counts_other_revisions_than_its_requests_take_is_refused() {
        let requests: Vec<Bytes> = all().into_iter().map(|(operation, _)| encoded(operation)).collect();
        let found = revisions_of(&requests, Revision::new(LAST + 1));
        // The second skip in the list goes on where the first one has ended, and the others take one each.
        assert_eq!(found, Command::MAX_SKIP_TO.get() - LAST + 8);
        let right = entry(&requests, found);
        assert_eq!(right.check(), Ok(()));
        assert_eq!(right.header.next_revision(), Revision::new(LAST + 1).advance(found));
        assert_eq!(EntryHeader::decode(&right.header.encode()), right.header);
        for counted in [0, found - 1, found + 1, u64::from(right.header.request_count), u64::MAX] {
            assert_eq!(entry(&requests, counted).check(), Err(EntryError::Revisions { counted, found }));
        }
        let none = entry(&[encoded(Operation::CloseSession)], 0);
        assert_eq!((none.check(), none.header.next_revision()), (Ok(()), Revision::new(LAST + 1)));
    }
}
