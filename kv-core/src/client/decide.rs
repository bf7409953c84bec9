//! The client's decisions, pure: no clock, no I/O, no randomness but the seed it is given.

use super::call::{CoreInput, CoreOptions, CoreOutput};
use crate::ids::{Instant, MemberId};

/// The client's decisions. One mutation, then drain: call [`handle`](Self::handle), then [`poll_output`](Self::poll_output)
/// until it returns `None`, carrying out each output in order; then look at [`poll_timeout`](Self::poll_timeout) and call
/// `handle(now, CoreInput::Timeout)` at that time.
#[derive(Debug)]
pub struct Core {}

impl Core {
    /// A client of these data members (witnesses answer no calls).
    ///
    /// # Panics
    /// Without members.
    #[must_use]
    pub fn new(seed: u64, members: Vec<MemberId>, options: CoreOptions, now: Instant) -> Self {
        let _ = (seed, members, options, now);
        unimplemented!()
    }

    /// Takes in what happened.
    pub fn handle(&mut self, now: Instant, input: CoreInput) {
        let _ = (now, input);
        unimplemented!()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<CoreOutput> {
        unimplemented!()
    }

    /// When to call with [`CoreInput::Timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// Calls that have begun and not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        unimplemented!()
    }

    /// Asserts what must hold between two inputs; call it after each step in tests and simulation.
    ///
    /// # Panics
    /// If something is wrong in here.
    pub fn check_invariants(&self) {
        unimplemented!()
    }
}
