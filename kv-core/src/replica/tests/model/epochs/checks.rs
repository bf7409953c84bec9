//! What must hold in every state, and the runs.

use super::state::{Entry, Member, Mode, ModelState};
use super::{Config, Epochs, Mistake};
use crate::ids::Epoch;
use stateright::{Checker, HasDiscoveries, Model, Property};

const AGREEMENT: &str = "one entry is committed at an op, whatever the epoch";
const KEPT: &str = "what is committed is in the log of every later view";
const ENDS: &str = "the log of a member ends at the stop of its epoch";
const STANDS: &str = "the epoch of a member is that of its state";
const TOGETHER: &str = "nobody is told another log than the committed one";
const GOES_ON: &str = "the newest epoch can commit another entry";
const CHANGED: &str = "the last epoch commits an entry of its own";
const APART: &str = "a member is as many epochs behind another as there are stops";

pub(super) fn properties() -> Vec<Property<Epochs>> {
    vec![
        Property::always(AGREEMENT, |_, state: &ModelState| {
            let committed: Vec<&Entry> = state.committed.iter().map(|(_, entry)| entry).collect();
            committed.iter().all(|one| committed.iter().all(|other| one == other || one.op != other.op))
        }),
        Property::always(KEPT, |_, state: &ModelState| {
            let later = |view| state.started.iter().filter(move |started| started.view > view);
            state
                .committed
                .iter()
                .all(|(view, entry)| later(*view).all(|started| started.log.contains(entry)))
        }),
        Property::always(ENDS, |_, state: &ModelState| {
            let ends = |member: &Member| {
                let structure =
                    member.log.windows(2).all(|pair| pair[0].next_epoch() == pair[1].view.epoch());
                structure && member.log.iter().all(|entry| entry.view.epoch() <= member.epoch())
            };
            state.members.iter().all(ends)
        }),
        Property::always(STANDS, |_, state: &ModelState| {
            let stands = |member: &Member| {
                let state = member.entry(member.base);
                state.is_none_or(|last| last.next_epoch() <= member.epoch())
            };
            state.members.iter().all(stands)
        }),
        Property::always(TOGETHER, |_, state: &ModelState| !state.diverged),
        Property::always(GOES_ON, Epochs::can_finish),
        Property::sometimes(CHANGED, |model: &Epochs, state: &ModelState| {
            let last = Epoch::new(u32::from(model.stops));
            state.committed.iter().any(|(_, entry)| entry.view.epoch() == last)
        }),
        Property::sometimes(APART, |model: &Epochs, state: &ModelState| {
            let epochs = || state.members.iter().filter(|it| it.mode != Mode::Out).map(|it| it.epoch().get());
            let apart = epochs().max().unwrap_or(0) - epochs().min().unwrap_or(0);
            apart >= u32::from(model.stops)
        }),
    ]
}

/// Member 3 is a standby at first, and replaces member 1 or member 0. Then member 2 goes too.
const REPLACING: [Config; 4] = [
    Config { voters: &[0, 1, 2], standbys: &[3] },
    Config { voters: &[0, 2, 3], standbys: &[] },
    Config { voters: &[1, 2, 3], standbys: &[] },
    Config { voters: &[0, 3], standbys: &[] },
];

/// Member 1 becomes a standby.
const DEMOTING: [Config; 2] =
    [Config { voters: &[0, 1, 2], standbys: &[3] }, Config { voters: &[0, 2, 3], standbys: &[1] }];

/// All members that know the stop may be removed by it.
const REMOVING: [Config; 2] =
    [Config { voters: &[0, 1, 2], standbys: &[3] }, Config { voters: &[2, 3], standbys: &[] }];

fn model() -> Epochs {
    Epochs {
        members: 4,
        configs: &REPLACING,
        next: &[&[1], &[3]],
        stops: 1,
        views: [1, 1, 0],
        usual_first: false,
        last_op: 2,
        restarts: 0,
        wipes: 0,
        newcomer: 3,
        snapshots: false,
        only_the_living: false,
        finishes: false,
        mistake: None,
    }
}

/// All states within the bounds. Nothing committed is ever lost, and it is possible to get through.
fn explore(model: Epochs) {
    let checker = model.clone().checker().threads(2).spawn_bfs().join();
    println!("{model:?}: {} states, depth {}", checker.unique_state_count(), checker.max_depth());
    for property in [AGREEMENT, KEPT, ENDS, STANDS, TOGETHER, GOES_ON] {
        checker.assert_no_discovery(property);
    }
    for property in [CHANGED, APART] {
        checker.assert_any_discovery(property);
    }
}

/// View changes before and after a change, whoever knows of it.
#[test]
fn a_change_between_two_view_changes_loses_nothing() {
    explore(Epochs { views: [1, 1, 0], ..model() });
}

/// The stop is prepared, and the next primary proposes another one, or orders a usual request in its place.
#[test]
fn changes_that_compete_lose_nothing() {
    explore(Epochs { next: &[&[1, 2]], views: [1, 0, 0], usual_first: true, ..model() });
}

/// A laggard may be two epochs behind.
#[test]
fn a_view_change_and_two_changes_lose_nothing() {
    explore(Epochs { stops: 2, views: [1, 0, 0], last_op: 3, ..model() });
}

#[test]
fn two_changes_and_a_view_change_between_them_lose_nothing() {
    explore(Epochs { stops: 2, views: [0, 1, 0], last_op: 3, ..model() });
}

#[test]
fn two_changes_with_snapshots_and_a_crash_lose_nothing() {
    explore(Epochs { stops: 2, views: [0, 0, 0], last_op: 3, snapshots: true, restarts: 1, ..model() });
}

#[test]
fn t4_a_state_of_a_later_epoch_and_a_view_change_lose_nothing() {
    explore(Epochs { views: [0, 1, 0], snapshots: true, ..model() });
}

/// A state may have been committed in a later view than that of a deposed primary that still runs.
#[test]
#[ignore = "takes minutes without optimisation: cargo test --release -p kv-core --lib replica::tests::model -- --ignored"]
fn t4_a_state_of_a_later_epoch_and_two_view_changes_lose_nothing() {
    explore(Epochs { configs: &DEMOTING, next: &[&[1]], views: [0, 2, 0], snapshots: true, ..model() });
}

/// The newcomer is wiped at any time, and starts again through any member.
#[test]
fn a_newcomer_that_is_wiped_and_a_view_change_lose_nothing() {
    explore(Epochs { views: [0, 1, 0], wipes: 1, ..model() });
}

/// Whoever knows of a change tells the others, even if it is removed. If nobody is left who knows, the old voters
/// commit the stop again.
#[test]
fn no_state_is_a_dead_end() {
    explore(Epochs { views: [1, 0, 0], restarts: 1, finishes: true, ..model() });
    let removing = Epochs { configs: &REMOVING, next: &[&[1]], ..model() };
    explore(Epochs { views: [1, 0, 0], restarts: 1, finishes: true, ..removing });
}

fn finds(mistake: Mistake, harm: &[&'static str], bounds: Epochs) {
    let model = Epochs { mistake: Some(mistake), ..bounds };
    let found = HasDiscoveries::AnyOf(harm.iter().copied().collect());
    let checker = model.checker().threads(2).finish_when(found).spawn_bfs().join();
    let found = checker.discoveries();
    let path = harm.iter().find_map(|property| found.get(property));
    let path = path.unwrap_or_else(|| {
        panic!("{mistake:?} is not noticed in {} states: {:?}", checker.unique_state_count(), found.keys())
    });
    println!("{mistake:?}: {} states, {:?}", checker.unique_state_count(), path.clone().into_actions());
}

/// What harms clients.
const LOSS: [&str; 2] = [AGREEMENT, KEPT];

#[test]
fn notices_entering_on_an_uncommitted_stop() {
    finds(Mistake::EnterUncommitted, &LOSS, Epochs { views: [1, 0, 0], ..model() });
}

#[test]
fn notices_views_that_are_compared_by_their_numbers() {
    finds(Mistake::NumbersNotPairs, &LOSS, Epochs { views: [1, 1, 0], ..model() });
}

#[test]
fn notices_a_log_that_goes_on_behind_a_stop() {
    finds(Mistake::AppendPastStop, &LOSS, Epochs { views: [1, 0, 0], last_op: 3, ..model() });
}

#[test]
fn notices_a_state_that_is_adopted_without_its_members() {
    let bounds = Epochs { views: [1, 0, 0], last_op: 3, snapshots: true, ..model() };
    finds(Mistake::AdoptWithoutConfiguration, &LOSS, bounds);
}

#[test]
fn notices_a_checkpoint_that_passes_the_stop() {
    finds(Mistake::CheckpointPastStop, &LOSS, Epochs { views: [1, 0, 0], snapshots: true, ..model() });
}

#[test]
fn notices_a_view_that_is_joined_before_its_log_is_there() {
    finds(Mistake::JoinViewOfSource, &LOSS, Epochs { views: [0, 1, 0], snapshots: true, ..model() });
}

#[test]
fn notices_a_state_that_is_adopted_in_a_view_before_its_own() {
    let demoting = Epochs { configs: &DEMOTING, next: &[&[1]], ..model() };
    let bounds = Epochs { views: [0, 2, 0], snapshots: true, ..demoting };
    finds(Mistake::AdoptOlderView, &[TOGETHER], bounds);
}

#[test]
fn notices_removed_members_that_vote() {
    finds(Mistake::RemovedVotes, &LOSS, Epochs { views: [0, 1, 0], ..model() });
}

#[test]
fn notices_a_removed_member_that_ends_at_once() {
    let bounds = Epochs { configs: &REMOVING, next: &[&[1]], views: [1, 0, 0], finishes: true, ..model() };
    finds(Mistake::ExitAtEnter, &[GOES_ON], bounds);
}

#[test]
fn notices_a_voter_that_returns_with_another_disk() {
    finds(Mistake::WipedVoterReturns, &LOSS, Epochs { views: [0, 1, 0], wipes: 1, ..model() });
}

#[test]
fn notices_a_stop_that_two_quorums_judge() {
    finds(Mistake::StopJudgedTwice, &LOSS, Epochs { views: [1, 0, 0], ..model() });
}
