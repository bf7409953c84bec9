//! The messages that wait to be sent to peers: one bounded queue for each peer and lane.
//!
//! The protocol tolerates loss, so a full queue drops messages: the oldest on the Control lane, where a newer message
//! supersedes it, and the newest on the others, where a gapless run of entries is more useful than a later entry.
//! While there is no connection, nothing is queued, because it would be outdated by the time of the next connection.

use super::inbox::weight;
use super::sync::lock;
use super::transfer::Piece;
use crate::ids::{Anchor, MemberId, Op};
use crate::message::Message;
use crate::replica::{WINDOW_BYTES, Wrap};
use kv_transport::Lane;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;

/// The lanes between members.
pub(super) const LANES: [Lane; 3] = [Lane::Control, Lane::Log, Lane::Bulk];

/// How many entries and bytes may wait in one queue.
const MAX_ITEMS: usize = 1024;
const MAX_BYTES: usize = 8 << 20;
/// What a primary sends ahead fits into a queue: at most 512 entries, with what each message takes besides.
const _: () = assert!(WINDOW_BYTES + 512 * 1024 < MAX_BYTES && 512 < MAX_ITEMS);

/// Something to send.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// A complete message.
    Message(Message),
    /// Entries that are read from the journal when they are sent.
    Entries(Entries),
    /// A piece of a snapshot that is read from the state when it is sent.
    Piece(Piece),
}

/// Entries to read and send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entries {
    /// The first op.
    pub(super) from: Op,
    /// The last op, and the hash that identifies the log.
    pub(super) through: Anchor,
    /// How to wrap them.
    pub(super) wrap: Wrap,
}

impl Entries {
    /// Whether a peer that receives these entries does not need the others. The commit point does not count: other
    /// messages bring a newer one.
    fn includes(&self, other: &Self) -> bool {
        let has_all = self.from <= other.from && other.through.op <= self.through.op;
        match (self.wrap, other.wrap) {
            // A view has one log.
            (Wrap::Prepare { view, .. }, Wrap::Prepare { view: theirs, .. }) => has_all && view == theirs,
            (Wrap::NewState { nonce }, Wrap::NewState { nonce: theirs }) => {
                nonce == theirs && (self.from, self.through) == (other.from, other.through)
            }
            (Wrap::Prepare { .. }, Wrap::NewState { .. }) | (Wrap::NewState { .. }, Wrap::Prepare { .. }) => {
                false
            }
        }
    }
}

#[derive(Debug, Default)]
struct PeerQueue {
    items: VecDeque<Outgoing>,
    bytes: usize,
    connected: bool,
    /// The piece that is being read for the peer.
    reading: Option<Piece>,
}

/// What waits for one peer on one lane.
#[derive(Debug)]
pub(super) struct Queue {
    lane: Lane,
    waiting: Mutex<PeerQueue>,
    ready: Notify,
    /// Notified when the peer shows signs of life: connect now, without waiting for the back-off.
    pub(super) hurry: Notify,
    /// Notified when the peer is not called any more.
    pub(super) unused: Notify,
}

impl Queue {
    fn new(lane: Lane) -> Arc<Self> {
        let (ready, hurry, unused) = Default::default();
        Arc::new(Self { lane, waiting: Mutex::default(), ready, hurry, unused })
    }

    fn push(&self, item: Outgoing) {
        let size = size(&item);
        let mut waiting = lock(&self.waiting);
        if !waiting.connected || waiting.has_entries(&item) {
            return;
        }
        if let Outgoing::Piece(piece) = &item {
            // A peer has one outstanding request for a piece. A piece that is being read is not read again, and an
            // older one is void.
            if waiting.reading.as_ref() == Some(piece) {
                return;
            }
            waiting.forget_piece();
        }
        while waiting.items.len() >= MAX_ITEMS || (waiting.bytes > 0 && waiting.bytes + size > MAX_BYTES) {
            if self.lane != Lane::Control {
                tracing::debug!(lane = %self.lane, "dropped a message: the queue of its peer is full");
                return;
            }
            waiting.pop();
        }
        waiting.bytes += size;
        waiting.items.push_back(item);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Waits until there is something to send. Cancel safe.
    pub(super) async fn ready(&self) {
        while lock(&self.waiting).items.is_empty() {
            self.ready.notified().await;
        }
    }

    /// Takes the next item. After a piece, call [`piece_read`](Self::piece_read).
    pub(super) fn pop(&self) -> Option<Outgoing> {
        let mut waiting = lock(&self.waiting);
        let item = waiting.pop();
        if let Some(Outgoing::Piece(piece)) = &item {
            waiting.reading = Some(piece.clone());
        }
        item
    }

    /// The piece that was taken has been read and passed to the connection.
    pub(super) fn piece_read(&self) {
        lock(&self.waiting).reading = None;
    }

    /// Returns whether there is a connection.
    fn is_connected(&self) -> bool {
        lock(&self.waiting).connected
    }

    /// Starts or stops to queue.
    pub(super) fn set_connected(&self, connected: bool) {
        *lock(&self.waiting) = PeerQueue { connected, ..PeerQueue::default() };
    }
}

impl PeerQueue {
    /// Whether the entries wait already: on a slow connection they may be sent again before they were sent once.
    fn has_entries(&self, item: &Outgoing) -> bool {
        let Outgoing::Entries(new) = item else { return false };
        self.items.iter().any(|other| matches!(other, Outgoing::Entries(old) if old.includes(new)))
    }

    fn forget_piece(&mut self) {
        let before = self.items.iter().position(|item| matches!(item, Outgoing::Piece(_)));
        if let Some(item) = before.and_then(|at| self.items.remove(at)) {
            self.bytes -= size(&item);
        }
    }

    fn pop(&mut self) -> Option<Outgoing> {
        let item = self.items.pop_front()?;
        self.bytes -= size(&item);
        assert!(self.bytes == 0 || !self.items.is_empty(), "an empty queue holds no bytes");
        Some(item)
    }
}

fn size(item: &Outgoing) -> usize {
    match item {
        Outgoing::Message(message) => weight(message),
        Outgoing::Entries(_) => size_of::<Entries>(),
        Outgoing::Piece(piece) => size_of::<Piece>() + piece.after.len(),
    }
}

/// The queues of all peers. They come and go with the member list.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    queues: RwLock<BTreeMap<MemberId, [Arc<Queue>; 3]>>,
}

impl Lanes {
    fn queues(&self) -> RwLockReadGuard<'_, BTreeMap<MemberId, [Arc<Queue>; 3]>> {
        self.queues.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues_mut(&self) -> RwLockWriteGuard<'_, BTreeMap<MemberId, [Arc<Queue>; 3]>> {
        self.queues.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exactly these peers are called from now on. Makes queues for those that have none, and returns the new ones.
    /// The links of all others end.
    pub(super) fn set(&self, peers: &BTreeSet<MemberId>) -> Vec<(MemberId, Lane, Arc<Queue>)> {
        let mut queues = self.queues_mut();
        for (_, unused) in queues.extract_if(.., |peer, _| !peers.contains(peer)) {
            unused.iter().for_each(|queue| queue.unused.notify_one());
        }
        let mut new = Vec::new();
        for peer in peers {
            queues.entry(*peer).or_insert_with(|| {
                let queues = LANES.map(Queue::new);
                new.extend(queues.iter().map(|queue| (*peer, queue.lane, queue.clone())));
                queues
            });
        }
        new
    }

    /// The queue of a peer.
    #[cfg(test)]
    pub(super) fn one(&self, peer: MemberId, lane: Lane) -> Option<Arc<Queue>> {
        self.queues().get(&peer)?.iter().find(|queue| queue.lane == lane).cloned()
    }

    /// Queues a message.
    pub(super) fn send(&self, to: MemberId, message: Message) {
        tracing::trace!(%to, message = message.name(), "send");
        self.push(to, message.lane(), Outgoing::Message(message));
    }

    /// Queues entries.
    pub(super) fn send_entries(&self, to: MemberId, entries: Entries) {
        tracing::trace!(%to, from = %entries.from, through = ?entries.through, "send entries");
        let lane = match entries.wrap {
            Wrap::Prepare { .. } => Lane::Log,
            Wrap::NewState { .. } => Lane::Bulk,
        };
        self.push(to, lane, Outgoing::Entries(entries));
    }

    /// Queues a piece of a snapshot.
    pub(super) fn send_piece(&self, to: MemberId, piece: Piece) {
        self.push(to, Lane::Bulk, Outgoing::Piece(piece));
    }

    fn push(&self, to: MemberId, lane: Lane, item: Outgoing) {
        let queues = self.queues();
        // A member of another epoch may call here without being called.
        let Some(queues) = queues.get(&to) else { return };
        let queue = queues.iter().find(|queue| queue.lane == lane);
        queue.expect("the replica sends on the lanes of members").push(item);
    }

    /// Returns whether the protocol's messages can be sent to the peer. The lane for state transfers does not count,
    /// because it may be reopened at any time.
    pub(super) fn is_reachable(&self, peer: MemberId) -> bool {
        let all = self.queues();
        let queues = all.get(&peer).into_iter().flatten();
        queues.filter(|queue| queue.lane != Lane::Bulk).all(|queue| queue.is_connected())
    }

    /// The peer has shown signs of life: connect to it at once.
    pub(super) fn reconnect_now(&self, peer: MemberId) {
        for queue in self.queues().get(&peer).into_iter().flatten() {
            queue.hurry.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::View;
    use futures::FutureExt;

    /// A peer goes, and comes back: its old links have ended, and there is one for each lane.
    #[test]
    fn the_links_of_a_peer_that_is_not_called_end() {
        let [a, b] = [1, 2].map(MemberId::new);
        let lanes = Lanes::default();
        let of = |peers: &[MemberId]| lanes.set(&peers.iter().copied().collect());
        let first = of(&[a, b]);
        assert_eq!(first.len(), 6);
        assert_eq!(of(&[a, b]).len(), 0, "all have links");
        assert_eq!(of(&[a]).len(), 0);
        let again = of(&[a, b]);
        assert_eq!(again.iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [b; 3]);
        for (peer, _, queue) in first {
            let has_ended = queue.unused.notified().now_or_never().is_some();
            assert_eq!(has_ended, peer == b, "{peer}");
        }
        assert!(again.iter().all(|(_, _, queue)| queue.unused.notified().now_or_never().is_none()));
    }

    fn vote(view: u64) -> Outgoing {
        Outgoing::Message(Message::StartViewChange { view: View::new(view) })
    }

    fn views(queue: &Queue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop())
            .map(|item| match item {
                Outgoing::Message(Message::StartViewChange { view }) => view.get(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// F-net-15: a peer that stops reading costs no more than a bounded queue.
    #[test]
    fn a_full_control_queue_keeps_the_newest_and_another_the_oldest() {
        let [control, log] = [Lane::Control, Lane::Log].map(Queue::new);
        for queue in [&control, &log] {
            queue.set_connected(true);
            for view in 0..MAX_ITEMS as u64 + 10 {
                queue.push(vote(view));
            }
        }
        assert_eq!(views(&control), (10..MAX_ITEMS as u64 + 10).collect::<Vec<_>>());
        assert_eq!(views(&log), (0..MAX_ITEMS as u64).collect::<Vec<_>>());
        assert_eq!(lock(&log.waiting).bytes, 0);
    }

    /// Rule T6: a piece is read once, however often it is requested.
    #[test]
    fn t6_a_piece_requested_again_is_read_once() {
        let queue = Queue::new(Lane::Bulk);
        queue.set_connected(true);
        let piece = |after: &'static str| Piece { nonce: 1, at: None, after: after.into() };
        let asked = |queue: &Queue| match queue.pop() {
            Some(Outgoing::Piece(piece)) => Some(piece),
            _ => None,
        };
        queue.push(vote(1));
        queue.push(Outgoing::Piece(piece("")));
        queue.push(Outgoing::Piece(piece("")));
        assert_eq!((views_of_one(&queue), asked(&queue)), (1, Some(piece(""))));
        for _ in 0..10 {
            queue.push(Outgoing::Piece(piece("")));
        }
        assert_eq!(asked(&queue), None, "it is being read");
        queue.push(Outgoing::Piece(piece("a")));
        queue.push(Outgoing::Piece(piece("b")));
        queue.piece_read();
        assert_eq!((asked(&queue), asked(&queue)), (Some(piece("b")), None), "the last question counts");
        queue.piece_read();
        queue.push(Outgoing::Piece(piece("b")));
        assert_eq!(asked(&queue), Some(piece("b")), "the answer may have been lost");
        assert_eq!(lock(&queue.waiting).bytes, 0);
    }

    /// On a slow connection, a primary sends entries again before they were sent once.
    #[test]
    fn n6_entries_that_wait_are_not_queued_again() {
        let queue = Queue::new(Lane::Log);
        queue.set_connected(true);
        let entries = |from, through, view, commit| {
            let [through, commit] = [through, commit].map(|op| Anchor { op: Op::new(op), ..Anchor::ZERO });
            let wrap = Wrap::Prepare { view: View::new(view), commit };
            Outgoing::Entries(Entries { from: Op::new(from), through, wrap })
        };
        // The second and the fourth wait already.
        for (from, through, view, commit) in
            [(3, 5, 1, 1), (4, 5, 1, 1), (4, 6, 1, 1), (3, 5, 1, 2), (3, 5, 2, 2)]
        {
            queue.push(entries(from, through, view, commit));
        }
        let found = std::iter::from_fn(|| queue.pop()).map(|item| match item {
            Outgoing::Entries(Entries { from, through, wrap: Wrap::Prepare { view, .. } }) => {
                (from.get(), through.op.get(), view.get())
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(found.collect::<Vec<_>>(), [(3, 5, 1), (4, 6, 1), (3, 5, 2)]);
        queue.push(entries(3, 5, 1, 1));
        assert!(queue.pop().is_some(), "they have been sent, and may be lost");
    }

    fn views_of_one(queue: &Queue) -> u64 {
        match queue.pop() {
            Some(Outgoing::Message(Message::StartViewChange { view })) => view.get(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_kept_while_there_is_no_connection() {
        let queue = Queue::new(Lane::Control);
        queue.push(vote(1));
        queue.set_connected(true);
        assert!(views(&queue).is_empty());
        queue.push(vote(2));
        queue.set_connected(false);
        queue.set_connected(true);
        assert!(views(&queue).is_empty());
    }
}
