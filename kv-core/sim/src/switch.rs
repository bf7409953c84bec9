//! Which seeded bug of the product is on, on this thread. Only a copy of the workspace with the
//! [mutants](super::mutants) has any. The edits in `mutants/switch.txt` make this file work there.

use super::{Bug, mutants};

/// Whether this is such a copy.
pub const MUTATED: bool = false;

/// Switches to this bug, or to none; returns the one that was on.
fn set(name: Option<&'static str>) -> Option<&'static str> {
    name.and(None)
}

/// The bug stays on until this is dropped; then the one before is on again.
#[derive(Debug)]
pub(super) struct Switched {
    before: Option<&'static str>,
}

/// Switches a bug on, or all off: the code that judges a run must not have the bug.
#[must_use = "it is switched back when this is dropped"]
pub(super) fn to(bug: Option<Bug>) -> Switched {
    Switched { before: set(bug.map(Bug::name)) }
}

impl Drop for Switched {
    fn drop(&mut self) {
        set(self.before);
    }
}

/// Whether this build has the bug: those of the simulator's own parts are in every build.
pub(super) fn has(bug: Bug) -> bool {
    MUTATED || mutants::names().all(|name| name != bug.name())
}
