//! The numbers of the protocol. Each has a type of its own, with only the arithmetic that makes sense.

use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use std::time::Duration;

/// Every counter that is decoded is below this: far above what can be counted, and so far below `u64::MAX` that
/// arithmetic never overflows.
const COUNTER_END: u64 = 1 << 62;

/// Gives a newtype its constructor, its accessor and its display.
macro_rules! number {
    ($name:ident($plain:ty), $shown:literal) => {
        #[allow(dead_code, reason = "every number has both, whether they are needed or not")]
        impl $name {
            /// Wraps a plain number.
            #[must_use]
            pub const fn new(value: $plain) -> Self {
                Self(value)
            }

            /// The plain number.
            #[must_use]
            pub const fn get(self) -> $plain {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $shown, self.0)
            }
        }
    };
}

/// Declares a counter newtype: ordered, serialisable, with `ZERO`, `next` and a short display. To decode one that is
/// not below [`COUNTER_END`] is an error, wherever the bytes come from.
macro_rules! counter {
    ($(#[$doc:meta])* $name:ident, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
        pub struct $name(u64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match u64::deserialize(deserializer)? {
                    value if value < COUNTER_END => Ok(Self(value)),
                    value => Err(D::Error::invalid_value(Unexpected::Unsigned(value), &"a number below 2^62")),
                }
            }
        }

        #[allow(dead_code, reason = "every counter has the same arithmetic, whether it is needed or not")]
        impl $name {
            /// The smallest value.
            pub const ZERO: Self = Self(0);

            /// The next number.
            ///
            /// # Panics
            /// At `u64::MAX`. Numbers from outside are below 2^62.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a counter ran past u64::MAX"))
            }

            /// The number before this one; zero at zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }

            /// This number plus `count`.
            ///
            /// # Panics
            /// Beyond `u64::MAX`.
            #[must_use]
            pub const fn advance(self, count: u64) -> Self {
                Self(self.0.checked_add(count).expect("a counter ran past u64::MAX"))
            }

            /// This number minus `count`; at least zero.
            #[must_use]
            pub const fn back(self, count: u64) -> Self {
                Self(self.0.saturating_sub(count))
            }

            /// This number, or the greatest that can be sent: whatever is numbered like that never comes.
            #[must_use]
            pub(crate) fn sendable(self) -> Self {
                self.min(Self(COUNTER_END - 1))
            }

            /// How far this number is above `other`; zero if it is not above.
            #[must_use]
            pub const fn distance_from(self, other: Self) -> u64 {
                self.0.saturating_sub(other.0)
            }
        }

        number!($name(u64), "{}");

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }
    };
}

counter!(
    /// The index of an entry in the replicated log. The first entry is op 1; op 0 is the empty log.
    Op, "o"
);
counter!(
    /// The position of a change in the committed history, and the version number that applications see. Revisions are
    /// unique and have no gaps. Each request that can change keys takes the next revision, whether or not it changes a
    /// key. The first revision is 1.
    Revision, "r"
);
counter!(
    /// A client's number for a request within its session. The first is 1, and a retry keeps its number.
    RequestNumber, "n"
);
counter!(
    /// The id of a client session: the number, in the log, of the request that opened it (rule E1). Zero means no
    /// session.
    SessionId, "s"
);
counter!(
    /// The id of a lease: the number, in the log, of the request that granted it (rule E1).
    LeaseId, "l"
);
counter!(
    /// A read round, numbered by the primary within its view.
    Round, "c"
);
counter!(
    /// The number of a period in the life of a log. A cut of the log ends one period and begins the next. Every block
    /// on disk contains the incarnation in which it was written.
    Incarnation, "i"
);
counter!(
    /// The position of a write in the order in which a replica requested it; see [`Output::Write`].
    ///
    /// [`Output::Write`]: crate::replica::Output::Write
    WriteSeq, "w"
);
counter!(
    /// A point of monotonic time, in nanoseconds since the node (or the simulation) started.
    Instant, "t"
);
counter!(
    /// A time in milliseconds since 1970-01-01 UTC: on the cluster's clock, which gives every log entry its stamp, or
    /// on a wall clock.
    Timestamp, "T"
);

/// The number of an epoch: a period with one list of members, which consists of views. The cluster forms in epoch 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch(u32);

number!(Epoch(u32), "{}");

impl Epoch {
    /// The epoch in which a cluster forms.
    pub const ZERO: Self = Self(0);

    /// The next epoch.
    ///
    /// # Panics
    /// At `u32::MAX`. Epochs from outside are below 2^22.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("an epoch ran past u32::MAX"))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// The number of a view: a period with one primary. The numbers only grow.
//
// A view belongs to an epoch, and every view of an epoch is later than all views of earlier epochs. It is one number,
// of which the greatest bits are the epoch. So a comparison of two views compares their epochs first. A view of epoch 0
// is printed as its number (`7`), and a view of a later epoch as the epoch and its number within the epoch (`2.7`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct View(u64);

impl View {
    /// The first view of epoch 0.
    pub const ZERO: Self = Self(0);

    /// How many bits the number within the epoch has.
    const NUMBER_BITS: u32 = 40;

    /// Every number within an epoch that is decoded is below this: so far below 2^40 that no view is counted into the
    /// next epoch.
    const NUMBER_END: u64 = 1 << (Self::NUMBER_BITS - 1);

    /// The view with this [plain number](Self::get).
    #[must_use]
    pub const fn new(value: u64) -> Self {
        Self(value)
    }

    /// The plain number.
    //
    // The epoch is in the bits above the lowest 40, and the number within the epoch in those.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The next view.
    ///
    /// # Panics
    /// At the last number, 2^40 - 1. Numbers from outside are below 2^39.
    #[must_use]
    pub const fn next(self) -> Self {
        Self::of(self.epoch(), self.number() + 1)
    }

    /// The view `number` of `epoch`; `None` if there can be none.
    pub(crate) fn of_number(epoch: Epoch, number: u64) -> Option<Self> {
        let fits = number < Self::NUMBER_END && u64::from(epoch.0) < COUNTER_END >> Self::NUMBER_BITS;
        fits.then(|| Self::of(epoch, number))
    }

    /// Whether this can be a view: its numbers are not near the ends of their ranges.
    pub(crate) const fn is_sane(self) -> bool {
        self.0 < COUNTER_END && self.number() < Self::NUMBER_END
    }
}

/// The parts of views. Applications only compare and print views.
macro_rules! parts_of_views {
    ($visible:vis) => {
        impl View {
            /// The view `number` of `epoch`.
            ///
            /// # Panics
            /// If `number` is not below 2^40.
            #[must_use]
            $visible const fn of(epoch: Epoch, number: u64) -> Self {
                assert!(number >> Self::NUMBER_BITS == 0, "a view is counted within its epoch");
                Self((epoch.0 as u64) << Self::NUMBER_BITS | number)
            }

            /// The epoch to which it belongs.
            #[must_use]
            $visible const fn epoch(self) -> Epoch {
                Epoch((self.0 >> Self::NUMBER_BITS) as u32)
            }

            /// Its number within the epoch.
            #[must_use]
            $visible const fn number(self) -> u64 {
                self.0 & ((1 << Self::NUMBER_BITS) - 1)
            }
        }
    };
}

#[cfg(feature = "internals")]
parts_of_views!(pub);
#[cfg(not(feature = "internals"))]
parts_of_views!(pub(crate));

impl<'de> Deserialize<'de> for View {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u64::deserialize(deserializer)?;
        let expected = &"an epoch below 2^22, and a number below 2^39 within it";
        Some(Self(value))
            .filter(|view| view.is_sane())
            .ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(value), expected))
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.epoch() {
            Epoch::ZERO => write!(f, "{}", self.number()),
            epoch => write!(f, "{epoch}.{}", self.number()),
        }
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{self}")
    }
}

impl Instant {
    /// This point plus `duration` (saturating).
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }

    /// The time from `earlier` to this point; zero if it is not earlier.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// The id of a configured member of a cluster. One id is never used for two different disks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct MemberId(u8);

number!(MemberId(u8), "{}");

impl fmt::Debug for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{}", self.0)
    }
}

/// Identifies a cluster: the 128-bit xxh3 hash of its name. Members of different clusters refuse each other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClusterId(u128);

impl ClusterId {
    /// The id of the cluster with this name.
    #[must_use]
    pub fn of_name(name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(name.as_bytes()))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

number!(ClusterId(u128), "{:032x}");

/// A 128-bit xxh3 hash: of an entry's header (and so, by the chain, of the whole log below it), of a body, of a state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hash(u128);

impl Hash {
    /// The hash that stands for "nothing before": the parent of the first entry.
    pub const ZERO: Self = Self(0);

    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(xxhash_rust::xxh3::xxh3_128(bytes))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:08x}", self.0 >> 96)
    }
}

number!(Hash(u128), "{:032x}");

/// An op together with the hash of its entry: a point of one particular log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Anchor {
    /// The op number.
    pub op: Op,
    /// The hash of the entry at that op.
    pub hash: Hash,
}

impl Anchor {
    /// The empty log.
    pub const ZERO: Self = Self { op: Op::ZERO, hash: Hash::ZERO };

    /// The point `op` of the log whose entry at that op has `hash`.
    #[must_use]
    pub const fn new(op: Op, hash: Hash) -> Self {
        Self { op, hash }
    }
}

impl fmt::Debug for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}{:?}", self.op, self.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Epoch = Epoch::new(2);
    const LAST: Epoch = Epoch::new((1 << 22) - 1);

    #[test]
    fn m4_views_of_a_later_epoch_are_later() {
        let views = [
            View::ZERO,
            View::of(Epoch::ZERO, 7),
            View::of(Epoch::ZERO, 1 << 38),
            View::of(Epoch::new(1), 0),
            View::of(Epoch::new(1), 9),
            View::of(SECOND, 7),
            View::of(LAST, 0),
        ];
        assert!(views.is_sorted_by(|one, next| one < next), "{views:?}");
        for view in views {
            assert_eq!(View::of(view.epoch(), view.number()), view);
            assert_eq!((view.next().epoch(), view.next().number()), (view.epoch(), view.number() + 1));
        }
        let texts: Vec<String> = views[1..].iter().map(|view| format!("{view} {view:?}")).collect();
        assert_eq!(texts[0], "7 v7");
        assert_eq!(texts[4], "2.7 v2.7");
    }

    #[test]
    fn a_view_of_epoch_0_is_encoded_as_before_epochs() {
        for number in [0_u64, 1, 127, 128, 300, (1 << 39) - 1] {
            let before = postcard::to_stdvec(&number).unwrap();
            assert_eq!(postcard::to_stdvec(&View::of(Epoch::ZERO, number)).unwrap(), before);
            assert_eq!(postcard::from_bytes::<View>(&before), Ok(View::new(number)));
        }
    }

    #[test]
    fn a_view_that_could_be_counted_into_the_next_epoch_is_refused() {
        let decoded = |value: u64| postcard::from_bytes::<View>(&postcard::to_stdvec(&value).unwrap());
        let far = View::of(LAST, (1 << 39) - 1);
        assert_eq!(decoded(far.get()), Ok(far));
        assert_eq!(far.next().epoch(), LAST);
        for value in [1 << 39, (1 << 40) - 1, far.get() + 1, COUNTER_END, u64::MAX] {
            assert!(decoded(value).is_err(), "{value:x}");
        }
    }
}
