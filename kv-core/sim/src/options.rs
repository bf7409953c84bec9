//! Options that differ: local ones between members, and between two lives of one member; fixed ones between two lives,
//! which must be refused.

use super::Bug;
use super::plan::{Plan, pick};
use super::switch;
use super::world::World;
use fastrand::Rng;
use kv_core::config::{FixedOptions, Options};
use kv_core::journal::{Journal, OpenError};
use kv_core::message::FormationStep;
use std::time::Duration;

impl Plan {
    /// The options of a member in one of its lives. Local options are drawn again each time, unless the plan keeps
    /// them.
    pub(super) fn options_of(&self, member: usize, life: u32) -> Options {
        let Some(seed) = self.local else { return self.options.clone() };
        let rng = &mut Rng::with_seed(seed ^ (member as u64) << 32 ^ u64::from(life));
        let ms = Duration::from_millis;
        let mut options = self.options.clone();
        options.max_batch_bytes = *pick(rng, &[200, 1000, 64 << 10]);
        options.segment_bytes = *pick(rng, &[16 << 10, 32 << 10, 64 << 10]);
        options.checkpoint_bytes = *pick(rng, &[1 << 10, 4 << 10, 64 << 10]);
        options.cache_bytes = *pick(rng, &[1 << 20, 64 << 20]);
        options.journal_retention_bytes = *pick(rng, &[0, 16 << 10, 64 << 10, 1 << 20]);
        if self.options.heartbeat <= LONGEST_HEARTBEAT {
            options.heartbeat = *pick(rng, &[ms(20), ms(25), LONGEST_HEARTBEAT]);
            options.failure_timeout_min = *pick(rng, &[ms(150), ms(200), ms(300)]);
            options.failure_timeout_max = *pick(rng, &[ms(1000), ms(2000)]);
        }
        options
    }

    /// The longest heartbeat that a member has in any of its lives.
    pub(super) fn longest_heartbeat(&self) -> Duration {
        if self.local.is_some() {
            self.options.heartbeat.max(LONGEST_HEARTBEAT)
        } else {
            self.options.heartbeat
        }
    }
}

/// Of plans that take seconds.
const LONGEST_HEARTBEAT: Duration = Duration::from_millis(50);

/// Other fixed options: one of these is changed, up or down.
fn other_fixed(rng: &mut Rng, options: &Options) -> Options {
    type Change = fn(&mut Options);
    const CHANGES: &[Change] = &[
        |options| options.max_value_bytes /= 2,
        |options| options.max_value_bytes *= 2,
        |options| options.max_key_bytes -= 1,
        |options| options.max_sessions += 1,
        |options| options.session_ttl += Duration::from_secs(1),
        |options| options.session_ttl /= 2,
        |options| options.max_in_flight_per_session += 1,
        |options| options.max_leases += 1,
        |options| options.history_revisions += 1,
        |options| options.history_bytes /= 2,
        |options| options.pipeline_depth += 1,
        |options| options.read_lease += Duration::from_secs(1),
    ];
    let mut other = options.clone();
    pick(rng, CHANGES)(&mut other);
    other
}

impl World {
    /// Draws the options of a member's next life. Before that, the member may be started with another fixed option
    /// (rule F6): that must be refused by name, and must change nothing.
    pub(super) fn draw_options(&mut self, member: usize) {
        let slot = &mut self.members[member];
        slot.options = self.plan.options_of(member, slot.life);
        let Some(seed) = self.plan.local else { return };
        let rng = &mut Rng::with_seed(seed ^ 0xf6 ^ (member as u64) << 32 ^ u64::from(slot.life));
        if rng.u32(0..4) > 0 {
            return;
        }
        let other = other_fixed(rng, &slot.options);
        if self.bug == Some(Bug::OptionsOfThisLife) {
            slot.options = other;
            return;
        }
        // On a fork of the disk: if the start is accepted and changes something, the run ends here anyway.
        let _right = switch::to(None);
        let disk = slot.disk.fork();
        let identity =
            kv_core::journal::Identity { options: FixedOptions::from(&other), ..self.identity(member) };
        match Journal::open(disk.storage(), identity, self.journal_options(member)) {
            Err(OpenError::OtherOption(_)) => self.checker.count("other fixed options refused"),
            Ok((_, recovered)) if recovered.formation > FormationStep::Empty => {
                let found = (self.plan.options.clone(), other);
                self.fail((
                    "fixed options do not change",
                    format!("m{member} starts with others: {found:?}"),
                ));
            }
            Ok(_) | Err(_) => {}
        }
    }
}
