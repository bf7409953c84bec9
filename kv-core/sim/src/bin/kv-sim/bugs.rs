//! `kv-sim --bugs`: every seeded bug in turn must be detected.

use crate::output::{self, BAD, styled};
use crate::threads;
use kv_sim::{Bug, Options, run as run_seed, run_scenarios};
use serde_json::json;
use std::ops::Range;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How a seeded bug was detected.
#[derive(Debug)]
struct Catch {
    bug: Bug,
    caught: Option<Caught>,
    wall: Duration,
}

/// What detected a seeded bug.
#[derive(Debug)]
enum Caught {
    /// It took this many seeds, and violated this invariant. No scenario detects it.
    Seeds(u64, &'static str),
    /// This scenario failed.
    Scenario(&'static str, String),
}

/// Runs every seeded bug in turn, and prints a table.
pub(crate) fn run(seeds: &Range<u64>, jobs: Option<usize>, json: bool) -> Result<(), String> {
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
    table.iter().try_for_each(|row| output::print_line(&row.line(json)))?;
    let missed = table.iter().filter(|row| row.caught.is_none()).count();
    if missed == 0 {
        return Ok(());
    }
    let tried = seeds.end - seeds.start;
    let found = format!(
        "{missed} of {} seeded bugs were caught neither in {tried} seeds nor by a scenario",
        table.len()
    );
    Err(found)
}

/// Runs the scenarios about a bug, and then seeds until one breaks an invariant. Random runs rarely trigger some bugs;
/// for these there are scenarios.
fn catch(bug: Bug, seeds: &Range<u64>) -> Catch {
    let began = Instant::now();
    let options = Options { bug: Some(bug), ..Options::default() };
    let by_seeds = || {
        let mut runs = seeds.clone().zip(1..);
        runs.find_map(|(seed, taken)| {
            Some(Caught::Seeds(taken, run_seed(seed, &options).violation?.invariant))
        })
    };
    let by_scenario = || run_scenarios(bug).map(|(scenario, found)| Caught::Scenario(scenario, found));
    let caught = by_scenario().or_else(by_seeds);
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
            Some(Caught::Scenario(scenario, found)) if json => {
                json!({ "bug": name, "scenario": scenario, "found": found, "wall_s": wall }).to_string()
            }
            None if json => json!({ "bug": name, "wall_s": wall }).to_string(),
            Some(Caught::Seeds(seeds, invariant)) => {
                format!("{name:<24} {seeds:>6} {:<5}  {invariant}", plural(*seeds))
            }
            Some(Caught::Scenario(scenario, _)) => format!("{name:<24} {:>12}  {scenario}", "scenario:"),
            None => format!("{name:<24} {}", styled(BAD, "not caught")),
        }
    }
}

const fn plural(seeds: u64) -> &'static str {
    if seeds == 1 { "seed" } else { "seeds" }
}
