//! What has happened since the driver last took it. All parts of the node push, and the driver takes everything at
//! once.
//!
//! Everything is bounded. Messages are bounded by their bytes: their readers wait for room, and so do the peers
//! behind them. Calls are bounded by the admission of the node. Each kind of completion is a single number that only
//! grows.

use super::reply::Responder;
use super::sync::lock;
use crate::ids::{Anchor, Hash, MemberId, Op, RequestNumber, Revision, SessionId, WriteSeq};
use crate::kv::Deadlines;
use crate::message::{ChangeCall, Entry, Message, Query};
use crate::replica::Input;
use bytes::Bytes;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

/// How many bytes of messages may wait in each of the two queues.
const MAX_BYTES: usize = 8 << 20;

/// How many digests may wait to be sent.
const MOST_DIGESTS: usize = 64;

/// How many faulty entries may wait to be reported.
const MOST_FAULTY: usize = 256;

/// A client's call on its way to the driver.
#[derive(Debug)]
pub(super) enum InboxCall {
    /// Order this request.
    Write {
        /// By which its answer is found.
        key: RequestKey,
        /// The encoded request.
        request: Bytes,
        /// Where to send the answer.
        reply: Responder,
    },
    /// Read, linearizably.
    Read {
        /// What to read.
        query: Query,
        /// Where to send the answer.
        reply: Responder,
    },
    /// Read a state that is known to be no older than this.
    Bounded {
        bound: Duration,
        /// What to read.
        query: Query,
        /// Where to send the answer.
        reply: Responder,
    },
    /// Read once this revision has been applied here.
    Await {
        at_least: Revision,
        /// What to read.
        query: Query,
        /// Where to send the answer.
        reply: Responder,
    },
}

/// The key by which the answer to a request is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum RequestKey {
    /// A request within a session.
    Numbered(SessionId, RequestNumber),
    /// The opening of a session.
    Open(u128),
}

/// What the driver takes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// From peers, on the Control lane.
    pub(super) control: VecDeque<(MemberId, Message)>,
    /// From peers, on the other lanes.
    pub(super) data: VecDeque<(MemberId, Message)>,
    /// From clients.
    pub(super) calls: VecDeque<InboxCall>,
    /// The last durable write.
    pub(super) durable: Option<WriteSeq>,
    /// The last applied op.
    pub(super) applied: Option<Op>,
    /// Digests of the state, at ops at which members compare them.
    pub(super) digests: VecDeque<(Op, Hash)>,
    /// What happened during a state transfer.
    pub(super) transfers: Vec<Input>,
    /// The last durable checkpoint.
    pub(super) checkpoint: Option<Anchor>,
    /// Peers whose connection broke.
    pub(super) lost: BTreeSet<MemberId>,
    /// Stored entries that cannot be read.
    pub(super) faulty: BTreeSet<Op>,
    /// Whether a handover was requested.
    pub(super) handover: bool,
    /// What clients request about the cluster itself.
    pub(super) admin: Vec<(AdminCall, Responder)>,
    /// The earliest deadlines of the applied state, if they have changed.
    pub(super) deadlines: Option<Deadlines>,
    /// The answer to the driver's request for what has expired: the request to propose, or `None` if nothing is due.
    pub(super) expiry: Option<Option<Bytes>>,
    /// Whether an expiry was applied.
    pub(super) expired: bool,
    /// Whether someone waits for a sign of life of the driver.
    pub(super) ping: bool,
}

/// A call about the cluster itself.
#[derive(Debug)]
pub(super) enum AdminCall {
    /// Hand over the primary role, perhaps to a certain member.
    Handover(Option<MemberId>),
    /// Return the member list.
    Members,
    /// Change the member list.
    Change(Box<ChangeCall>),
}

impl Batch {
    /// Returns whether nothing happened.
    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty()
            && self.data.is_empty()
            && self.calls.is_empty()
            && self.durable.is_none()
            && self.applied.is_none()
            && self.digests.is_empty()
            && self.transfers.is_empty()
            && self.checkpoint.is_none()
            && self.lost.is_empty()
            && self.faulty.is_empty()
            && !self.handover
            && self.admin.is_empty()
            && self.deadlines.is_none()
            && self.expiry.is_none()
            && !self.expired
            && !self.ping
    }
}

#[derive(Debug, Default)]
struct Pending {
    batch: Batch,
    control_bytes: usize,
    data_bytes: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pending: Mutex<Pending>,
    arrived: Notify,
    control_room: Notify,
    data_room: Notify,
}

impl Inbox {
    /// Adds a message once there is room. Cancel safe: a cancelled call has added nothing.
    pub(super) async fn message(&self, from: MemberId, message: Message, control: bool) {
        let size = weight(&message);
        let room = if control { &self.control_room } else { &self.data_room };
        let mut message = Some(message);
        loop {
            // Registered before the check, so that room that becomes free in between is not missed.
            let mut waiting = std::pin::pin!(room.notified());
            waiting.as_mut().enable();
            {
                let mut pending = lock(&self.pending);
                let Pending { batch, control_bytes, data_bytes } = &mut *pending;
                let (queue, bytes) =
                    if control { (&mut batch.control, control_bytes) } else { (&mut batch.data, data_bytes) };
                if *bytes == 0 || *bytes + size <= MAX_BYTES {
                    *bytes += size;
                    queue.extend(message.take().map(|message| (from, message)));
                    break;
                }
            }
            waiting.await;
        }
        self.arrived.notify_one();
    }

    /// Adds a call.
    pub(super) fn call(&self, call: InboxCall) {
        self.put(|batch| batch.calls.push_back(call));
    }

    /// Writes up to here are durable.
    pub(super) fn durable(&self, seq: WriteSeq) {
        self.put(|batch| batch.durable = batch.durable.max(Some(seq)));
    }

    /// Entries up to here are applied.
    pub(super) fn applied(&self, op: Op) {
        self.put(|batch| batch.applied = batch.applied.max(Some(op)));
    }

    /// The state had this digest after this op. Bounded: if there are too many, the oldest are dropped.
    pub(super) fn digest(&self, op: Op, digest: Hash) {
        self.put(|batch| {
            if batch.digests.len() >= MOST_DIGESTS {
                batch.digests.pop_front();
            }
            batch.digests.push_back((op, digest));
        });
    }

    /// Reports an event of a state transfer. There are only a few: the replica waits for each.
    pub(super) fn transferred(&self, what: Input) {
        self.put(|batch| {
            if matches!(what, Input::StateLost | Input::SnapshotInstalled { .. }) {
                // That op was in the old state. The new state may have applied less.
                batch.applied = None;
            }
            batch.transfers.push(what);
        });
    }

    /// A checkpoint is durable.
    pub(super) fn checkpointed(&self, checkpoint: Anchor) {
        self.put(|batch| batch.checkpoint = batch.checkpoint.max(Some(checkpoint)));
    }

    /// The connection to a peer broke.
    pub(super) fn lost(&self, peer: MemberId) {
        self.put(|batch| {
            batch.lost.insert(peer);
        });
    }

    /// The stored entry at this op cannot be read. Bounded: if there are too many, only the first are kept.
    pub(super) fn faulty(&self, op: Op) {
        self.put(|batch| {
            if batch.faulty.len() < MOST_FAULTY {
                batch.faulty.insert(op);
            }
        });
    }

    /// Requests a handover of the primary role.
    pub(super) fn handover(&self) {
        self.put(|batch| batch.handover = true);
    }

    /// A client requests a handover, to this member if one is named. Bounded: each request holds an admitted call.
    pub(super) fn admin(&self, call: AdminCall, reply: Responder) {
        self.put(|batch| batch.admin.push((call, reply)));
    }

    /// Sets the earliest deadlines.
    pub(super) fn deadlines(&self, deadlines: Deadlines) {
        self.put(|batch| batch.deadlines = Some(deadlines));
    }

    /// Passes the request that removes what has expired, if there is anything.
    pub(super) fn expiry(&self, request: Option<Bytes>) {
        self.put(|batch| batch.expiry = Some(request));
    }

    /// A request that removed expired keys has been applied. Call this after `deadlines`.
    pub(super) fn expired(&self) {
        self.put(|batch| batch.expired = true);
    }

    /// Requests a sign of life.
    pub(super) fn ping(&self) {
        self.put(|batch| batch.ping = true);
    }

    fn put(&self, with: impl FnOnce(&mut Batch)) {
        with(&mut lock(&self.pending).batch);
        self.arrived.notify_one();
    }

    /// Waits until something may have happened since the last [`take`](Self::take). Cancel safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Returns whether anything has happened since the last [`take`](Self::take), or was left there by it.
    pub(super) fn has_news(&self) -> bool {
        !lock(&self.pending).batch.is_empty()
    }

    /// The number of calls that wait, and whether messages of the Control lane wait.
    pub(super) fn waiting(&self) -> (usize, bool) {
        let pending = lock(&self.pending);
        (pending.batch.calls.len(), !pending.batch.control.is_empty())
    }

    /// Takes what has happened. Without `room` for more writes, messages of the data lanes and calls stay in their
    /// queues, and their senders wait. Calls also stay if `calls` is false.
    pub(super) fn take(&self, room: bool, calls: bool) -> Batch {
        let batch = {
            let mut pending = lock(&self.pending);
            let mut batch = std::mem::take(&mut pending.batch);
            pending.control_bytes = 0;
            if room {
                pending.data_bytes = 0;
            } else {
                pending.batch.data = std::mem::take(&mut batch.data);
            }
            if !(room && calls) {
                pending.batch.calls = std::mem::take(&mut batch.calls);
            }
            batch
        };
        if !batch.control.is_empty() {
            self.control_room.notify_waiters();
        }
        if !batch.data.is_empty() {
            self.data_room.notify_waiters();
        }
        batch
    }
}

/// About how much memory a message holds.
pub(super) fn weight(message: &Message) -> usize {
    const FIXED: usize = 256;
    let entry = |entry: &Entry| FIXED + entry.body.len();
    match message {
        Message::Prepare { entry: it, .. } => FIXED + entry(it),
        Message::NewState { entries, .. } => FIXED + entries.iter().map(entry).sum::<usize>(),
        Message::StartView { hashes, .. } | Message::Headers { hashes, .. } => FIXED + hashes.len() * 32,
        Message::SnapshotChunk { chunk, .. } => FIXED + chunk.after.len() + chunk.rows.len(),
        Message::DoViewChange { log, .. } => FIXED + log.suffix.len() * 96,
        Message::PrepareOk { .. }
        | Message::Commit { .. }
        | Message::CommitOk { .. }
        | Message::StartViewChange { .. }
        | Message::GetState { .. }
        | Message::Fetch { .. }
        | Message::TooOld { .. }
        | Message::GetSnapshot { .. }
        | Message::SnapshotGone { .. }
        | Message::Formation { .. }
        | Message::StateDigest { .. }
        | Message::AskEpoch { .. } => FIXED,
        Message::Epoch { configuration, .. } => FIXED + configuration.members.len() * 512,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::View;
    use crate::message::LogPoint;
    use crate::node::metrics::RequestKind;

    const PEER: MemberId = MemberId::new(1);

    fn prepare(bytes: usize) -> Message {
        let body = Bytes::from(vec![0; bytes]);
        let header = crate::message::EntryHeader {
            cluster: crate::ids::ClusterId::new(1),
            view: View::ZERO,
            op: Op::new(1),
            parent: Hash::ZERO,
            first_revision: Revision::new(1),
            timestamp: crate::ids::Timestamp::ZERO,
            request_count: 1,
            revision_count: 0,
            body_len: u32::try_from(bytes).unwrap(),
            body_hash: Hash::ZERO,
        };
        Message::Prepare { view: View::ZERO, commit: Anchor::ZERO, entry: Entry { header, body } }
    }

    fn vote() -> Message {
        Message::StartViewChange { view: View::new(1) }
    }

    /// Back-pressure on peers: data waits for room, and the Control lane does not wait.
    #[tokio::test]
    async fn data_waits_for_room_and_control_does_not_wait_for_data() {
        let inbox = Inbox::default();
        inbox.message(PEER, prepare(MAX_BYTES), false).await;
        let mut next = Box::pin(inbox.message(PEER, prepare(1), false));
        assert!(futures::poll!(&mut next).is_pending());
        inbox.message(PEER, vote(), true).await;

        let batch = inbox.take(false, true);
        assert_eq!((batch.control.len(), batch.data.len()), (1, 0), "the journal has no room for data");
        assert!(futures::poll!(&mut next).is_pending());
        assert_eq!(inbox.take(true, true).data.len(), 1);
        assert!(futures::poll!(&mut next).is_ready());
        assert_eq!(inbox.take(true, true).data.len(), 1);
    }

    #[tokio::test]
    async fn a_message_larger_than_the_bound_is_accepted_alone() {
        let inbox = Inbox::default();
        inbox.message(PEER, prepare(2 * MAX_BYTES), false).await;
        assert_eq!(inbox.take(true, true).data.len(), 1);
    }

    #[tokio::test]
    async fn completions_are_numbers_that_only_grow() {
        let inbox = Inbox::default();
        inbox.durable(WriteSeq::new(2));
        inbox.durable(WriteSeq::new(3));
        inbox.applied(Op::new(5));
        inbox.lost(PEER);
        inbox.lost(PEER);
        inbox.arrived().await;
        let batch = inbox.take(false, false);
        assert_eq!((batch.durable, batch.applied), (Some(WriteSeq::new(3)), Some(Op::new(5))));
        assert_eq!(batch.lost.len(), 1);
        assert!(inbox.take(true, true).is_empty());
    }

    /// Rules R4 and T9: an op that the old state had applied may not be applied in the new state from which reads are
    /// answered.
    #[tokio::test]
    async fn the_applied_op_of_an_old_state_does_not_count_for_its_replacement() {
        let inbox = Inbox::default();
        let point = LogPoint {
            anchor: Anchor::new(Op::new(3), Hash::ZERO),
            next_revision: Revision::new(4),
            timestamp: crate::ids::Timestamp::ZERO,
        };
        for what in [Input::StateLost, Input::SnapshotInstalled { point, configuration: None }] {
            inbox.applied(Op::new(5));
            inbox.transferred(what);
            assert_eq!(inbox.take(true, true).applied, None);
        }
        inbox.applied(Op::new(5));
        inbox.transferred(Input::StateLost);
        inbox.transferred(Input::SnapshotInstalled { point, configuration: None });
        inbox.applied(Op::new(4));
        assert_eq!(inbox.take(true, true).applied, Some(Op::new(4)));
    }

    #[tokio::test]
    async fn calls_wait_in_order_while_the_driver_is_busy() {
        let inbox = Inbox::default();
        let outbox = crate::node::reply::Outbox::new(
            crate::node::reply::Admission::new(1 << 20),
            std::sync::Arc::default(),
        );
        for call in 0..3 {
            let query = Query::Get { key: Bytes::new(), at: None };
            inbox.call(InboxCall::Read {
                query,
                reply: Responder::new(outbox.clone(), call, RequestKind::Read, None),
            });
            assert!(inbox.take(true, false).is_empty());
        }
        assert_eq!(inbox.take(true, true).calls.len(), 3);
    }
}
