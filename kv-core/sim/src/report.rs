//! What goes into a run and what comes out.

use super::Bug;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// How to run a seed.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Options {
    /// A known-wrong variant to run instead of the right code.
    pub bug: Option<Bug>,
    /// Plans of months instead of seconds: slow heartbeats, faults hours or days apart. A run takes seconds.
    pub long: bool,
    /// How many of the last events to keep in words, for [`Violation::events`]. Slower; changes nothing else.
    pub trace: usize,
}

/// In [`Report::counts`]: the members that came back at the end could not go on without those that stayed away.
pub const EXCUSED: &str = "runs excused";

/// In [`Report::counts`]: the states of all data members were damaged, and what was intact of them did not make up one.
pub const STATELESS: &str = "runs without a state left";

/// What a run has found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// A hash over everything that happened: equal for equal seeds and options.
    pub trace_hash: u64,
    /// Calls of clients that ended, whichever way.
    pub operations: u64,
    /// The simulated time that passed.
    pub simulated: Duration,
    /// Simulated events carried out.
    pub events: u64,
    /// How often what is worth testing came about.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first broken invariant.
    pub violation: Option<Violation>,
}

/// A broken invariant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
    /// When, in simulated time.
    pub at: Duration,
    /// The last events before it, if they were traced.
    pub events: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:?}: {}", self.invariant, self.at, self.detail)
    }
}
