//! What this client knows about the primary, and how it searches for it.

use crate::client::call::ProtocolOptions;
use crate::ids::{Instant, MemberId};
use std::collections::BTreeMap;
use std::time::Duration;

/// This many attempts are made at the pace for a short outage, later ones at the pace for a long outage.
const EAGER: u32 = 64;

/// How long a failed member is doubted, unless it answers as a primary before that time is over.
const DOUBT: Duration = Duration::from_secs(1);

/// A search with this many attempts may have the wrong addresses.
const LONG_SEARCH: u32 = 16;

/// How long the client waits before it asks for the member list again.
const LIST_PAUSE: Duration = Duration::from_millis(200);

/// The presumed primary, and the search for it while there is none.
///
/// While the primary is unknown, members are asked in turn, with one call at a time and with growing pauses, so that
/// waiting calls do not overload a cluster that is busy with an election.
#[derive(Debug, Default)]
pub(super) struct Search {
    members: Vec<MemberId>,
    primary: Option<MemberId>,
    /// The index of the next member to ask.
    next: usize,
    /// The earliest time of the next attempt.
    next_at: Instant,
    /// The number of attempts since a primary last answered.
    asked: u32,
    /// The number of hints followed since the last attempt.
    hops: usize,
    /// Members that failed recently, and until when they are doubted. A hint to a doubted member is tried with only one
    /// call.
    doubted: BTreeMap<MemberId, Instant>,
    /// When each member last answered.
    heard: BTreeMap<MemberId, Instant>,
    /// The last hint to a member that is not in the list.
    unknown: Option<MemberId>,
    /// The earliest time of the next question for the member list.
    list_at: Instant,
}

impl Search {
    pub(super) fn new(members: Vec<MemberId>, first: usize) -> Self {
        Self { members, next: first, ..Self::default() }
    }

    pub(super) const fn primary(&self) -> Option<MemberId> {
        self.primary
    }

    pub(super) fn members(&self) -> &[MemberId] {
        &self.members
    }

    /// The member list was changed.
    pub(super) fn set_members(&mut self, members: Vec<MemberId>) {
        let hint = self.unknown.take();
        self.primary = self.primary.or(hint).filter(|primary| members.contains(primary));
        self.next %= members.len();
        self.doubted.retain(|member, _| members.contains(member));
        self.heard.retain(|member, _| members.contains(member));
        self.members = members;
    }

    /// Whether to ask the member that sent this hint for the member list: the hint names a member that is not in the
    /// list here, or the primary has not been found for long and so may have another address.
    pub(super) fn wants_list(&mut self, now: Instant, hint: Option<MemberId>) -> bool {
        let unknown = hint.filter(|hint| !self.members.contains(hint));
        self.unknown = unknown.or(self.unknown);
        let wanted = now >= self.list_at && (unknown.is_some() || self.asked >= LONG_SEARCH);
        if wanted {
            self.list_at = now.after(LIST_PAUSE);
        }
        wanted
    }

    /// The member has answered.
    pub(super) fn note_answer(&mut self, now: Instant, member: MemberId) {
        self.heard.insert(member, now);
    }

    /// Returns whether the member has answered anything after `since`.
    pub(super) fn heard_after(&self, member: MemberId, since: Instant) -> bool {
        self.heard.get(&member).is_some_and(|at| *at > since)
    }

    /// The member answered as only a primary does.
    pub(super) fn serves(&mut self, member: MemberId) {
        self.primary = Some(member);
        self.next_at = Instant::ZERO; // When the primary is lost, the search begins at once.
        self.asked = 0;
        self.hops = 0;
        self.doubted.remove(&member);
    }

    /// The member `from` answered that it is not the primary, and perhaps named the member that is (`hint`). If the
    /// named member is doubted, it is returned: one call may try it, while the search continues. (The named member may
    /// be dead although the other members do not know this yet, or it may be alive and only a message was lost.)
    pub(super) fn not_primary(
        &mut self,
        now: Instant,
        from: MemberId,
        hint: Option<MemberId>,
    ) -> Option<MemberId> {
        if self.primary.is_some_and(|primary| primary != from) {
            return None; // Since the question was sent, the client has come to believe in another primary.
        }
        self.primary = None;
        let hint = hint.filter(|hint| *hint != from && self.members.contains(hint))?;
        // Two members may name each other for a while. After some hops the search continues at its own pace.
        if self.hops >= self.members.len() {
            return None;
        }
        self.hops += 1;
        if self.is_doubted(now, hint) {
            return Some(hint);
        }
        self.primary = Some(hint);
        None
    }

    /// The member does not answer, or cannot be reached.
    pub(super) fn failed(&mut self, now: Instant, member: MemberId) {
        if self.primary == Some(member) {
            self.primary = None;
        }
        self.doubted.insert(member, now.after(DOUBT));
    }

    /// When the next member may be asked.
    pub(super) const fn next_at(&self) -> Instant {
        self.next_at
    }

    /// The next member to ask, if it is time: the next in turn; members that failed recently come last.
    pub(super) fn ask(
        &mut self,
        now: Instant,
        options: &ProtocolOptions,
        rng: &mut fastrand::Rng,
    ) -> Option<MemberId> {
        if now < self.next_at {
            return None;
        }
        let count = self.members.len();
        let turn = (0..count).map(|step| (self.next + step) % count);
        let at = turn
            .clone()
            .find(|at| !self.is_doubted(now, self.members[*at]))
            .or_else(|| turn.clone().next())
            .expect("a client has members");
        self.next = (at + 1) % count;
        let max = if self.asked < EAGER { options.search_max } else { options.search_max * 8 };
        let pause = pause(options.backoff_min, max, self.asked, rng);
        self.next_at = now.after(pause);
        self.asked = self.asked.saturating_add(1);
        self.hops = 0;
        Some(self.members[at])
    }

    fn is_doubted(&self, now: Instant, member: MemberId) -> bool {
        self.doubted.get(&member).is_some_and(|until| now < *until)
    }
}

/// A pause that doubles with each try, up to `max`. Half of it is random, so that clients do not retry in step.
pub(super) fn pause(min: Duration, max: Duration, tries: u32, rng: &mut fastrand::Rng) -> Duration {
    let full = min.saturating_mul(1 << tries.min(16)).min(max);
    full / 2 + (full / 2).mul_f64(rng.f64())
}

/// How long answers take: the estimator of TCP's retransmission time-out (RFC 6298).
#[derive(Debug, Default)]
pub(super) struct Delays {
    mean: Option<Duration>,
    deviation: Duration,
}

impl Delays {
    /// An answer took this long.
    pub(super) fn observe(&mut self, delay: Duration) {
        let Some(mean) = self.mean else {
            self.mean = Some(delay);
            self.deviation = delay / 2;
            return;
        };
        self.deviation = (self.deviation * 3 + mean.abs_diff(delay)) / 4;
        self.mean = Some((mean * 7 + delay) / 8);
    }

    /// How long to wait for the answer to an attempt of a call that already has this many unanswered attempts. The
    /// first unanswered attempt does not change the time, because it may be due to chance. Each further one doubles the
    /// time, so that a slow cluster does not receive more and more attempts.
    pub(super) fn timeout(&self, options: &ProtocolOptions, silences: u32) -> Duration {
        let usual = self.mean.unwrap_or_default() + self.deviation * 4;
        let first = usual.max(options.attempt_min);
        first.saturating_mul(1 << silences.saturating_sub(1).min(16)).min(options.attempt_max)
    }
}
