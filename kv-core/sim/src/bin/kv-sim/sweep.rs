//! Runs seeds through the simulator, as many at once as there are cores.

use crate::output::{self, BAD, FAINT, GOOD, STRONG, styled};
use crate::threads;
use kv_sim::{EXCUSED, Options, Report, STATELESS, run as run_seed};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How many events before a violation are shown.
pub(crate) const EVENTS: usize = 50;

/// 365 days.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// The combined result of all seeds.
#[derive(Debug, Default)]
pub(crate) struct Total {
    seeds: u64,
    operations: u64,
    simulated: Duration,
    /// Runs in which the returned members could not continue without the others, and rightly waited; or could not
    /// continue at all, because no intact state was left.
    excused: u64,
    /// How often situations that are worth testing occurred.
    counts: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

/// Runs one seed, with more output.
pub(crate) fn one(seed: u64, options: &Options, json: bool) -> Result<(), String> {
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
    lines.iter().try_for_each(|line| output::print_line(line))?;
    match report.violation {
        None => Ok(()),
        Some(violation) => Err(violation.to_string()),
    }
}

/// Runs all seeds, `jobs` at a time, until that much time has been simulated.
pub(crate) fn run(
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
                        print_violation(&report, options);
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
    /// Prints the combined result.
    ///
    /// # Errors
    /// If an invariant was violated in one of them.
    pub(crate) fn print(&self, wall: Duration, json: bool) -> Result<(), String> {
        output::print_line(&self.line(wall, json))?;
        match self.failed.len() {
            0 => Ok(()),
            failed => Err(format!("{failed} of {} seeds broke an invariant", self.seeds)),
        }
    }

    fn line(&self, wall: Duration, json: bool) -> String {
        if json {
            return json!({
                "seeds": self.seeds,
                "failed": self.failed,
                "excused": self.excused,
                "counts": self.counts,
                "operations": self.operations,
                "simulated_s": self.simulated.as_secs_f64(),
                "simulated_years": years(self.simulated),
                "wall_s": wall.as_secs_f64(),
            })
            .to_string();
        }
        let verdict = match self.failed.len() {
            0 => styled(GOOD, "no violation"),
            count => styled(BAD, format!("{count} failed: {:?}", self.failed)),
        };
        let times = self.simulated.as_secs_f64() / wall.as_secs_f64().max(0.001);
        format!(
            "{} seeds, {} operations, {:.0} s ({:.4} years) simulated in {:.1} s ({times:.0} times), {} excused: {verdict}",
            styled(STRONG, self.seeds),
            self.operations,
            self.simulated.as_secs_f64(),
            years(self.simulated),
            wall.as_secs_f64(),
            self.excused,
        )
    }

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

/// Runs a failed seed again with its events as text, and prints them.
fn print_violation(report: &Report, options: &Options) {
    if report.violation.is_none() {
        return;
    }
    let again = run_seed(report.seed, &Options { trace: EVENTS, ..options.clone() });
    let Some(violation) = again.violation else {
        output::print_error(format!(
            "seed {} failed, but not when run again: it is not deterministic",
            report.seed
        ));
        return;
    };
    let events: String =
        violation.events.iter().map(|event| format!("  {}\n", styled(FAINT, event))).collect();
    let headline = format!("{} {violation}", styled(BAD, format!("seed {}:", report.seed)));
    // If nobody reads any more, the exit code still shows the result.
    let _ = output::print_line(&format!("{events}{headline}"));
}

fn years(simulated: Duration) -> f64 {
    simulated.as_secs_f64() / YEAR.as_secs_f64()
}
