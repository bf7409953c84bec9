//! What must hold in every state, and the runs.

use super::state::{Entry, Mode, ModelState};
use super::{Mistake, ViewChange};
use stateright::{Checker, HasDiscoveries, Model, Property};

const AGREEMENT: &str = "one entry is committed at an op";
const KEPT: &str = "what is committed is in the log of every later view";
const PROGRESS: &str = "the last view commits what the first one did";
const REPAIRED: &str = "after damage a view starts and everyone is whole";

pub(super) fn properties() -> Vec<Property<ViewChange>> {
    vec![
        Property::always(AGREEMENT, |_, state: &ModelState| {
            let committed: Vec<&Entry> = state.committed.iter().map(|(_, entry)| entry).collect();
            committed.iter().all(|one| committed.iter().all(|other| one == other || one.op != other.op))
        }),
        Property::always(KEPT, |_, state: &ModelState| {
            let kept = |view: u8, entry: &Entry| {
                state
                    .started
                    .iter()
                    .filter(|started| started.view > view)
                    .all(|started| started.log.contains(entry))
            };
            state.committed.iter().all(|(view, entry)| kept(*view, entry))
        }),
        Property::sometimes(PROGRESS, |model: &ViewChange, state: &ModelState| {
            state.committed.iter().any(|(view, _)| *view == 0)
                && state.acknowledged(model.last_view, model.majority()) > 0
        }),
        Property::sometimes(REPAIRED, |_, state: &ModelState| {
            let damaged = state.members.iter().filter(|member| member.mode == Mode::Damaged).count();
            state.damages > 0 && damaged == 0 && !state.started.is_empty()
        }),
    ]
}

/// Three members, of which one damaged disk or two.
fn bounds(last_view: u8, last_op: u8, restarts: u8, damages: u8) -> ViewChange {
    ViewChange { members: 3, last_view, last_op, restarts, damages, mistake: None }
}

/// All states within the bounds. Nothing committed is ever lost, and it is possible to get through.
fn explore(model: ViewChange) {
    let checker = model.clone().checker().threads(2).spawn_bfs().join();
    println!("{model:?}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_no_discovery(AGREEMENT);
    checker.assert_no_discovery(KEPT);
    checker.assert_any_discovery(PROGRESS);
    if model.damages > 0 {
        checker.assert_any_discovery(REPAIRED);
    }
}

/// Rules V3 to V9 and N4 of PROTOCOL.md together, in all orders of events within the bounds.
#[test]
fn v5_two_view_changes_and_a_crash_lose_nothing() {
    explore(bounds(2, 1, 1, 0));
}

/// Rules V5 and D6 of PROTOCOL.md: every choice of votes, and every entry that a disk can lose.
#[test]
fn v5_a_view_change_with_two_ops_a_crash_and_damage_loses_nothing() {
    explore(bounds(1, 2, 1, 1));
}

/// The same with a third view.
#[test]
#[ignore = "takes minutes without optimisation: cargo test --release -p kv-core --lib replica::tests::model -- --ignored"]
fn v5_two_view_changes_with_two_crashes_and_damage_lose_nothing() {
    explore(bounds(2, 1, 2, 1));
}

/// The same entry may be damaged twice, and a repair may be cut short.
#[test]
fn v5_a_view_change_with_two_crashes_and_two_damaged_entries_loses_nothing() {
    explore(bounds(1, 1, 2, 2));
}

fn finds(mistake: Mistake, bounds: ViewChange) {
    let model = ViewChange { mistake: Some(mistake), ..bounds };
    let checker = model.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discoveries();
    let path = found.get(AGREEMENT).or_else(|| found.get(KEPT));
    let path = path
        .unwrap_or_else(|| panic!("{mistake:?} is not noticed in {} states", checker.unique_state_count()));
    println!("{mistake:?}: {} states, {:?}", checker.unique_state_count(), path.clone().into_actions());
}

#[test]
fn notices_a_faulty_entry_reported_as_absent() {
    finds(Mistake::FaultyIsAbsent, bounds(1, 1, 1, 1));
}

#[test]
fn notices_damage_forgotten() {
    finds(Mistake::ForgetDamage, bounds(1, 1, 1, 1));
}

#[test]
fn notices_a_primary_that_resumes_its_view() {
    finds(Mistake::ResumeView, bounds(1, 1, 2, 0));
}

#[test]
fn notices_a_log_view_that_is_durable_before_its_log() {
    finds(Mistake::LogViewEarly, bounds(2, 1, 1, 0));
}

#[test]
fn notices_a_suffix_kept_above_the_head_of_start_view() {
    finds(Mistake::KeepSuffix, bounds(2, 1, 1, 0));
}

#[test]
fn notices_an_acknowledgement_before_the_sync() {
    finds(Mistake::AckBeforeSync, bounds(1, 1, 1, 0));
}
