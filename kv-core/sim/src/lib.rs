//! The deterministic simulator: whole clusters in one thread under one seed, on damaged disks and networks.
//!
//! [`run`] takes a seed and draws everything from it: the topology, the limits, the mix of faults, every delay and
//! every crash. The code under test is the real one (replica, journal, state, sessions, the client's protocol).
//! Network, disks and clocks are simulated. The same seed gives the same [`Report::trace_hash`], so a failure is a
//! number that anyone can run again.

mod apart;
mod atlas;
mod bug;
mod calls;
mod careless;
mod change_plan;
mod changing;
mod checker;
mod clients;
mod clock;
mod cluster;
mod drive;
mod electorate;
mod epochs;
mod events;
mod faults;
mod floors;
mod history;
mod holders;
mod kind;
mod lifetimes;
mod linear;
mod lives;
mod member;
mod merges;
mod mirror;
mod model;
pub mod mutants;
mod network;
mod operator;
mod operators;
mod options;
mod panic;
mod past;
mod perkey;
mod plan;
mod reach;
#[cfg(test)]
mod regressions;
mod replay;
mod report;
mod rosters;
mod scenario;
mod scenarios;
mod serve;
mod spares;
mod stages;
mod stall;
mod stamps;
mod states;
mod streams;
mod switch;
#[cfg(test)]
mod tests;
mod trace;
mod transfer;
mod waiting;
mod watchers;
mod watching;
mod words;
mod world;
mod years;

pub use bug::Bug;
pub use report::{EXCUSED, Options, Report, STATELESS, Violation};
pub use switch::MUTATED;

use world::World;

/// Runs the scenarios about a seeded bug: small clusters in which nothing is random but delays. Returns the name of the
/// first that fails, and why. `None` if none fails, or there is none.
#[must_use]
pub fn run_scenarios(bug: Bug) -> Option<(&'static str, String)> {
    scenarios::detect(bug)
}

/// Whether this build has the bug: a [mutant](mutants) only exists in a mutated copy of the workspace.
#[must_use]
pub fn has(bug: Bug) -> bool {
    switch::has(bug)
}

/// Runs one seed to its end: chaos, healing, convergence, and the checks of the whole history. A panic of the code
/// under test is a violation too.
#[must_use]
pub fn run(seed: u64, options: &Options) -> Report {
    let _switched = switch::to(options.bug);
    let mut world = World::new(seed, options);
    let result = panic::catch(|| world.run());
    if let Err(message) = result {
        world.fail(("no assertion fails", message));
    }
    world.into_report()
}
