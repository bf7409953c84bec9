//! Which faults are on, and where.

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

/// Which links a [`Fault`] is on: all, or those of one peer, one lane, one direction.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
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

    /// Connections with the peer at `address`: as it was given to `connect`, or as [`Connection::remote`](crate::Connection::remote) tells
    /// it for accepted ones.
    pub fn peer(address: impl Into<String>) -> Self {
        Self { peer: Some(address.into()), ..Self::default() }
    }

    /// Only this lane.
    #[must_use]
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = Some(lane);
        self
    }

    /// Only what goes from here to the peer.
    #[must_use]
    pub fn outgoing(mut self) -> Self {
        self.direction = Some(Direction::Outgoing);
        self
    }

    /// Only what comes from the peer.
    #[must_use]
    pub fn incoming(mut self) -> Self {
        self.direction = Some(Direction::Incoming);
        self
    }
}

/// What goes wrong on a link. The default is nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fault {}

impl Fault {
    /// No fault.
    pub fn new() -> Self {
        Self::default()
    }

    /// A frame is lost with this probability.
    #[must_use]
    pub fn loss(self, _probability: f64) -> Self {
        self
    }

    /// A frame arrives twice with this probability.
    #[must_use]
    pub fn duplication(self, _probability: f64) -> Self {
        self
    }

    /// With this probability a frame is held back for up to `within`, so that later ones overtake it.
    #[must_use]
    pub fn reordering(self, _probability: f64, _within: Duration) -> Self {
        self
    }

    /// One bit of a frame is flipped with this probability.
    #[must_use]
    pub fn corruption(self, _probability: f64) -> Self {
        self
    }

    /// Each frame takes a time drawn from `range`. Order is kept.
    #[must_use]
    pub fn delay(self, _range: RangeInclusive<Duration>) -> Self {
        self
    }

    /// Everything vanishes silently: frames, ends of streams, resets; connecting hangs until it is mended.
    #[must_use]
    pub fn cut(self) -> Self {
        self
    }

    /// Nothing moves, and nothing is lost: frames wait, in bounded buffers, until it is cleared.
    #[must_use]
    pub fn clog(self) -> Self {
        self
    }

    /// New connections are refused at once, as if nobody listened. Open ones go on (see [`Faults::reset`]).
    #[must_use]
    pub fn refuse(self) -> Self {
        self
    }
}

/// How many frames met which fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Handed on, duplicates not counted.
    pub passed: u64,
    /// Lost at random.
    pub lost: u64,
    /// Vanished in a cut.
    pub cut: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back so that others may overtake.
    pub reordered: u64,
    /// Handed on with a bit flipped.
    pub corrupted: u64,
}

/// Steers the faults of one or more [`Faulty`](crate::Faulty) transports. Clones steer the same.
///
/// Starts without any fault. A change takes effect at once, on open connections too.
#[derive(Clone, Debug)]
pub struct Faults {}

impl Faults {
    /// No faults yet; `seed` decides the fate of every frame once there are.
    pub fn new(_seed: u64) -> Self {
        Self {}
    }

    /// Puts `fault` on `scope`, in place of what was there. Where several scopes meet, a cut or a clog of any holds, and the greatest probability and the longest delay.
    pub fn set(&self, _scope: Scope, _fault: Fault) {}

    /// Takes off what was put on exactly this scope.
    pub fn clear(&self, _scope: &Scope) {}

    /// Cuts `scope`, besides what else is on it.
    pub fn cut(&self, _scope: Scope) {}

    /// Takes the cut off exactly this scope, and leaves what else is on it.
    pub fn mend(&self, _scope: &Scope) {}

    /// Takes everything off.
    pub fn heal(&self) {}

    /// Breaks the open connections in `scope`, both ends notice.
    pub fn reset(&self, _scope: Scope) {}

    /// What happened so far in `lane`, in `direction`.
    pub fn counts(&self, _lane: Lane, _direction: Direction) -> Counts {
        Counts::default()
    }

    /// What happened so far in all.
    pub fn total(&self) -> Counts {
        Counts::default()
    }
}
