//! `kv sim`: seeds through the simulator, as many at once as there are cores.

use crate::cli::SimArgs;
use crate::failure::Failure;
use crate::output::{self, BAD, FAINT, GOOD, STRONG, styled};
use kv_core::sim::{Bug, EXCUSED, Options, Report, STATELESS, run as run_seed, tell};
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many events are shown before a violation.
pub(crate) const EVENTS: usize = 50;

/// 365 days.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// What all seeds together came to.
#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    operations: u64,
    simulated: Duration,
    /// Runs in which those who came back could not go on without the others, and rightly waited; or could not go on at all, because nothing
    /// whole was left of any state.
    excused: u64,
    /// How often what is worth testing came about.
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

/// Runs the seeds.
///
/// # Errors
/// If an invariant was broken in one of them.
pub(crate) fn run(args: &SimArgs, json: bool) -> Result<(), Failure> {
    let long = args.long || args.years.is_some();
    let options = Options { bug: args.bug, long, ..Options::default() };
    if let Some(seed) = args.seed {
        let trace = if args.verbose { args.events } else { 0 };
        return one(seed, &Options { trace, ..options }, json);
    }
    if args.bugs {
        return bugs(&args.seeds, args.jobs, json);
    }
    let began = Instant::now();
    let total = match args.years {
        Some(years) => sweep(args.seeds.start..u64::MAX, years * YEAR, &options, args.jobs, json),
        None => sweep(args.seeds.clone(), Duration::MAX, &options, args.jobs, json),
    };
    report(&total, began.elapsed(), json).or_else(closed)?;
    if total.failed.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("{} of {} seeds broke an invariant", total.failed.len(), total.seeds)))
}

/// How a planted bug was caught.
#[derive(Debug)]
struct Catch {
    bug: Bug,
    caught: Option<Caught>,
    wall: Duration,
}

/// By what a planted bug was caught.
#[derive(Debug)]
enum Caught {
    /// It took so many seeds, and broke this invariant.
    Seeds(u64, &'static str),
    /// All seeds went by, and this story ended badly.
    Story(&'static str, String),
}

/// Every planted bug in turn, as a table.
fn bugs(seeds: &Range<u64>, jobs: Option<usize>, json: bool) -> Result<(), Failure> {
    let next = Mutex::new(Bug::ALL.iter());
    let table = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads(jobs) {
            scope.spawn(|| {
                loop {
                    let bug = next.lock().expect("no run panics with the lock held").next();
                    let Some(&bug) = bug else { return };
                    let row = catch(bug, seeds);
                    table.lock().expect("no run panics with the lock held").push(row);
                }
            });
        }
    });
    let mut table = table.into_inner().expect("no run panics with the lock held");
    table.sort_by_key(|row| Bug::ALL.iter().position(|bug| *bug == row.bug));
    table.iter().try_for_each(|row| output::print(&row.line(json))).or_else(closed)?;
    let missed = table.iter().filter(|row| row.caught.is_none()).count();
    if missed == 0 {
        return Ok(());
    }
    let tried = seeds.end - seeds.start;
    let found = format!(
        "{missed} of {} planted bugs were caught neither in {tried} seeds nor by a story",
        table.len()
    );
    Err(Failure::failed(found))
}

/// Runs seeds with a bug until one breaks an invariant. Some bugs take an execution that chance hardly comes to: for these there are stories.
fn catch(bug: Bug, seeds: &Range<u64>) -> Catch {
    let began = Instant::now();
    let options = Options { bug: Some(bug), ..Options::default() };
    let mut runs = seeds.clone().zip(1..);
    let by_seeds = runs
        .find_map(|(seed, taken)| Some(Caught::Seeds(taken, run_seed(seed, &options).violation?.invariant)));
    let caught = by_seeds.or_else(|| tell(bug).map(|(story, found)| Caught::Story(story, found)));
    Catch { bug, caught, wall: began.elapsed() }
}

impl Catch {
    fn line(&self, json: bool) -> String {
        let name = format!("{:?}", self.bug);
        let wall = self.wall.as_secs_f64();
        match &self.caught {
            Some(Caught::Seeds(seeds, invariant)) if json => {
                json!({ "bug": name, "seeds": seeds, "invariant": invariant, "wall_s": wall }).to_string()
            }
            Some(Caught::Story(story, found)) if json => {
                json!({ "bug": name, "story": story, "found": found, "wall_s": wall }).to_string()
            }
            None if json => json!({ "bug": name, "wall_s": wall }).to_string(),
            Some(Caught::Seeds(seeds, invariant)) => {
                format!("{name:<24} {seeds:>6} {:<5}  {invariant}", plural(*seeds))
            }
            Some(Caught::Story(story, _)) => format!("{name:<24} {:>12}  {story}", "a story:"),
            None => format!("{name:<24} {}", styled(BAD, "not caught")),
        }
    }
}

const fn plural(seeds: u64) -> &'static str {
    if seeds == 1 { "seed" } else { "seeds" }
}

fn threads(jobs: Option<usize>) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    jobs.unwrap_or(cores).max(1)
}

/// One seed, in more words.
fn one(seed: u64, options: &Options, json: bool) -> Result<(), Failure> {
    let began = Instant::now();
    let report = run_seed(seed, options);
    let wall = began.elapsed();
    let mut lines = Vec::new();
    if let Some(violation) = &report.violation {
        lines.extend(violation.events.iter().cloned());
    }
    lines.push(if json {
        let violation = report.violation.as_ref().map(ToString::to_string);
        json!({
            "seed": seed,
            "trace_hash": format!("{:016x}", report.trace_hash),
            "operations": report.operations,
            "events": report.events,
            "simulated_s": report.simulated.as_secs_f64(),
            "wall_s": wall.as_secs_f64(),
            "violation": violation,
        })
        .to_string()
    } else {
        format!(
            "seed {seed}: {} operations, {} events, {:.1} s simulated in {:.2} s, trace {:016x}",
            report.operations,
            report.events,
            report.simulated.as_secs_f64(),
            wall.as_secs_f64(),
            report.trace_hash,
        )
    });
    lines.iter().try_for_each(|line| output::print(line)).or_else(closed)?;
    match report.violation {
        None => Ok(()),
        Some(violation) => Err(Failure::failed(violation)),
    }
}

/// All seeds, `jobs` at a time, until that much time has been simulated.
fn sweep(
    seeds: Range<u64>,
    simulated: Duration,
    options: &Options,
    jobs: Option<usize>,
    json: bool,
) -> Total {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..threads(jobs) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let report = run_seed(seed, options);
                    if !json {
                        tell_violation(&report, options);
                    }
                    let mut total = total.lock().expect("no run panics with the lock held");
                    total.add(&report);
                    if total.simulated >= simulated {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().expect("no run panics with the lock held");
    total.failed.sort_unstable();
    total
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.operations += report.operations;
        self.simulated += report.simulated;
        for (what, count) in &report.counts {
            *self.counts.entry(what).or_default() += count;
        }
        let excuses = [EXCUSED, STATELESS];
        self.excused += excuses.iter().filter_map(|why| report.counts.get(why)).sum::<u64>();
        if report.violation.is_some() {
            self.failed.push(report.seed);
        }
    }
}

/// Runs a failed seed again, with its events in words, and prints them.
fn tell_violation(report: &Report, options: &Options) {
    if report.violation.is_none() {
        return;
    }
    let again = run_seed(report.seed, &Options { trace: EVENTS, ..options.clone() });
    let Some(violation) = again.violation else {
        output::complain(format!(
            "seed {} failed, but not when run again: it is not deterministic",
            report.seed
        ));
        return;
    };
    let events: String =
        violation.events.iter().map(|event| format!("  {}\n", styled(FAINT, event))).collect();
    let headline = format!("{} {violation}", styled(BAD, format!("seed {}:", report.seed)));
    // Where nobody reads any more, the exit code still tells.
    let _ = output::print(&format!("{events}{headline}"));
}

fn report(total: &Total, wall: Duration, json: bool) -> io::Result<()> {
    if json {
        return output::print(
            &json!({
                "seeds": total.seeds,
                "failed": total.failed,
                "excused": total.excused,
                "counts": total.counts,
                "operations": total.operations,
                "simulated_s": total.simulated.as_secs_f64(),
                "simulated_years": years(total.simulated),
                "wall_s": wall.as_secs_f64(),
            })
            .to_string(),
        );
    }
    let verdict = match total.failed.len() {
        0 => styled(GOOD, "no violation"),
        count => styled(BAD, format!("{count} failed: {:?}", total.failed)),
    };
    let times = total.simulated.as_secs_f64() / wall.as_secs_f64().max(0.001);
    output::print(&format!(
        "{} seeds, {} operations, {:.0} s ({:.4} years) simulated in {:.1} s ({times:.0} times), {} excused: {verdict}",
        styled(STRONG, total.seeds),
        total.operations,
        total.simulated.as_secs_f64(),
        years(total.simulated),
        wall.as_secs_f64(),
        total.excused,
    ))
}

fn years(simulated: Duration) -> f64 {
    simulated.as_secs_f64() / YEAR.as_secs_f64()
}

/// Reads `A..B` or a single seed.
pub(crate) fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong = || "write it as FIRST..END, as in 0..1000".to_owned();
    let (first, end) = text.split_once("..").ok_or_else(wrong)?;
    let range = first.parse().map_err(|_| wrong())?..end.parse().map_err(|_| wrong())?;
    if range.is_empty() { Err("it holds no seed: the end is not part of it".to_owned()) } else { Ok(range) }
}

/// Reads the name of a planted bug.
pub(crate) fn parse_bug(text: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().find(|bug| format!("{bug:?}").eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| format!("it is one of {:?}", Bug::ALL))
}

/// A reader that has gone away is no failure.
fn closed(error: io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Ok(());
    }
    Err(Failure::failed(format!("cannot write the result: {error}")))
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
    fn planted_bugs_go_by_their_names() {
        assert_eq!(parse_bug("AckBeforeSync"), Ok(Bug::AckBeforeSync));
        assert!(parse_bug("none").is_err());
    }
}
