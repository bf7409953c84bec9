//! Plans about clocks: the clocks of minorities and majorities are set, while members run and while all are down;
//! machines pause, rates drift, and delays change in one direction. Clients compete for a lock, and keys expire.

use super::clock::{MS, SECOND, Time};
use super::events::{Event, Undo};
use super::member::End;
use super::plan::{ClockPlan, Fault, Plan, pick};
use super::world::World;
use fastrand::Rng;
use kv_core::config::Role;
use std::time::Duration;

/// One plan in this many is about clocks.
const ONE_OF: u32 = 8;
/// The longest delay in one direction.
const MOST_DELAY: Time = 400 * MS;
/// By how much wall clocks are set, in milliseconds.
const STEPS: &[i64] = &[10, 1_000, 60_000, 3_600_000, 30 * 86_400_000];
/// After the healing, everything expires no later than this after its time: leases have `failure_timeout_max`, and
/// removals wait until the primary checks.
const ENDS_WITHIN: Time = 4 * SECOND;
/// The longest lifetime in a plan.
const LONGEST_LIFE: Time = 4 * SECOND;

impl Plan {
    /// Turns some plans into plans about clocks.
    pub(super) fn perhaps_about_clocks(&mut self, rng: &mut Rng) {
        if rng.u32(0..ONE_OF) > 0 {
            return;
        }
        self.roles = vec![Role::Data; *pick(rng, &[3, 5])];
        let witnesses = (*pick(rng, &[0, 0, 0, 1, 2])).min(self.roles.len() / 2);
        self.roles.iter_mut().rev().take(witnesses).for_each(|role| *role = Role::Witness);
        self.holders = rng.usize(2..=3);
        (self.options.max_leases, self.options.max_sessions) = (100, 100);
        self.options.session_ttl = Duration::from_secs(600);
        self.clock = ClockPlan {
            drift: *pick(rng, &[0, 100, 100_000]),
            wall_drift: *pick(rng, &[0, 100, 100_000]),
            skew_ms: *pick(rng, &[0, 10, 5_000]),
        };
        self.scale.most_drift = *pick(rng, &[100, 100_000]);
        self.load.brief = 50;
        self.faults = vec![
            (Fault::SetClocks, 4),
            (Fault::SetClocksWhileDown, 4),
            (Fault::ChangeDelay, 16),
            (Fault::ClockDrift, 2),
            (Fault::Pause, 2),
            (Fault::PausePrimary, 2),
            (Fault::KillPrimary, 2),
            (Fault::IsolatePrimary, 1),
            (Fault::Handover, 2),
        ];
        if rng.u32(0..4) == 0 {
            // Features that rely on running clocks are turned off.
            (self.load.bounded, self.options.read_lease) = (None, Duration::ZERO);
            self.faults.push((Fault::ClockFreeze, 2));
        }
        (self.damage, self.heal_quorum_only) = (None, false);
        self.chaos = 30 * SECOND;
        self.fault_gap = *pick(rng, &[SECOND / 5, SECOND / 2]);
    }
}

impl World {
    /// Sets the wall clocks of a minority or a majority by the same amount, while their members run or while all are
    /// down. Some are set back.
    pub(super) fn set_clocks(&mut self, fault: Fault, end: Time) {
        let count = self.members.len();
        if fault == Fault::SetClocksWhileDown {
            for member in 0..count {
                if self.members[member].is_up() {
                    self.end_process(member, End::PowerCut);
                }
            }
        }
        let mut chosen: Vec<usize> = (0..count).collect();
        self.rng.shuffle(&mut chosen);
        chosen.truncate(self.rng.usize(1..=count));
        let sign = if self.rng.bool() { 1 } else { -1 };
        let by_ms = sign * *pick(&mut self.rng, STEPS);
        if chosen.len() > count / 2 {
            self.checker.count("wall clocks of a majority set");
        }
        chosen.iter().for_each(|member| self.step_clock(*member, by_ms));
        if self.rng.bool() {
            self.schedule(end, Event::Undo(Undo::SetBack(chosen, by_ms)));
        }
    }

    /// Changes the delay from a member or a client to one member or to all, or from a member to a client.
    pub(super) fn change_delay(&mut self) {
        let (members, clients) = (self.members.len(), self.clients.len());
        let delay = if self.rng.bool() { 0 } else { self.rng.u64(0..=MOST_DELAY) };
        let one = self.rng.usize(0..members + clients);
        if one >= members && self.rng.bool() {
            return (0..members).for_each(|member| self.network.lag(member, one, delay));
        }
        let only = self.rng.bool().then(|| self.rng.usize(0..members));
        for to in (0..members).filter(|to| *to != one && only.is_none_or(|only| only == *to)) {
            self.network.lag(one, to, delay);
        }
    }

    /// In a plan about clocks: something that should have expired but has not. It must expire in time.
    pub(super) fn not_ended(&mut self) -> Option<String> {
        let ends = self.checker.model().next_end().filter(|_| self.plan.holders > 0)?;
        // A monotonic clock may be a tenth too slow.
        let by = *self.ends_by.get_or_insert(self.now + LONGEST_LIFE + LONGEST_LIFE / 8 + ENDS_WITHIN);
        if self.now > by {
            self.fail(("what is to end does so soon after the healing", ends.clone()));
        }
        Some(format!("it is to end: {ends}"))
    }
}
