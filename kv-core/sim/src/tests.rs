//! Runs of the simulator itself.

use super::*;
use std::collections::BTreeMap;

/// How many seeds a seeded bug may take.
const SEEDS: u64 = 2000;

/// Runs a seed; a violation is shown with its events.
fn expect_clean(seed: u64) -> Report {
    let report = run(seed, &Options::default());
    if report.violation.is_some() {
        let again = run(seed, &Options { trace: 50, ..Options::default() });
        let violation = again.violation.expect("the same seed gives the same run");
        panic!("{}\nseed {seed}: {violation}", violation.events.join("\n"));
    }
    report
}

#[test]
fn some_seeds_are_clean_and_come_across_what_is_rare() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for seed in 0..60 {
        for (what, count) in expect_clean(seed).counts {
            *counts.entry(what).or_default() += count;
        }
    }
    for what in [
        "calls done",
        "answers to watchers",
        "calls of unknown outcome",
        "checkpoints",
        "cuts of entries",
        "disks that stopped",
        "entries fetched",
        "entries that take no revision",
        "expiries proposed",
        "kills",
        "leases granted, kept or ended",
        "leases that had ended",
        "locks got or kept",
        "other fixed options refused",
        "power cuts",
        "ranges deleted",
        "ranges read and then followed",
        "reads known to be fresh",
        "requests rejected",
        "requests repeated",
        "revisions told to watchers in pieces",
        "sessions closed",
        "states given up",
        "states transferred",
        "transactions",
        "transactions with a failed step",
        "trims",
        "views served",
        "wall clocks of a majority set",
        "watchers that went away",
        "watchers told that it is compacted",
        "watches looked at again",
        "watches sent elsewhere",
        "watches told of progress",
        "writes lost in a crash",
    ] {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "no {what} in 60 seeds: {counts:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..8 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(first, second);
        let traced = run(seed, &Options { trace: 50, ..Options::default() });
        assert_eq!((first.trace_hash, first.events), (traced.trace_hash, traced.events));
    }
}

#[test]
fn seeds_that_failed_once_are_clean() {
    for (seed, _) in regressions::SEEDS {
        expect_clean(*seed);
    }
}

/// Runs seeds with a bug until it is caught.
fn expect_caught(bug: Bug) {
    let options = Options { bug: Some(bug), ..Options::default() };
    let caught = (0..SEEDS).find_map(|seed| Some((seed, run(seed, &options).violation?)));
    let (seed, violation) = caught.unwrap_or_else(|| panic!("{bug:?} is not caught in {SEEDS} seeds"));
    println!("{bug:?}: caught after {} seeds, by: {}", seed + 1, violation.invariant);
}

macro_rules! caught {
    ($($name:ident: $bug:ident,)*) => {
        $(#[test]
        fn $name() {
            expect_caught(Bug::$bug);
        })*

        const CAUGHT: &[Bug] = &[$(Bug::$bug),*];
    };
}

caught! {
    catches_an_acknowledgement_before_the_sync: AckBeforeSync,
    catches_a_do_view_change_before_its_view_is_durable: DoViewChangeBeforeView,
    catches_a_log_view_that_is_durable_late: LogViewLate,
    catches_a_log_view_that_is_durable_early: LogViewEarly,
    catches_a_read_without_confirmation: ReadUnconfirmed,
    catches_the_applying_of_uncommitted_entries: ApplyUncommitted,
    catches_a_cut_in_memory_only: CutInMemory,
    catches_a_checkpoint_before_its_entries_are_durable: CheckpointBeforeLog,
    catches_a_restarted_primary_that_resumes_its_view: ResumeView,
    catches_a_suffix_kept_above_the_head_of_start_view: KeepSuffix,
    catches_a_commit_number_applied_to_another_entry: CommitWhileCatchingUp,
    catches_the_own_commit_taken_as_base: OwnCommitAsBase,
    catches_duplicates_looked_for_at_proposal: DedupAtProposal,
    catches_a_retry_under_a_new_number: RetryRenumbered,
    catches_a_retry_in_a_new_session: RetryInNewSession,
    catches_a_cut_at_the_first_bad_block: CutAtFirstBad,
    catches_one_log_of_two_believed: KeepsOneOfTwo,
    catches_damage_that_is_forgotten: DamageForgotten,
    catches_a_checkpoint_that_forgets_the_number_of_requests: CountNotInCheckpoint,
    catches_sessions_and_leases_named_by_a_revision: NamedByRevision,
    catches_time_that_goes_on_from_the_greatest_estimate: GreatestEstimate,
    catches_the_age_of_another_entry: AgeByOp,
    catches_the_arrival_of_another_entry: ArrivalOfAnother,
    catches_a_transaction_that_is_done_by_half: HalfATransaction,
    catches_a_put_that_one_member_applies_wrongly: AppliesAPutWrongly,
    catches_an_expiry_of_what_was_put_anew: ExpiresOtherPut,
    catches_an_expiry_that_comes_early: ExpiresEarly,
    catches_a_checkpoint_without_deadlines: DeadlinesNotInCheckpoint,
    catches_a_past_that_is_the_present: PastIsPresent,
    catches_options_that_change_between_lives: OptionsOfThisLife,
    catches_not_applied_said_of_what_is_unknown: FailedForUnknown,
    catches_a_watch_that_skips_the_rest_of_a_revision: WatchesSkipTheRest,
    catches_a_watch_that_asks_again_for_what_it_was_told: WatchesAskAgain,
    catches_a_watch_that_passes_over_what_is_compacted: WatchesSkipWhatIsGone,
    catches_a_watch_that_tells_what_is_not_committed: WatchesTellUncommitted,
    catches_a_watch_that_waits_for_what_has_come_already: WatchesOversleep,
}

/// Rule S1 of PROTOCOL.md: the member itself finds out, and stops.
#[test]
fn s1_a_member_that_applies_a_put_wrongly_halts_by_itself() {
    let options = Options { bug: Some(Bug::AppliesAPutWrongly), ..Options::default() };
    let mut halted = 0;
    for seed in 0..20 {
        let Some(violation) = run(seed, &options).violation else { continue };
        let told = violation.detail.starts_with("m1: the state after op");
        halted += u64::from(violation.invariant == "no member halts" && told);
    }
    // In the others the simulator, which reads whole states, was first.
    assert!(halted >= 5, "in {halted} of 20 seeds");
}

/// Bugs that a story of [`scenarios`] finds out; with random seeds they take long.
const TOLD: &[Bug] = &[
    Bug::VotesNeverExpire,
    Bug::LeavesAlone,
    Bug::SilentAbdication,
    Bug::ForgetsItsVote,
    Bug::LongestLogWins,
    Bug::FaultyCountsAsNack,
    Bug::OneNackIsEnough,
    Bug::StartViewEarly,
    Bug::FetchFromAnyLog,
    Bug::QuorumOfOneLess,
    Bug::OwnAppendCountsEarly,
    Bug::ReadRoundReused,
    Bug::ReadBelowInherited,
    Bug::FreshSinceHeard,
    Bug::FreshUnconfirmed,
    Bug::LeaseFromAnswer,
    Bug::LeaseSeenOnce,
    Bug::PromiseNotKept,
    Bug::PromiseForgotten,
    Bug::ClocksTooWrong,
    Bug::ClocksPause,
    Bug::StampOfOneClock,
    Bug::BelievesFromAnswer,
    Bug::FormOnWord,
    Bug::FormsWithoutAll,
    Bug::WipedMemberJoins,
    Bug::CheckpointRecordedEarly,
    Bug::SessionsNotInCheckpoint,
    Bug::ForgottenRuns,
    Bug::OnlyTheLastQuestionCounts,
    Bug::DamagedStateDeleted,
    Bug::MergeTakenForHang,
    Bug::NoSync,
    Bug::NoDirectorySync,
    Bug::CacheBelieved,
    Bug::FailedSyncRetried,
];

#[test]
fn every_planted_bug_has_its_test() {
    let known = |bug: &&Bug| CAUGHT.contains(bug) || TOLD.contains(bug);
    assert_eq!(Bug::ALL.iter().find(|bug| !known(bug)), None);
    let stories = [
        include_str!("scenarios/mod.rs"),
        include_str!("scenarios/clients.rs"),
        include_str!("scenarios/disks.rs"),
        include_str!("scenarios/forming.rs"),
        include_str!("scenarios/reads.rs"),
        include_str!("scenarios/states.rs"),
        include_str!("scenarios/views.rs"),
    ];
    for bug in TOLD {
        let name = format!("Bug::{bug:?}");
        assert!(stories.iter().any(|story| story.contains(&name)), "no story finds {bug:?}");
    }
}
