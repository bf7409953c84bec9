//! The memory that the connections of all clients take together: frames being read, requests in flight, and answers
//! not yet written.
//!
//! Memory is reserved before it is allocated. If none is free, the connection waits (its frame is not read further,
//! which slows the sender down), or the call is answered with `Overloaded`. No client can use all of it: see
//! [`quota`](super::quota).

use super::quota::{ANSWERS, Account, Quota, REQUESTS};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// What memory is used for. The use decides how much of the total may be reserved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// A frame that needs more than a connection's ordinary buffer. It may use half of the total, so that a client
    /// that sends many of them, or never completes them, leaves room for small requests.
    LargeFrame,
    /// The answer to a read. It may use three quarters.
    Answer,
    /// Anything else that can wait.
    Frame,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    memory: Quota,
    /// The number of tasks that wait for room.
    waiting: AtomicUsize,
    room: Notify,
}

impl Budget {
    /// Creates a budget of this many bytes for all clients.
    pub(super) fn new(limit: usize) -> Arc<Self> {
        let memory = Quota::new(limit, REQUESTS);
        Arc::new(Self { memory, waiting: AtomicUsize::new(0), room: Notify::new() })
    }

    pub(super) fn limit(&self) -> usize {
        self.memory.limit()
    }

    /// How many bytes are reserved.
    pub(super) fn held(&self) -> usize {
        self.memory.held()
    }

    fn try_take(&self, account: &Account, bytes: usize, what: Use) -> bool {
        let limit = self.memory.limit();
        let (limit, factor) = match what {
            Use::LargeFrame => (limit / 2, REQUESTS),
            Use::Answer => (limit / 4 * 3, ANSWERS),
            Use::Frame => (limit, REQUESTS),
        };
        self.memory.take_within(&account.memory, bytes, limit, factor)
    }

    fn give_back(&self, account: &Account, bytes: usize) {
        self.memory.give_back(&account.memory, bytes);
        // A waiter registers before it checks for the last time, so either it sees the released memory or this sees
        // the waiter.
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }
}

/// A reserved part of a budget. Dropping it releases the memory.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    account: Arc<Account>,
    bytes: usize,
}

impl Share {
    /// Nothing yet.
    pub(super) fn none(budget: &Arc<Budget>, account: &Arc<Account>) -> Self {
        Self { budget: budget.clone(), account: account.clone(), bytes: 0 }
    }

    /// Reserves this many bytes, if there is room.
    pub(super) fn of(budget: &Arc<Budget>, account: &Arc<Account>, bytes: usize, what: Use) -> Option<Self> {
        let mut share = Self::none(budget, account);
        share.try_grow_by(bytes, what).then_some(share)
    }

    /// Reserves this many bytes even if there is no room: for small allocations that can no longer be refused.
    pub(super) fn force_reserve(budget: &Arc<Budget>, account: &Arc<Account>, bytes: usize) -> Self {
        budget.memory.take_anyway(&account.memory, bytes);
        Self { budget: budget.clone(), account: account.clone(), bytes }
    }

    /// How many bytes are reserved.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn try_grow_by(&mut self, bytes: usize, what: Use) -> bool {
        let taken = self.budget.try_take(&self.account, bytes, what);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Grows the share to at least this many bytes, once there is room. Cancel safe.
    pub(super) async fn grow_to(&mut self, bytes: usize, what: Use) {
        let missing = bytes.saturating_sub(self.bytes);
        if missing == 0 || self.try_grow_by(missing, what) {
            return;
        }
        let budget = self.budget.clone();
        let _waiting = WaitGuard::at(&budget);
        loop {
            // Registered before the check, so that room that becomes free in between is not missed.
            let mut waiting = std::pin::pin!(budget.room.notified());
            waiting.as_mut().enable();
            if self.try_grow_by(missing, what) {
                return;
            }
            waiting.await;
        }
    }

    /// Splits off up to this many bytes into a new share.
    pub(super) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), account: self.account.clone(), bytes }
    }

    /// Releases everything above this many bytes.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        if surplus > 0 {
            self.bytes = bytes;
            self.budget.give_back(&self.account, surplus);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

/// Counts as a waiter until it is dropped.
struct WaitGuard<'a>(&'a Budget);

impl<'a> WaitGuard<'a> {
    fn at(budget: &'a Budget) -> Self {
        budget.waiting.fetch_add(1, Ordering::SeqCst);
        Self(budget)
    }
}

impl Drop for WaitGuard<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_waits_for_room() {
        let (budget, me, other) = (Budget::new(100), Arc::default(), Arc::default());
        let first = Share::of(&budget, &me, 60, Use::Frame).expect("all of it is free");
        let mut second = Share::none(&budget, &other);
        let mut growing = Box::pin(second.grow_to(50, Use::Frame));
        assert!(futures::poll!(&mut growing).is_pending());
        drop(first);
        growing.await;
        assert_eq!((second.bytes(), budget.held()), (50, 50));
        second.shrink_to(20);
        assert_eq!(budget.held(), 20);
        drop(second);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn large_frames_and_answers_leave_room_for_small_requests() {
        let budget = Budget::new(100);
        let take = |bytes, what| Share::of(&budget, &Arc::default(), bytes, what);
        let large = take(50, Use::LargeFrame);
        assert!(large.is_some() && take(1, Use::LargeFrame).is_none());
        let answer = take(25, Use::Answer);
        assert!(answer.is_some() && take(1, Use::Answer).is_none());
        assert!(take(25, Use::Frame).is_some());
        assert!(take(26, Use::Frame).is_none());
    }

    /// F-load-9: one client leaves memory for others, however many connections it opens.
    #[test]
    fn one_client_leaves_memory_for_others() {
        let budget = Budget::new(1200);
        for what in [Use::LargeFrame, Use::Answer, Use::Frame] {
            let (greedy, other) = (Arc::default(), Arc::default());
            let held: Vec<_> = std::iter::from_fn(|| Share::of(&budget, &greedy, 1, what)).collect();
            assert!(held.len() >= 400, "{what:?}: {}", held.len());
            let others: Vec<_> = std::iter::from_fn(|| Share::of(&budget, &other, 1, what)).collect();
            assert!(others.len() >= 100, "{what:?}: {} beside {}", others.len(), held.len());
        }
    }

    #[tokio::test]
    async fn a_cancelled_reservation_takes_nothing() {
        let (budget, me) = (Budget::new(10), Arc::default());
        let all = Share::force_reserve(&budget, &me, 12);
        let mut other = Share::none(&budget, &me);
        let mut growing = Box::pin(other.grow_to(1, Use::Frame));
        assert!(futures::poll!(&mut growing).is_pending());
        drop(growing);
        drop(all);
        assert_eq!((other.bytes(), budget.held()), (0, 0));
    }
}
