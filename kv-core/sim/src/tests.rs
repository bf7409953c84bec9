//! Runs of the simulator itself.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

/// How many seeds a seeded bug may take.
const SEEDS: u64 = 2000;

/// Runs a seed. A violation is shown with its events.
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
fn some_seeds_pass_and_cover_rare_events() {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    // The last one gives a state up.
    for seed in (0..60).chain([419]) {
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
        "revisions delivered to watchers in pieces",
        "sessions closed",
        "states given up",
        "states transferred",
        "transactions",
        "transactions with a failed step",
        "trims",
        "views served",
        "wall clocks of a majority set",
        "watchers that went away",
        "watchers that found history compacted",
        "watches looked at again",
        "watches sent elsewhere",
        "watches answered with progress",
        "writes lost in a crash",
    ] {
        assert!(counts.get(what).is_some_and(|count| *count > 0), "no {what} in these seeds: {counts:?}");
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
fn seeds_that_failed_once_pass() {
    for (seed, _) in regressions::SEEDS {
        expect_clean(*seed);
    }
}

/// Runs seeds with a bug until it is detected.
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
    catches_a_put_that_one_member_applies_wrongly: AppliesAPutWrongly,
    catches_a_past_that_is_the_present: PastIsPresent,
    catches_options_that_change_between_lives: OptionsOfThisLife,
    catches_a_watch_that_passes_over_what_is_compacted: WatchesSkipWhatIsGone,
    catches_a_watch_that_tells_what_is_not_committed: WatchesTellUncommitted,
}

/// Rule S1 of PROTOCOL.md: the member itself detects it, and stops.
#[test]
fn s1_a_member_that_applies_a_put_wrongly_halts() {
    let options = Options { bug: Some(Bug::AppliesAPutWrongly), ..Options::default() };
    let mut halted = 0;
    for seed in 0..20 {
        let Some(violation) = run(seed, &options).violation else { continue };
        let found = violation.detail.starts_with("m1: the state after op");
        halted += u64::from(violation.invariant == "no member halts" && found);
    }
    // In the other runs the simulator, which reads whole states, was first.
    assert!(halted >= 5, "in {halted} of 20 seeds");
}

/// `kv-sim --bugs` runs them all.
#[test]
fn every_mutant_is_a_seeded_bug_and_names_the_rule_it_breaks() {
    let known: BTreeSet<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    let mutants: Vec<&str> = mutants::names().collect();
    assert_eq!(mutants.iter().filter(|name| !known.contains(*name)).count(), 0, "{mutants:?}");
    assert_eq!(mutants.iter().collect::<BTreeSet<_>>().len(), mutants.len(), "each is there once");
    for group in mutants::groups().unwrap() {
        assert!(!group.hunks.is_empty(), "{:?} edits nothing", group.names);
    }
    for (name, says) in mutants::descriptions() {
        let rule = says.strip_prefix("Breaks rule ").and_then(|says| says.split_once(": "));
        assert!(rule.is_some_and(|(rule, _)| rule.len() < 4), "{name}: {says}");
    }
}

/// The bugs of the simulator itself are in this build, and the scenarios about them are run with them.
#[test]
fn a_build_without_mutants_has_only_the_bugs_of_the_simulator() {
    assert!(has(Bug::NoSync) && has(Bug::AckBeforeSync));
    assert!(!has(Bug::LeavesAlone) && !has(Bug::RetryRenumbered));
}
