//! The faults, and the links that they affect.

use crate::Lane;
use std::ops::RangeInclusive;
use std::time::Duration;

/// A direction, as seen from the process that holds the [`Faulty`](crate::Faulty).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From here to the peer.
    Outgoing,
    /// From the peer to here.
    Incoming,
}

impl Direction {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Outgoing, Self::Incoming];
}

/// The links that a [`Fault`] affects: all, or those of one peer, one lane, one direction.
///
/// ```
/// use kv_transport::{Lane, Scope};
/// let requests = Scope::all().lane(Lane::Client).outgoing();
/// let from_member_1 = Scope::peer("10.0.0.1:7000").incoming();
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Scope {
    peer: Option<String>,
    lane: Option<Lane>,
    direction: Option<Direction>,
}

impl Scope {
    /// Every connection, both directions.
    pub fn all() -> Self {
        Self::default()
    }

    /// Connections with the peer at `address`. For connections opened from here, that is the address given to
    /// `connect`. For accepted ones, it is what [`Connection::remote`](crate::Connection::remote) returns, which on
    /// most networks is not where that peer listens. So to separate two nodes, cut each from the other.
    pub fn peer(address: impl Into<String>) -> Self {
        Self { peer: Some(address.into()), ..Self::default() }
    }

    /// Only this lane.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = Some(lane);
        self
    }

    /// Only the direction from here to the peer.
    #[must_use]
    pub fn outgoing(mut self) -> Self {
        self.direction = Some(Direction::Outgoing);
        self
    }

    /// Only the direction from the peer.
    #[must_use]
    pub fn incoming(mut self) -> Self {
        self.direction = Some(Direction::Incoming);
        self
    }

    /// Whether the scope includes a connection with `peer` in `lane`, in at least one direction.
    pub(super) fn has_connection(&self, peer: &str, lane: Lane) -> bool {
        self.peer.as_deref().is_none_or(|wanted| wanted == peer)
            && self.lane.is_none_or(|wanted| wanted == lane)
    }

    /// Whether the scope includes this direction of a connection.
    pub(super) fn has_direction(&self, direction: Direction) -> bool {
        self.direction.is_none_or(|wanted| wanted == direction)
    }
}

/// A fault on a link. By default, nothing goes wrong.
///
/// Random faults affect whole frames, each frame individually. Only [`cut`](Self::cut) and [`refuse`](Self::refuse)
/// affect connecting.
///
/// ```
/// use kv_transport::Fault;
/// use std::time::Duration;
/// let lossy = Fault::new().loss(0.3).duplication(0.5);
/// let far_away = Fault::new().delay(Duration::from_millis(40)..=Duration::from_millis(60));
/// ```
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fault {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    pub(super) reordering: f64,
    pub(super) held_back: Duration,
    pub(super) corruption: f64,
    pub(super) shortest: Duration,
    pub(super) longest: Duration,
    pub(super) cut: bool,
    pub(super) clog: bool,
    pub(super) refuse: bool,
}

impl Fault {
    /// No fault.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frame is lost with this probability. With 1, all frames are lost, but connections still open and end.
    ///
    /// # Panics
    /// If the probability is not between 0 and 1.
    #[must_use]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = checked(probability);
        self
    }

    /// A frame arrives twice with this probability. If frames are delayed, the copy has a delay of its own, and may
    /// arrive after later frames.
    ///
    /// # Panics
    /// If the probability is not between 0 and 1.
    #[must_use]
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplication = checked(probability);
        self
    }

    /// With this probability a frame is held back for up to `within`, and later frames overtake it.
    ///
    /// # Panics
    /// If the probability is not between 0 and 1.
    #[must_use]
    pub fn reordering(mut self, probability: f64, within: Duration) -> Self {
        self.reordering = checked(probability);
        self.held_back = within;
        self
    }

    /// One bit of a frame is flipped with this probability. If the bit belongs to the length of the frame, the receiver
    /// cannot decode the rest of the stream.
    ///
    /// # Panics
    /// If the probability is not between 0 and 1.
    #[must_use]
    pub fn corruption(mut self, probability: f64) -> Self {
        self.corruption = checked(probability);
        self
    }

    /// Each frame takes a time drawn from `range`, or longer if that is necessary to keep the order of frames.
    ///
    /// # Panics
    /// If the range is empty.
    #[must_use]
    pub fn delay(mut self, range: RangeInclusive<Duration>) -> Self {
        assert!(!range.is_empty(), "no delay is within {range:?}");
        (self.shortest, self.longest) = range.into_inner();
        self
    }

    /// Everything disappears silently, as when a cable is pulled: frames, including frames in flight, and the signal
    /// that the other end is gone. Connecting from here hangs until the cut is removed. A peer that connects to here
    /// gets a connection on which nothing arrives. Frames disappear as a whole, so a connection still works after the
    /// cut is removed.
    #[must_use]
    pub fn cut(mut self) -> Self {
        self.cut = true;
        self
    }

    /// Nothing moves and nothing is lost, as if the peer had stopped: connections can be opened, and frames wait in
    /// bounded buffers until the clog is removed.
    #[must_use]
    pub fn clog(mut self) -> Self {
        self.clog = true;
        self
    }

    /// New connections from here are refused at once, as if nobody listened, and new connections from the peer are
    /// broken. Open connections continue. To break them, use [`Faults::reset`](crate::Faults::reset).
    #[must_use]
    pub fn refuse(mut self) -> Self {
        self.refuse = true;
        self
    }

    /// Adds another fault on the same link.
    pub(super) fn merge(&mut self, other: &Self) {
        self.loss = self.loss.max(other.loss);
        self.duplication = self.duplication.max(other.duplication);
        self.reordering = self.reordering.max(other.reordering);
        self.held_back = self.held_back.max(other.held_back);
        self.corruption = self.corruption.max(other.corruption);
        if (other.longest, other.shortest) > (self.longest, self.shortest) {
            (self.shortest, self.longest) = (other.shortest, other.longest);
        }
        self.cut |= other.cut;
        self.clog |= other.clog;
        self.refuse |= other.refuse;
    }
}

fn checked(probability: f64) -> f64 {
    assert!((0.0..=1.0).contains(&probability), "a probability is within 0 and 1, not {probability}");
    probability
}
