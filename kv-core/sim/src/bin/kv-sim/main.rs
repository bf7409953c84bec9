//! `kv-sim`: simulated clusters under random faults, one run for each seed.

mod bugs;
mod mutated;
mod output;
mod sweep;

use clap::Parser;
use kv_sim::{Bug, Options};
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Simulate whole clusters under random faults, one run per seed.
#[derive(Parser, Debug)]
#[command(
    name = "kv-sim",
    version,
    after_help = "Exit codes: 0 done, 1 an invariant was broken, 2 wrong usage."
)]
struct Args {
    /// Run these seeds: FIRST is included, END is not.
    #[arg(long, value_name = "FIRST..END", default_value = "0..1000", value_parser = parse_seeds)]
    seeds: Range<u64>,

    /// Run only this seed.
    #[arg(long, value_name = "SEED", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// With --seed: print the last events before the violation, if there is one.
    #[arg(long, requires = "seed")]
    verbose: bool,

    /// Print this many events with --verbose.
    #[arg(long, value_name = "N", default_value_t = sweep::EVENTS)]
    events: usize,

    /// Simulate months: heartbeats every 5 or 10 s, faults hours or days apart, and occasional client calls.
    #[arg(long, conflicts_with = "bugs")]
    long: bool,

    /// Run long simulations, from the first seed on, until this many years have been simulated in total.
    #[arg(long, value_name = "N", conflicts_with_all = ["seed", "bugs"])]
    years: Option<u32>,

    /// Run this many seeds at once [default: the number of cores]
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,

    /// Check that the simulator detects every seeded bug: by the scripted scenario for it, or else by seeds. Print the
    /// name of the scenario, or how many seeds it took. Exit with code 1 if a bug is not detected at all. Builds a copy
    /// of the workspace that has the bugs.
    #[arg(long, conflicts_with_all = ["seed", "bug"])]
    bugs: bool,

    /// Run with this seeded bug. Builds a copy of the workspace that has it.
    #[arg(long, value_name = "NAME", value_parser = parse_bug)]
    bug: Option<Bug>,

    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,

    /// Log to standard error what the simulated members log: a level, or levels per module as in `info,kv_core=debug`.
    #[arg(long, value_name = "FILTER", default_value = "off")]
    log: Targets,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    tracing_subscriber::registry().with(lines).with(args.log.clone()).init();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::print_error(failure);
            ExitCode::FAILURE
        }
    }
}

/// Runs what the arguments ask for.
///
/// # Errors
/// If an invariant was broken, a seeded bug was not detected, or the result cannot be written.
fn run(args: &Args) -> Result<(), String> {
    let is_elsewhere = args.bug.is_some_and(|bug| !kv_sim::has(bug));
    if (args.bugs || is_elsewhere) && !kv_sim::MUTATED {
        return mutated::run();
    }
    let long = args.long || args.years.is_some();
    let options = Options { bug: args.bug, long, ..Options::default() };
    if let Some(seed) = args.seed {
        let trace = if args.verbose { args.events } else { 0 };
        return sweep::one(seed, &Options { trace, ..options }, args.json);
    }
    if args.bugs {
        return bugs::run(&args.seeds, args.jobs, args.json);
    }
    let began = Instant::now();
    let total = match args.years {
        Some(years) => {
            sweep::run(args.seeds.start..u64::MAX, years * sweep::YEAR, &options, args.jobs, args.json)
        }
        None => sweep::run(args.seeds.clone(), Duration::MAX, &options, args.jobs, args.json),
    };
    total.print(began.elapsed(), args.json)
}

fn threads(jobs: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    jobs.unwrap_or(cores).max(1)
}

/// Reads `A..B`.
fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || "write it as FIRST..END, as in 0..1000".to_owned();
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let range = first.parse().map_err(|_| wrong())?..end.parse().map_err(|_| wrong())?;
    if range.is_empty() { Err("it holds no seed: the end is not part of it".to_owned()) } else { Ok(range) }
}

/// Reads the name of a seeded bug.
fn parse_bug(text: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| format!("it is one of {:?}", Bug::ALL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_range_without_its_end() {
        assert_eq!(parse_seeds("0..2000"), Ok(0..2000));
        assert!(parse_seeds("5..5").is_err());
        assert!(parse_seeds("7").is_err());
        assert!(parse_seeds("a..b").is_err());
    }

    #[test]
    fn seeded_bugs_are_selected_by_name() {
        assert_eq!(parse_bug("AckBeforeSync"), Ok(Bug::AckBeforeSync));
        assert!(parse_bug("none").is_err());
    }
}
