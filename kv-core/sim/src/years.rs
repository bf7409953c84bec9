//! Plans whose time scale is days and weeks, for simulated years: the slowest allowed heartbeats, faults hours or days
//! apart, occasional client calls. Idle time is not skipped: the real replicas send, answer and time every heartbeat.

use super::clock::{HOUR, MINUTE, SECOND, Time};
use super::plan::{Load, Plan, Scale, pick};
use fastrand::Rng;
use std::time::Duration;

const DAY: Time = 24 * HOUR;
/// The largest error of a monotonic clock's rate, in millionths.
const MOST_DRIFT: u64 = 100;

impl Plan {
    /// Draws a plan of some months.
    pub(super) fn draw_long(rng: &mut Rng) -> Self {
        let mut plan = Self::draw_of_everything(rng);
        plan.chaos = *pick(rng, &[20 * DAY, 60 * DAY, 120 * DAY]);
        plan.fault_gap = *pick(rng, &[2 * HOUR, 12 * HOUR, 2 * DAY]);
        plan.fault_length = *pick(rng, &[5 * MINUTE, HOUR, 12 * HOUR]);
        plan.options.heartbeat = *pick(rng, &[5, 10, 10].map(Duration::from_secs));
        plan.options.failure_timeout_min = *pick(rng, &[30, 60].map(Duration::from_secs));
        plan.options.failure_timeout_max = *pick(rng, &[60, 120].map(Duration::from_secs));
        if !plan.options.read_lease.is_zero() {
            plan.options.read_lease = Duration::from_secs(60);
        }
        plan.options.session_ttl = *pick(rng, &[3_600, 86_400, 30 * 86_400].map(Duration::from_secs));
        // Realistic clocks: an error that is small in seconds adds up to hours here.
        plan.clock.drift = *pick(rng, &[0, MOST_DRIFT]);
        plan.clock.wall_drift = *pick(rng, &[0, 100, 1000]);
        plan.load = Load {
            pause: *pick(rng, &[10 * MINUTE, HOUR, 6 * HOUR]),
            deadline: *pick(rng, &[60, 600, 3_600].map(Duration::from_secs)),
            // A client that retries every second while nobody answers for hours would do little else.
            patience: 100,
            absence: 4 * DAY,
            bounded: plan.load.bounded.map(|_| plan.options.heartbeat),
            ..plan.load
        };
        plan.watching.wait *= 50;
        plan.watching.sweep = 50 * SECOND;
        plan.watching.patience *= 50;
        plan.scale = Scale {
            settle: 45
                * Time::try_from(plan.options.failure_timeout_max.as_nanos()).unwrap_or(Time::MAX / 45),
            probe: 10 * SECOND,
            lags: [SECOND, 10 * SECOND, MINUTE],
            most_drift: MOST_DRIFT,
            most_events: 500_000_000,
        };
        plan
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Options;
    use super::super::world::World;
    use super::*;

    /// Some hours of each seed, so that it fits into an ordinary test.
    #[test]
    fn hours_pass_without_a_missing_heartbeat() {
        for seed in 0..2 {
            let mut rng = Rng::with_seed(seed);
            let plan = Plan { chaos: 4 * HOUR, fault_gap: HOUR, ..Plan::draw_long(&mut rng) };
            let beats = plan.chaos / Time::try_from(plan.options.heartbeat.as_nanos()).unwrap();
            let alone = plan.roles.len() == 1;
            let mut world = World::with_plan(seed, plan, rng, &Options::default());
            world.run();
            let report = world.into_report();
            assert_eq!(report.violation, None, "seed {seed}");
            assert!(report.simulated >= Duration::from_secs(4 * 3_600));
            assert!(alone || report.events > beats, "seed {seed}: {} events", report.events);
        }
    }
}
