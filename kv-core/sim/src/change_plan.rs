//! What a plan says about changes of the member list.

use super::clock::{SECOND, Time};
use kv_core::config::Role;

/// Changes of the member list.
#[derive(Clone, Debug)]
pub(super) struct ChangePlan {
    /// What the machines do that are in no list at first. Their ids follow those of the founders.
    pub(super) spares: Vec<Role>,
    /// How many clients ask for changes.
    pub(super) operators: usize,
    /// The mean time between two changes.
    pub(super) pause: Time,
    /// How long an operator waits for a change.
    pub(super) patience: Time,
}

impl ChangePlan {
    /// The member list never changes.
    pub(super) const NONE: Self = Self { spares: Vec::new(), operators: 0, pause: SECOND, patience: SECOND };
}
