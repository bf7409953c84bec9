//! The input and the result of a run.

use super::Bug;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A difference between model and reality: the invariant and what was found.
pub(super) type Finding = (&'static str, String);

/// The result of a check.
pub(super) type Checked = Result<(), Finding>;

/// How to run a seed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// The seeded bug to run with.
    pub bug: Option<Bug>,
    /// Plans of months instead of seconds: slow heartbeats, faults hours or days apart. A run takes seconds.
    pub long: bool,
    /// How many of the last events to keep as text, for [`Violation::events`]. Slower; changes nothing else.
    pub trace: usize,
}

/// In [`Report::counts`]: the members that returned at the end could not continue without the absent ones.
pub const EXCUSED: &str = "runs excused";

/// In [`Report::counts`]: the states of all data members were damaged, and their intact parts could not be combined.
pub const STATELESS: &str = "runs without a state left";

/// The result of a run.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened: equal for equal seeds and options.
    pub trace_hash: u64,
    /// How many calls of clients ended, with any result.
    pub operations: u64,
    /// The simulated time that passed.
    pub simulated: Duration,
    /// How many simulated events there were.
    pub events: u64,
    /// How often situations that are worth testing occurred.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first violated invariant.
    pub violation: Option<Violation>,
}

/// A violated invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
    /// When, in simulated time.
    pub at: Duration,
    /// The last events before it, if a trace was kept.
    pub events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.invariant, self.at, self.detail)
    }
}
