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

#[test]
#[ignore]
fn hunt() {
    let from: u64 = std::env::var("KV_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::var("KV_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    for &bug in Bug::ALL {
        if std::env::var("KV_BUG").is_ok_and(|name| name != format!("{bug:?}")) {
            continue;
        }
        let found = (from..from + count)
            .find_map(|seed| run(seed, &Options { bug: Some(bug), trace: 0 }).violation.map(|v| (seed, v)));
        match found {
            Some((seed, v)) => println!(
                "{bug:?}: seed {seed}: {}: {}",
                v.invariant,
                &v.detail.chars().take(150).collect::<String>()
            ),
            None => println!("{bug:?}: NOT FOUND"),
        }
    }
}
