//! What waits at a member: calls of clients, their watches, and the tasks of state transfers.

use bytes::Bytes;
use kv_core::ids::{Anchor, Epoch, MemberId, Op, RequestNumber, Revision, SessionId};
use kv_core::kv::{IsolationDetector, PositionSource, Receiver, Sources, StateAside, WatchId, Watchers};
use kv_core::message::{Chunk, Position, Query, WatchQuery};
use std::collections::{BTreeMap, VecDeque};

/// The key by which the answer to a request is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Key {
    /// A request within a session.
    Numbered(SessionId, RequestNumber),
    /// The opening of a session.
    Open(u128),
}

/// Where to send an answer to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Way {
    pub(super) client: usize,
    pub(super) epoch: u32,
    pub(super) call: u64,
}

impl Way {
    /// The id of the watch.
    pub(super) const fn watch_id(&self) -> WatchId {
        (Self::connection(self.client, self.epoch), self.call)
    }

    /// The id of a client's connection.
    pub(super) const fn connection(client: usize, epoch: u32) -> usize {
        client << 32 | epoch as usize
    }
}

/// The calls that wait at a member.
#[derive(Default, Debug)]
pub(super) struct Serving {
    pub(super) writes: BTreeMap<Key, Vec<Way>>,
    /// Reads that wait for their confirmation, and the last epoch that had committed anything when they began.
    pub(super) reads: BTreeMap<u64, (Way, Query, Epoch)>,
    /// Reads that wait for an op to be applied.
    pub(super) ready: Vec<(Op, Way, Query)>,
    /// Reads that wait for a revision to be applied.
    pub(super) awaited: Vec<(Revision, Way, Query)>,
    pub(super) tickets: u64,
    /// The last message on each client's connection: a repeated one is ignored.
    pub(super) last: BTreeMap<usize, (u32, u64)>,
    pub(super) watches: Watches,
}

/// The watches of a member.
#[derive(Default, Debug)]
pub(super) struct Watches {
    pub(super) waiting: Watchers<Way>,
    /// Watches that will be polled, and those that were polled and will be parked.
    pub(super) under_way: BTreeMap<u64, (WatchQuery, PositionSource, Way)>,
    pub(super) tickets: u64,
    /// Whether watches are about to be woken.
    pub(super) waking: bool,
    /// Where waking continues.
    pub(super) woken: Option<Position>,
    pub(super) sweeping: bool,
    /// Connections of each client below this epoch are known to be closed.
    pub(super) gone: Vec<u32>,
    pub(super) cut_off: IsolationDetector,
}

impl Watches {
    /// Keeps a watch until its next step.
    pub(super) fn keep(&mut self, query: WatchQuery, source: PositionSource, way: Way) -> u64 {
        self.tickets += 1;
        self.under_way.insert(self.tickets, (query, source, way));
        self.tickets
    }
}

/// The snapshots of a process, its own and those of others.
#[derive(Default, Debug)]
pub(super) struct Transfers {
    pub(super) sources: Sources,
    /// `None` on a witness, and if there is no state on disk.
    pub(super) receiver: Option<Receiver>,
    /// The tasks of the disk, in order.
    pub(super) tasks: VecDeque<Task>,
    /// A member without a state requests the next checkpoint.
    pub(super) asked: bool,
    /// The damaged state, while there is no other.
    pub(super) aside: Option<StateAside>,
    /// The pieces that peers have requested; the first is being read.
    pub(super) asked_for: VecDeque<Piece>,
    /// A merge has found that peers fetch the state.
    pub(super) was_held: bool,
}

/// A piece of a snapshot that a peer has requested.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Piece {
    pub(super) to: MemberId,
    pub(super) nonce: u64,
    pub(super) at: Option<Anchor>,
    pub(super) after: Bytes,
}

#[derive(Debug)]
pub(super) enum Task {
    Stage(Anchor, Chunk),
    Install(Anchor),
    Discard(Anchor),
}

impl Transfers {
    pub(super) fn new(sources: Sources, receiver: Option<Receiver>) -> Self {
        let (tasks, asked_for) = (VecDeque::new(), VecDeque::new());
        Self { sources, receiver, tasks, asked: false, aside: None, asked_for, was_held: false }
    }
}
