//! The executions that break a careless implementation, each as a story. Each cites the rule of `PROTOCOL.md` that prevents it.

use super::Bug;
use super::kind::Kind;
use super::scenario::Story;
use crate::ids::{Op, View};
use crate::replica::Status;

/// The primary dies in the middle of a write; nothing is lost, nothing happens twice.
#[test]
fn a_primary_dies_and_its_client_goes_on() {
    Story::of(3).tell(|c| {
        c.put("k", "first");
        let asked = c.begin_put(0, "k", "second");
        c.run_for(1);
        c.crash(c.primary());
        c.done(asked);
        assert_eq!(c.get("k").as_deref(), Some("second"));
    });
}
