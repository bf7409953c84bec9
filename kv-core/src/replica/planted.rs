//! Seeded bugs: what a replica does wrong when it is told to, for the simulator to find out. Not in any other build.

use super::decide::{Decision, Quorums, decide as decide_rightly, decide_carelessly};
use super::formation::{Forming, Progress};
use super::primary::Primary;
use super::{Now, Replica};
use crate::bug::Bug;
use crate::ids::{Anchor, Hash, Instant, MemberId, Op};
use crate::message::{FormationStep, Fresh, LogSummary, Moment, Recovered, Slot};
use std::collections::BTreeMap;
use std::time::Duration;

/// What a replica starts with.
pub(super) fn at_start(
    bug: Option<Bug>,
    vote_lifetime: Duration,
    mut recovered: Recovered,
) -> (Duration, Recovered) {
    match bug {
        Some(Bug::VotesNeverExpire) => return (Duration::MAX, recovered),
        Some(Bug::ForgetsItsVote) => recovered.view = recovered.log_view,
        Some(Bug::DamageForgotten) => recovered.damage = None,
        _ => {}
    }
    (vote_lifetime, recovered)
}

/// The next step of forming.
pub(super) fn forming(bug: Option<Bug>, forming: &Forming, quorum: usize, right: Progress) -> Progress {
    match (bug, right) {
        (Some(Bug::WipedMemberJoins), Progress::DiskLoss(_)) => Progress::Write(FormationStep::Formatted),
        (Some(Bug::FormsWithoutAll), Progress::Wait)
            if !forming.writing && forming.heard.len() + 1 >= quorum =>
        {
            forming.progress(forming.heard.len())
        }
        (_, right) => right,
    }
}

/// The decision over the log of a view.
pub(super) fn decide(
    bug: Option<Bug>,
    own: Option<&LogSummary>,
    votes: &BTreeMap<MemberId, LogSummary>,
    mut quorums: Quorums,
) -> Decision {
    let mut votes = votes.clone();
    let newest = votes.values().map(|summary| summary.log_view).max();
    match (bug, own) {
        (Some(Bug::OwnCommitAsBase), Some(own)) => {
            return match decide_rightly(&votes, quorums) {
                Decision::Log(_) => decide_carelessly(own.commit, &votes, quorums),
                undecided => undecided,
            };
        }
        (Some(Bug::LongestLogWins), _) => {
            let newest = newest.unwrap_or_default();
            votes.values_mut().for_each(|summary| summary.log_view = newest);
        }
        (Some(Bug::FaultyCountsAsNack), _) => votes.values_mut().for_each(take_faulty_for_absent),
        (Some(Bug::OneNackIsEnough), _) => quorums.nack = 1,
        (Some(Bug::KeepsOneOfTwo), _) => keep_first(&mut votes),
        _ => {}
    }
    decide_rightly(&votes, quorums)
}

fn take_faulty_for_absent(summary: &mut LogSummary) {
    summary.open = false;
    if let Some(first) = summary.suffix.iter().position(|slot| matches!(slot, Slot::Faulty(_))) {
        summary.suffix.truncate(first);
        summary.head = summary.commit.op.advance(first as u64);
    }
}

/// Of those with the greatest `log_view`, only the first is believed.
fn keep_first(votes: &mut BTreeMap<MemberId, LogSummary>) {
    let Some(newest) = votes.values().map(|summary| summary.log_view).max() else { return };
    let mut first = None;
    for summary in votes.values_mut().filter(|summary| summary.log_view == newest) {
        match &first {
            None => first = Some(summary.clone()),
            Some(first) if first.commit == summary.commit => *summary = first.clone(),
            Some(_) => {}
        }
    }
}

/// What a read waits for.
pub(super) fn read_op(bug: Option<Bug>, op: Op, commit: Op) -> Op {
    if bug == Some(Bug::ReadBelowInherited) { commit } else { op }
}

/// What a member is told, whether or not a quorum has answered.
pub(super) fn fresh(bug: Option<Bug>, right: Option<Fresh>, moment: Option<Moment>, op: Op) -> Option<Fresh> {
    if bug == Some(Bug::FreshUnconfirmed) { moment.map(|since| Fresh { op, since }) } else { right }
}

/// Since when a state is taken to be fresh.
pub(super) fn fresh_since(bug: Option<Bug>, since: Moment, now: Moment) -> Moment {
    if bug == Some(Bug::FreshSinceHeard) { now } else { since }
}

impl Primary {
    /// A read joins the round that is under way.
    pub(super) fn joins_round(&self, bug: Option<Bug>) -> bool {
        bug == Some(Bug::ReadRoundReused) && self.is_serving() && !self.rounds.in_round.is_empty()
    }
}

impl Replica {
    /// The cluster's time as the primary takes it.
    pub(super) fn planted_time(&self, right: Duration, now: Now, steady: Instant) -> Duration {
        match (self.bug, self.ages.estimate) {
            (Some(Bug::StampOfOneClock), _) => Duration::from_millis(now.wall.get()),
            (Some(Bug::GreatestEstimate), Some((time, at))) => right.max(time + steady.since(at)),
            _ => right,
        }
    }

    /// The arrival of another entry that was at this op.
    pub(super) fn planted_arrival(&mut self, entry: Anchor) {
        let at_op = (entry.op, Hash::ZERO)..(entry.op.next(), Hash::ZERO);
        if self.has_bug(Bug::ArrivalOfAnother) {
            let first = self.ages.known.range(at_op.clone()).map(|(_, known)| (known.at, known.least));
            let Some((at, least)) = first.min() else { return };
            self.ages.known.range_mut(at_op).for_each(|(_, known)| (known.at, known.least) = (at, least));
        }
    }

    /// The greatest time that any stamp seen here tells, with what has passed since.
    pub(super) fn note_estimate(&mut self, entry: Anchor) {
        let Some(stamp) = self.log.point(entry.op).map(|point| point.timestamp) else { return };
        let (time, now) = (Duration::from_millis(stamp.get()), self.steady);
        if self.ages.estimate.is_none_or(|(before, at)| time > before + now.since(at)) {
            self.ages.estimate = Some((time, now));
        }
    }

    /// How many acknowledgements commit an op, and what the own append counts for.
    pub(super) fn planted_count(&self, quorum: usize, own: Op) -> (usize, Op) {
        match self.bug {
            Some(Bug::QuorumOfOneLess) => (quorum.saturating_sub(1).max(1), own),
            Some(Bug::OwnAppendCountsEarly) => (quorum, self.log.head().op),
            _ => (quorum, own),
        }
    }

    /// What answers an earlier question for a piece of a state does not count.
    pub(super) fn ask_anew(&mut self) {
        let nonce = if self.has_bug(Bug::OnlyTheLastQuestionCounts) { Some(self.nonce()) } else { None };
        self.transfer.renumber(nonce);
    }

    /// The new primary does not wait for its disk before it says `StartView`.
    pub(super) fn starts_early(&self) -> bool {
        self.has_bug(Bug::StartViewEarly) && self.primary() == self.me
    }
}
