//! Clients that compete for a lock: a key on a lease. Each believes that it holds the lock according to the client's
//! rule. No two may do so at once, as long as clocks are as assumed.

use super::Bug;
use super::clients::Holder;
use super::clock::{MS, SECOND, Time};
use super::events::Event;
use super::history::{Action, Ending};
use super::plan::pick;
use super::world::World;
use kv_core::client::believed;
use kv_core::message::{Command, Effect, LeaseCommand};

/// Lease times in milliseconds.
const TTLS: &[u64] = &[300, 1_000, 3_000];
/// How long a client holds the lock at most. Then it releases it, and does without it for a while.
const LONGEST_TENURE: Time = 4 * SECOND;

impl World {
    /// A client makes its next call about the lock, if none is in progress.
    pub(super) fn holder_turn(&mut self, client: usize) {
        let (now, time, wrong) = (self.client_now(client), self.now, self.checker.stamps.wrong());
        let ttl_ms = *pick(&mut self.rng, TTLS);
        let value = self.clients[client].value(client, &mut self.rng);
        let Some(holder) = &mut self.clients[client].holder else { return };
        if holder.call.is_none() && holder.rests_until <= time {
            if holder.lease.is_none() {
                holder.ttl_ms = ttl_ms;
            }
            let command = match holder.next(now, time) {
                Command::Put { key, condition, life, .. } => Command::Put { key, value, condition, life },
                other => other,
            };
            if matches!(command, Command::Lease(LeaseCommand::Revoke { .. })) {
                // From now on it does nothing that only a holder may do.
                holder.holds = false;
            }
            // Set before the call, which may end at once.
            holder.call = Some((self.history.calls().len(), now, wrong));
            self.begin_call(client, Action::Write(command));
        }
        let most = self.holder(client).filter(|holder| holder.holds).map_or(20, |holder| holder.ttl_ms / 3);
        let pause = self.rng.u64(1..=most) * MS;
        self.schedule(self.now + pause, Event::ClientCall { client });
    }

    fn holder(&self, client: usize) -> Option<&Holder> {
        self.clients[client].holder.as_ref()
    }

    /// A call of a client has ended: it may be one about the lock.
    pub(super) fn holder_learns(&mut self, client: usize, number: usize, ending: &Ending) {
        let (now, later) = (self.client_now(client), self.now + self.rng.u64(0..LONGEST_TENURE));
        let from_answer = self.bug == Some(Bug::BelievesFromAnswer);
        let Some(holder) = &mut self.clients[client].holder else { return };
        let Some((_, sent, wrong)) = holder.call.take_if(|(call, ..)| *call == number) else { return };
        let sent = if from_answer { now } else { sent };
        let asks_for_lease = holder.lease.is_none();
        match ending {
            Ending::Lease { effect: Effect::LeaseGranted(lease), .. } => {
                holder.lease = Some(*lease);
                (holder.since, holder.wrong) = (sent, wrong);
            }
            Ending::Lease { effect: Effect::LeaseKept, .. } => (holder.since, holder.wrong) = (sent, wrong),
            Ending::Put(_) => (holder.holds, holder.leaves_at) = (true, later),
            Ending::ConditionFailed { .. } => {}
            // It does not know whether it has put the key or released it. It waits for the end of the lease, and
            // believes nothing.
            Ending::Unknown | Ending::NotApplied if holder.holds || asks_for_lease => {}
            _ => *holder = Holder { rests_until: later, ..Holder::default() },
        }
        if holder.holds {
            self.checker.count("locks got or kept");
            self.count_believers(client);
        }
    }

    /// How long a client will believe that it holds the lock; `None` if it does not.
    fn believes_for(&self, client: usize) -> Option<Time> {
        let holder = self.holder(client).filter(|holder| holder.holds)?;
        let until = holder.since.after(believed(holder.ttl()));
        let at = self.clients[client].clock.reaches(until);
        (self.client_now(client) < until).then(|| at.saturating_sub(self.now))
    }

    /// A client believes from now on, or for longer, that it holds the lock.
    fn count_believers(&mut self, client: usize) {
        if self.believes_for(client).is_none() {
            return;
        }
        let others: Vec<usize> = (0..self.clients.len())
            .filter(|other| *other != client && self.believes_for(*other).is_some())
            .collect();
        for other in others {
            // The amount by which the lease of one of them ended early is what clocks have done wrong since its last
            // renewal.
            let excused = [client, other].into_iter().any(|one| {
                let wrong = self.holder(one).map_or(0, |holder| self.checker.stamps.wrong() - holder.wrong);
                i128::from(self.believes_for(one).unwrap_or_default()) <= wrong
            });
            if excused {
                self.checker.count("two holders by a clock that was wrong");
                continue;
            }
            let found = format!("c{client} and c{other}: {:?} {:?}", self.holder(client), self.holder(other));
            self.fail(("no two believe that they hold a lock", found));
        }
    }
}
