//! Stories: scripts that must end well, and badly with the seeded bug that they are about. They are tests, and `kv-sim --bugs` tells
//! those that are about a bug which chance hardly comes across.

use super::clock::{MS, SECOND};
use super::plan::{ClockPlan, DiskPlan, Load, NetworkPlan, Plan, Scale, WatchPlan};
use super::report::Options;
use super::scenario::Cluster;
use super::world::World;
use super::{Bug, panic, switch};
use fastrand::Rng;
use kv_core::config::{self, Role};
use std::cell::RefCell;
use std::time::Duration;

/// How often a story is told: delays and jitter differ.
const TIMES: u64 = 4;

/// A story by its name.
pub(super) type Tale = (&'static str, fn(&Teller));

/// The stories of a module, each a test.
macro_rules! stories {
    ($($name:ident,)*) => {
        pub(super) const STORIES: &[$crate::story::Tale] = &[$((stringify!($name), $name)),*];

        #[cfg(test)]
        mod told {
            $(#[test]
            fn $name() {
                super::$name(&$crate::story::Teller::default());
            })*
        }
    };
}
pub(super) use stories;

/// How stories are told: each must end well, and badly with its bug; or only with this bug, to see whether that is found out.
#[derive(Default)]
pub(super) struct Teller {
    only: Option<Bug>,
    found: RefCell<Option<String>>,
}

impl Teller {
    /// What goes wrong in a story if there is this bug. `None` if it is about another, or ends well.
    pub(super) fn finds(bug: Bug, story: fn(&Self)) -> Option<String> {
        let teller = Self { only: Some(bug), found: RefCell::default() };
        story(&teller);
        teller.found.into_inner()
    }
}

/// What a story is set in.
pub(super) struct Story {
    roles: Vec<Role>,
    bug: Option<Bug>,
    formed: bool,
    times: u64,
    adapt: Box<dyn Fn(&mut Plan)>,
}

impl Story {
    /// So many data members.
    pub(super) fn of(data: usize) -> Self {
        Self { roles: vec![Role::Data; data], bug: None, formed: true, times: TIMES, adapt: Box::new(|_| {}) }
    }

    /// One witness more.
    pub(super) fn and_a_witness(mut self) -> Self {
        self.roles.push(Role::Witness);
        self
    }

    /// Other limits, delays, clocks.
    pub(super) fn with(mut self, adapt: impl Fn(&mut Plan) + 'static) -> Self {
        self.adapt = Box::new(adapt);
        self
    }

    /// Nobody runs yet when the script begins, and all disks are empty.
    pub(super) const fn unformed(mut self) -> Self {
        self.formed = false;
        self
    }

    /// It is told once: there are many like it.
    pub(super) const fn once_only(mut self) -> Self {
        self.times = 1;
        self
    }

    /// The bug that this story brings to light.
    pub(super) const fn finds(mut self, bug: Bug) -> Self {
        self.bug = Some(bug);
        self
    }

    /// Tells it several times: it must end well always, and badly at least once with its bug.
    pub(super) fn tell(&self, teller: &Teller, script: impl Fn(&mut Cluster)) {
        if let Some(bug) = teller.only {
            let mut times = 0..if self.bug == Some(bug) { self.times } else { 0 };
            if let Some(found) = times.find_map(|seed| self.once(seed, self.bug, &script).err()) {
                teller.found.replace(Some(found.said));
            }
            return;
        }
        for seed in 0..self.times {
            if let Err(BadEnd { said, events }) = self.once(seed, None, &script) {
                panic!("{}\ntold with seed {seed}: {said}", events.join("\n"));
            }
        }
        // Those that this build does not have, `kv-sim --bugs` looks for.
        let Some(bug) = self.bug.filter(|bug| switch::has(*bug)) else { return };
        let found = (0..self.times).any(|seed| self.once(seed, Some(bug), &script).is_err());
        assert!(found, "{bug:?} is not found out");
    }

    fn once(&self, seed: u64, bug: Option<Bug>, script: impl Fn(&mut Cluster)) -> Result<(), BadEnd> {
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
        .map_err(|said| {
            let report = cluster.world.into_report();
            let events = report.violation.map_or_else(Vec::new, |violation| violation.events);
            BadEnd { said, events }
        })
    }
}

/// How a story went wrong.
struct BadEnd {
    said: String,
    events: Vec<String>,
}

/// Good disks, a good network, exact clocks, no load, no faults.
fn calm(roles: Vec<Role>) -> Plan {
    let mut options = config::Options::default();
    options.pipeline_depth = 4;
    options.max_key_bytes = 16;
    options.max_value_bytes = 2048;
    options.segment_bytes = 16 << 10;
    options.checkpoint_bytes = 64 << 10;
    Plan {
        roles,
        options,
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
