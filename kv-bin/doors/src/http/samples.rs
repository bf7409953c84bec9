//! What all members report about themselves, and what they reported a short time ago.

use kv_core::Client;
use kv_core::client::MemberReport;
use kv_core::node::{Latencies, MemberStatus};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Members are asked at most this often, however many people look.
const EVERY: Duration = Duration::from_millis(900);
/// Rates are those of about this time.
const WINDOW: Duration = Duration::from_secs(15);
/// If the last sample is older than this, rates since then would say little about the present.
const FORGET: Duration = Duration::from_secs(120);

/// What the members reported at one time.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) members: Vec<MemberReport>,
}

impl Sample {
    /// The statuses of the members that have answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = &MemberStatus> {
        self.members.iter().filter_map(|member| member.status.as_ref().ok())
    }

    fn of(&self, status: &MemberStatus) -> Option<&MemberStatus> {
        self.answers().find(|it| it.id == status.id)
    }
}

/// The recent samples. There is one for each time that somebody looked, and only those of about [`WINDOW`].
#[derive(Debug, Default)]
pub(super) struct Samples {
    recent: Mutex<VecDeque<Arc<Sample>>>,
    /// Whoever asks the members holds this.
    asking: tokio::sync::Mutex<()>,
}

/// A sample, and an earlier one to compare it with.
type Found = (Arc<Sample>, Option<Arc<Sample>>);

impl Samples {
    /// Returns a sample that is at most about a second old, and an earlier one to compare it with. While the members
    /// are being asked, which takes long if one of them does not answer, others get the last sample if it is younger
    /// than [`WINDOW`].
    pub(super) async fn take(&self, client: &Client) -> Found {
        self.take_from(async || client.cluster_status().await).await
    }

    async fn take_from(&self, ask: impl AsyncFnOnce() -> Vec<MemberReport>) -> Found {
        if let Some(found) = self.within(EVERY) {
            return found;
        }
        let _asking = match self.asking.try_lock() {
            Ok(asking) => asking,
            Err(_) => {
                if let Some(found) = self.within(WINDOW) {
                    return found;
                }
                let asking = self.asking.lock().await;
                if let Some(found) = self.within(EVERY) {
                    return found;
                }
                asking
            }
        };
        let members = ask().await;
        let new = Arc::new(Sample { at: Instant::now(), members });
        let mut recent = self.recent();
        keep(&mut recent, new.clone());
        with_earlier(&recent, new)
    }

    fn recent(&self) -> MutexGuard<'_, VecDeque<Arc<Sample>>> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest sample, if it is younger than this.
    fn within(&self, age: Duration) -> Option<Found> {
        let recent = self.recent();
        let newest = recent.back().filter(|last| last.at.elapsed() < age)?.clone();
        Some(with_earlier(&recent, newest))
    }
}

fn with_earlier(samples: &VecDeque<Arc<Sample>>, newest: Arc<Sample>) -> Found {
    let earlier = samples.front().filter(|first| !Arc::ptr_eq(first, &newest)).cloned();
    (newest, earlier)
}

/// Adds a sample, and drops those that no rate needs any more.
fn keep(samples: &mut VecDeque<Arc<Sample>>, new: Arc<Sample>) {
    if samples.back().is_some_and(|last| new.at - last.at > FORGET) {
        samples.clear();
    }
    samples.push_back(new.clone());
    // One that is older than the window stays if it is the only one to compare with.
    while samples.len() > 2 && new.at - samples[0].at > WINDOW {
        samples.pop_front();
    }
}

/// The activity of a member.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) lasted: Duration,
    pub(super) reads: Latencies,
    pub(super) writes: Latencies,
}

impl Pace {
    /// What the member has done between two samples. Without an earlier one: since it has started.
    pub(super) fn of(status: &MemberStatus, now: &Sample, earlier: Option<&Sample>) -> Self {
        let load = &status.load;
        match earlier.and_then(|earlier| Some((earlier.of(status)?, now.at - earlier.at))) {
            Some((before, lasted)) if before.uptime_ms <= status.uptime_ms => Self {
                lasted,
                reads: load.reads.since(&before.load.reads),
                writes: load.writes.since(&before.load.writes),
            },
            _ => Self {
                lasted: Duration::from_millis(status.uptime_ms),
                reads: load.reads.clone(),
                writes: load.writes.clone(),
            },
        }
    }

    pub(super) fn per_second(&self, latencies: &Latencies) -> f64 {
        latencies.count() as f64 / self.lasted.as_secs_f64().max(0.001)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_looks_while_the_members_are_asked_gets_the_last_sample() {
        let samples = Samples::default();
        let (first, _) = samples.take_from(async || Vec::new()).await;
        let (again, _) = samples.take_from(async || panic!("it is new")).await;
        assert!(Arc::ptr_eq(&first, &again));
        tokio::time::advance(EVERY).await;
        let mut slow = Box::pin(samples.take_from(std::future::pending));
        assert!(futures::poll!(&mut slow).is_pending());
        let (last, _) = samples.take_from(async || panic!("one asks already")).await;
        assert!(Arc::ptr_eq(&first, &last));
        tokio::time::advance(WINDOW).await;
        let mut late = Box::pin(samples.take_from(async || Vec::new()));
        assert!(futures::poll!(&mut late).is_pending(), "that sample is too old");
        drop(slow);
        let (new, earlier) = late.await;
        assert!(!Arc::ptr_eq(&first, &new) && earlier.is_some_and(|earlier| Arc::ptr_eq(&first, &earlier)));
    }

    #[test]
    fn samples_cover_the_window_and_no_more() {
        let (mut samples, start) = (VecDeque::new(), Instant::now());
        let mut at = |seconds| {
            let at = start + Duration::from_secs(seconds);
            keep(&mut samples, Arc::new(Sample { at, members: Vec::new() }));
            samples.iter().map(|it| (it.at - start).as_secs()).collect::<Vec<_>>()
        };
        assert_eq!(at(0), [0]);
        assert_eq!(at(60), [0, 60], "somebody looks once a minute");
        assert_eq!(at(61), [60, 61]);
        assert_eq!((62..90).map(&mut at).last().expect("there are some").len(), 16);
        assert_eq!(at(300), [300], "nobody has looked for a long time");
    }
}
