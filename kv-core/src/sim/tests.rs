//! Runs of the simulator itself.

use super::*;

/// Runs these seeds; the first violation is printed with its events.
fn expect_clean(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let report = run(seed, &Options::default());
        if report.violation.is_some() {
            let again = run(seed, &Options { trace: 50, ..Options::default() });
            let violation = again.violation.expect("the same seed gives the same run");
            panic!("{}\nseed {seed}: {violation}", violation.events.join("\n"));
        }
    }
}

#[test]
fn some_seeds_are_clean() {
    expect_clean(0..20);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in 0..5 {
        let (first, second) = (run(seed, &Options::default()), run(seed, &Options::default()));
        assert_eq!(first, second);
        let traced = run(seed, &Options { trace: 50, ..Options::default() });
        assert_eq!((first.trace_hash, first.events), (traced.trace_hash, traced.events));
    }
}

/// Seed 1783: a segment with damage in it was given back and used again as it was, and its next life looked damaged.
#[test]
fn a_damaged_segment_is_filled_anew_before_it_is_used_again() {
    expect_clean(1783..1784);
}
