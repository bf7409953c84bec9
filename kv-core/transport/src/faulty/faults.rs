//! The handle that controls the faults.

use super::fate::stream_seed;
use super::{Direction, Fault, Scope};
use crate::Lane;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many directions of dropped connections may wait for the end of a cut or a clog.
const MAX_LINGERING: usize = 1024;

/// The number of frames with each fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Delivered; copies are not counted.
    pub passed: u64,
    /// Lost at random.
    pub lost: u64,
    /// Lost in a cut.
    pub cut: u64,
    /// Delivered twice.
    pub duplicated: u64,
    /// Held back, so that others could overtake.
    pub reordered: u64,
    /// Delivered with a flipped bit.
    pub corrupted: u64,
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, counts| Self {
            passed: sum.passed + counts.passed,
            lost: sum.lost + counts.lost,
            cut: sum.cut + counts.cut,
            duplicated: sum.duplicated + counts.duplicated,
            reordered: sum.reordered + counts.reordered,
            corrupted: sum.corrupted + counts.corrupted,
        })
    }
}

/// Controls the faults of one or more [`Faulty`](crate::Faulty) transports. Clones control the same transports.
///
/// At first there are no faults. A change affects everything written after it, also on open connections. Frames that
/// are already delayed keep their time. If scopes overlap, their faults are combined: any cut, clog or refusal applies,
/// and of probabilities and delays the greatest applies.
///
/// The fate of the n-th frame in one direction of the n-th connection to a peer in a lane (or accepted in a lane)
/// depends only on the seed and the faults, and not on other connections.
#[derive(Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

struct Shared {
    seed: u64,
    rules: watch::Sender<Rules>,
    tally: Mutex<Tally>,
    lingering: Arc<Semaphore>,
}

#[derive(Default)]
struct Tally {
    counts: BTreeMap<(Lane, Direction), Counts>,
    /// The number of connections so far, by lane and by the peer to which they were opened (`None` for accepted
    /// connections).
    connections: BTreeMap<(Option<String>, Lane), u64>,
}

#[derive(Default)]
struct Rules {
    faults: BTreeMap<Scope, Fault>,
    /// The number of the last reset of each scope.
    resets: BTreeMap<Scope, u64>,
    /// The number of the last reset.
    last_reset: u64,
}

impl Faults {
    /// Creates a handle without faults. `seed` decides the fates of all frames.
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            seed,
            rules: watch::Sender::default(),
            tally: Mutex::default(),
            lingering: Arc::new(Semaphore::new(MAX_LINGERING)),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sets `fault` on `scope`, and replaces any fault on exactly this scope.
    pub fn set(&self, scope: Scope, fault: Fault) {
        self.shared.rules.send_modify(|rules| {
            rules.faults.insert(scope, fault);
        });
    }

    /// Removes the fault on exactly this scope.
    pub fn clear(&self, scope: &Scope) {
        self.shared.rules.send_modify(|rules| {
            rules.faults.remove(scope);
        });
    }

    /// Cuts `scope`, in addition to other faults on it. See [`Fault::cut`].
    pub fn cut(&self, scope: Scope) {
        self.shared.rules.send_modify(|rules| rules.faults.entry(scope).or_default().cut = true);
    }

    /// Removes the cut on exactly this scope, and keeps other faults on it.
    pub fn mend(&self, scope: &Scope) {
        self.shared.rules.send_modify(|rules| {
            if let Some(fault) = rules.faults.get_mut(scope) {
                fault.cut = false;
            }
        });
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.shared.rules.send_modify(|rules| rules.faults.clear());
    }

    /// Breaks the connections in `scope` that are open now, as if the process at the other end had crashed: this end
    /// gets an error, frames in flight are lost, and the peer reads the end of the stream. A direction in `scope` is
    /// ignored. To keep a peer down, set [`Fault::refuse`] first.
    pub fn reset(&self, scope: Scope) {
        self.shared.rules.send_modify(|rules| {
            rules.last_reset += 1;
            rules.resets.insert(scope, rules.last_reset);
        });
    }

    /// Returns the counts for `lane` in `direction` since the start.
    pub fn counts(&self, lane: Lane, direction: Direction) -> Counts {
        self.tally(|tally| tally.counts.get(&(lane, direction)).copied().unwrap_or_default())
    }

    /// Returns the counts for all lanes and directions since the start.
    pub fn total(&self) -> Counts {
        self.tally(|tally| tally.counts.values().copied().sum())
    }

    fn tally<T>(&self, f: impl FnOnce(&mut Tally) -> T) -> T {
        f(&mut self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The faults that affect connections with `peer` in `lane`, from now on.
    pub(super) fn path(&self, peer: &str, lane: Lane) -> Path {
        let rules = self.shared.rules.subscribe();
        let born = rules.borrow().last_reset;
        Path { faults: self.clone(), peer: peer.into(), lane, born, rules }
    }
}

impl Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("seed", &self.shared.seed)
            .field("faults", &self.shared.rules.borrow().faults)
            .finish_non_exhaustive()
    }
}

/// A connection's view of the faults.
#[derive(Clone)]
pub(super) struct Path {
    faults: Faults,
    peer: Arc<str>,
    lane: Lane,
    /// The number of the last reset before the connection was opened.
    born: u64,
    rules: watch::Receiver<Rules>,
}

impl Path {
    /// The current faults on one direction. [`changed`](Self::changed) reports later ones.
    pub(super) fn fault(&mut self, direction: Direction) -> Fault {
        let rules = self.rules.borrow_and_update();
        let mut fault = Fault::new();
        for (scope, other) in &rules.faults {
            if scope.has_connection(&self.peer, self.lane) && scope.has_direction(direction) {
                fault.merge(other);
            }
        }
        fault
    }

    /// The current faults on both directions together.
    pub(super) fn fault_either_way(&mut self) -> Fault {
        let mut fault = self.fault(Direction::Outgoing);
        fault.merge(&self.fault(Direction::Incoming));
        fault
    }

    /// Returns when the faults have changed, on this link or another, since they were last read.
    pub(super) async fn changed(&mut self) {
        self.rules.changed().await.expect("the sender is in `faults`");
    }

    /// Waits until the connection is reset.
    pub(super) async fn reset(&mut self) {
        while !self.is_reset() {
            self.changed().await;
        }
    }

    fn is_reset(&mut self) -> bool {
        let rules = self.rules.borrow_and_update();
        let mut resets = rules.resets.iter();
        resets.any(|(scope, reset)| *reset > self.born && scope.has_connection(&self.peer, self.lane))
    }

    /// The seeds of the fates on the next connection on this path, by direction. `opened` means that this end opened
    /// the connection.
    pub(super) fn seeds(&self, opened: bool) -> impl Fn(Direction) -> u64 + use<> {
        let peer = opened.then(|| self.peer.to_string());
        let connection = self.faults.tally(|tally| {
            let connections = tally.connections.entry((peer.clone(), self.lane)).or_default();
            *connections += 1;
            *connections
        });
        let (seed, lane) = (self.faults.shared.seed, self.lane);
        move |direction| stream_seed(seed, peer.as_deref(), lane, direction, connection)
    }

    pub(super) fn count(&self, direction: Direction, add: impl FnOnce(&mut Counts)) {
        self.faults.tally(|tally| add(tally.counts.entry((self.lane, direction)).or_default()));
    }

    /// A permit for one direction to outlive the user of its connection, if there are not too many such permits.
    pub(super) fn linger(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.faults.shared.lingering).try_acquire_owned().ok()
    }
}

impl Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Path").field("peer", &self.peer).field("lane", &self.lane).finish_non_exhaustive()
    }
}
