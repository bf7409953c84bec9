//! Scenarios: scripts that must succeed, and fail with the seeded bug that they are about. They are tests, and `kv-sim
//! --bugs` runs those that are about a bug which random runs rarely trigger.

use super::change_plan::ChangePlan;
use super::clock::{MS, SECOND};
use super::cluster::Cluster;
use super::plan::{ClockPlan, DiskPlan, Load, NetworkPlan, Plan, Scale, WatchPlan};
use super::report::Options;
use super::world::World;
use super::{Bug, panic, switch};
use fastrand::Rng;
use kv_core::config::{self, Role};
use std::cell::RefCell;
use std::time::Duration;

/// How often a scenario is run: delays and jitter differ.
const TIMES: u64 = 4;

/// A scenario and its name.
pub(super) type NamedScenario = (&'static str, fn(&ScenarioRunner));

/// The scenarios of a module, each a test.
macro_rules! scenarios {
    ($($name:ident,)*) => {
        pub(super) const SCENARIOS: &[$crate::scenario::NamedScenario] = &[$((stringify!($name), $name)),*];

        #[cfg(test)]
        mod run {
            $(#[test]
            fn $name() {
                super::$name(&$crate::scenario::ScenarioRunner::default());
            })*
        }
    };
}
pub(super) use scenarios;

/// Runs scenarios: each must succeed, and fail with its bug. Or runs only those about one bug, to see whether it is
/// detected.
#[derive(Default)]
pub(super) struct ScenarioRunner {
    only: Option<Bug>,
    found: RefCell<Option<String>>,
}

impl ScenarioRunner {
    /// How a scenario fails with this bug. `None` if it is about another bug, or succeeds.
    pub(super) fn finds(bug: Bug, scenario: fn(&Self)) -> Option<String> {
        let runner = Self { only: Some(bug), found: RefCell::default() };
        scenario(&runner);
        runner.found.into_inner()
    }
}

/// The setting of a scenario.
pub(super) struct Scenario {
    roles: Vec<Role>,
    bug: Option<Bug>,
    formed: bool,
    times: u64,
    adapt: Box<dyn Fn(&mut Plan)>,
}

impl Scenario {
    /// A cluster of this many data members.
    pub(super) fn of(data: usize) -> Self {
        Self { roles: vec![Role::Data; data], bug: None, formed: true, times: TIMES, adapt: Box::new(|_| {}) }
    }

    /// Adds a witness.
    pub(super) fn and_a_witness(mut self) -> Self {
        self.roles.push(Role::Witness);
        self
    }

    /// Adds a standby, which keeps data. It is the last member.
    pub(super) fn and_a_standby(mut self) -> Self {
        self.roles.push(Role::Data);
        self.with(|plan| plan.standbys = 1)
    }

    /// Adds a machine that is in no list, and would keep data. It has the last id.
    pub(super) fn and_a_spare(self) -> Self {
        self.with(|plan| plan.changes.spares = vec![Role::Data])
    }

    /// Changes limits, delays or clocks.
    pub(super) fn with(mut self, adapt: impl Fn(&mut Plan) + 'static) -> Self {
        self.adapt = Box::new(adapt);
        self
    }

    /// When the script begins, no member runs, and all disks are empty.
    pub(super) const fn unformed(mut self) -> Self {
        self.formed = false;
        self
    }

    /// It runs once: there are many like it.
    pub(super) const fn once_only(mut self) -> Self {
        self.times = 1;
        self
    }

    /// The bug that this scenario detects.
    pub(super) const fn finds(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Runs it several times: it must always succeed, and fail at least once with its bug.
    pub(super) fn run(&self, runner: &ScenarioRunner, script: impl Fn(&mut Cluster)) {
        if let Some(bug) = runner.only {
            let mut times = 0..if self.bug == Some(bug) { self.times } else { 0 };
            if let Some(found) = times.find_map(|seed| self.once(seed, self.bug, &script).err()) {
                runner.found.replace(Some(found.reason));
            }
            return;
        }
        for seed in 0..self.times {
            if let Err(ScenarioFailure { reason, events }) = self.once(seed, None, &script) {
                panic!("{}\nwith seed {seed}: {reason}", events.join("\n"));
            }
        }
        // `kv-sim --bugs` checks the bugs that this build does not contain.
        let Some(bug) = self.bug.filter(|bug| switch::has(*bug)) else { return };
        let found = (0..self.times).any(|seed| self.once(seed, Some(bug), &script).is_err());
        assert!(found, "{bug:?} is not detected");
    }

    fn once(
        &self,
        seed: u64,
        bug: Option<Bug>,
        script: impl Fn(&mut Cluster),
    ) -> Result<(), ScenarioFailure> {
        let _switched = switch::to(bug);
        let mut plan = calm(self.roles.clone());
        (self.adapt)(&mut plan);
        let options = Options { bug, trace: 60, ..Options::default() };
        let world = World::with_plan(seed, plan, Rng::with_seed(seed), &options);
        let mut cluster = Cluster { world };
        panic::catch(|| {
            if self.formed {
                cluster.begin();
            }
            script(&mut cluster);
            cluster.end();
        })
        .map_err(|reason| {
            let report = cluster.world.into_report();
            let events = report.violation.map_or_else(Vec::new, |violation| violation.events);
            ScenarioFailure { reason, events }
        })
    }
}

/// Why a scenario failed.
struct ScenarioFailure {
    reason: String,
    events: Vec<String>,
}

/// No faults: good disks, a good network, exact clocks, no load.
fn calm(roles: Vec<Role>) -> Plan {
    let mut options = config::Options::default();
    options.pipeline_depth = 4;
    options.max_key_bytes = 16;
    options.max_value_bytes = 2048;
    options.segment_bytes = 16 << 10;
    options.checkpoint_bytes = 64 << 10;
    Plan {
        roles,
        standbys: 0,
        changes: ChangePlan::NONE,
        options,
        window: None,
        local: None,
        in_memory: false,
        encoded: true,
        network: NetworkPlan {
            delay: MS / 2,
            jitter: MS / 10,
            loss: 0,
            duplication: 0,
            ordered: true,
            client_loss: 0,
        },
        disk: DiskPlan {
            latency: MS,
            hiccups: 0,
            tear_sectors: true,
            checkpoint: 5 * MS,
            source: 0,
            stage: 0,
            install: 0,
        },
        clock: ClockPlan { drift: 0, wall_drift: 0, skew_ms: 0 },
        load: Load {
            clients: 2,
            keys: 1,
            in_flight: 8,
            pause: SECOND,
            absence: SECOND,
            deadline: Duration::from_secs(30),
            patience: 1,
            reads: 0,
            guarded: 0,
            brief: 0,
            bounded: None,
        },
        watching: WatchPlan::NONE,
        holders: 0,
        faults: Vec::new(),
        fault_gap: SECOND,
        fault_length: SECOND,
        chaos: SECOND,
        damage: None,
        heal_quorum_only: false,
        scale: Scale::SHORT,
    }
}
