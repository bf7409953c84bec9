//! How much of one resource (calls, watches, bytes, connections) all clients together may hold, and how much each of
//! them.
//!
//! A client may hold at most `factor` times what is still free. So a single client may hold most of the resource, but
//! never all, and less as more clients hold some. A client that takes as much as it can, over any number of
//! connections, leaves room for the next one, and the number of clients need not be configured. (Network switches
//! share their buffers in the same way: "dynamic thresholds".)

use super::sync::lock;
use kv_transport::Peer;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

/// The factor for counted resources: a single client gets eight ninths.
pub(super) const COUNTED: usize = 8;
/// The factor for the memory of requests: a single client gets two thirds.
pub(super) const REQUESTS: usize = 2;
/// The factor for the memory of answers: a single client gets half.
pub(super) const ANSWERS: usize = 1;
/// The registry removes the accounts of disconnected clients when it has this many.
const FEW_ACCOUNTS: usize = 64;

/// What one client holds, over all its connections.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) connections: AtomicUsize,
    pub(super) calls: AtomicUsize,
    pub(super) call_bytes: AtomicUsize,
    pub(super) watches: AtomicUsize,
    pub(super) watch_bytes: AtomicUsize,
    pub(super) memory: AtomicUsize,
}

/// How much all clients together hold of one resource.
#[derive(Debug)]
pub(super) struct Quota {
    limit: usize,
    factor: usize,
    held: AtomicUsize,
}

impl Quota {
    /// Creates a quota of `limit` for all clients.
    pub(super) const fn new(limit: usize, factor: usize) -> Self {
        Self { limit, factor, held: AtomicUsize::new(0) }
    }

    /// How much is taken.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    pub(super) const fn limit(&self) -> usize {
        self.limit
    }

    /// Takes `more` for a client that holds `own`, or nothing. If two clients compete for the last part, one or
    /// neither gets it, never both.
    pub(super) fn take(&self, own: &AtomicUsize, more: usize) -> bool {
        self.take_within(own, more, self.limit, self.factor)
    }

    /// The same with another limit and factor.
    pub(super) fn take_within(&self, own: &AtomicUsize, more: usize, limit: usize, factor: usize) -> bool {
        let before = self.held.fetch_add(more, Ordering::SeqCst);
        let own_before = own.fetch_add(more, Ordering::SeqCst);
        let fits = may_take(own_before, more, before, limit, factor);
        if !fits {
            self.give_back(own, more);
        }
        fits
    }

    /// Takes this much even beyond the limit. It must be given back like anything else.
    pub(super) fn take_anyway(&self, own: &AtomicUsize, more: usize) {
        self.held.fetch_add(more, Ordering::SeqCst);
        own.fetch_add(more, Ordering::SeqCst);
    }

    /// Gives back what was taken.
    pub(super) fn give_back(&self, own: &AtomicUsize, bytes: usize) {
        let own_before = own.fetch_sub(bytes, Ordering::SeqCst);
        let before = self.held.fetch_sub(bytes, Ordering::SeqCst);
        // Only in tests: this is called in drops, where a panic may abort the process of an application.
        debug_assert!(bytes <= own_before && bytes <= before, "nothing is given back that was not taken");
    }
}

/// Whether a client that holds `own` may take `more`, if all clients hold `held` of `limit`.
fn may_take(own: usize, more: usize, held: usize, limit: usize, factor: usize) -> bool {
    let free = limit.saturating_sub(held);
    more <= free && own.saturating_add(more) <= free.saturating_mul(factor)
}

/// The accounts of connected clients. Their number is bounded by the number of connections.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    known: Mutex<AccountTable>,
}

#[derive(Debug, Default)]
struct AccountTable {
    accounts: HashMap<String, Weak<Account>>,
    /// The number of accounts after the last removal of disconnected clients.
    alive: usize,
}

impl Accounts {
    /// Returns the account of a client: there is one for each [`identity`], for as long as it has connections.
    pub(super) fn of(&self, identity: String) -> Arc<Account> {
        let mut known = lock(&self.known);
        if let Some(account) = known.accounts.get(&identity).and_then(Weak::upgrade) {
            return account;
        }
        if known.accounts.len() >= FEW_ACCOUNTS.max(2 * known.alive) {
            known.accounts.retain(|_, account| account.strong_count() > 0);
            known.alive = known.accounts.len();
        }
        let account = Arc::<Account>::default();
        known.accounts.insert(identity, Arc::downgrade(&account));
        account
    }
}

/// Who shares an account: all callers with a certificate of the same name or, without certificates, all callers from
/// the same address.
pub(super) fn identity(peer: &Peer, remote: &str) -> String {
    match peer {
        Peer::Client { name, .. } => format!("client {name}"),
        Peer::Member { id, .. } => format!("member {id}"),
        _ => remote.rsplit_once(':').map_or(remote, |(host, _port)| host).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one after the other until there are no more; returns how many.
    fn greedy(quota: &Quota, own: &AtomicUsize) -> usize {
        (0..quota.limit()).take_while(|_| quota.take(own, 1)).count()
    }

    #[test]
    fn each_client_leaves_room_for_the_next() {
        let quota = Quota::new(900, COUNTED);
        let accounts: [Account; 3] = Default::default();
        let got = accounts.each_ref().map(|it| greedy(&quota, &it.calls));
        assert!((799..=801).contains(&got[0]), "{got:?}");
        assert!(got.iter().all(|got| *got > 0), "{got:?}");
        assert!(quota.held() < 900, "there is always room for one that comes");
    }

    #[test]
    fn a_thousand_greedy_clients_leave_room_for_another() {
        let quota = Quota::new(64 << 10, COUNTED);
        let accounts: Vec<Account> = std::iter::repeat_with(Account::default).take(1000).collect();
        // The clients take turns.
        while accounts.iter().filter(|it| quota.take(&it.watches, 1)).count() > 0 {}
        let late = Account::default();
        assert!(quota.take(&late.watches, 1));
        quota.give_back(&late.watches, 1);
        accounts.iter().for_each(|it| quota.give_back(&it.watches, it.watches.load(Ordering::SeqCst)));
        assert_eq!(quota.held(), 0);
    }

    #[test]
    fn small_limits_are_used_up_to_the_last() {
        for limit in 1..=8 {
            assert_eq!(greedy(&Quota::new(limit, COUNTED), &AtomicUsize::new(0)), limit);
        }
    }

    #[test]
    fn accounts_are_by_certificate_or_address_and_end_with_the_last_connection() {
        let client = |name: &str| Peer::Client { cluster: "test".into(), name: name.into() };
        assert_eq!(identity(&client("app"), "10.0.0.1:4000"), identity(&client("app"), "10.0.0.2:5000"));
        assert_ne!(identity(&client("app"), "10.0.0.1:4000"), identity(&client("job"), "10.0.0.1:4000"));
        let stranger = |remote| identity(&Peer::Unauthenticated, remote);
        assert_eq!(stranger("10.0.0.1:4000"), stranger("10.0.0.1:4001"));
        assert_eq!(stranger("[::1]:4000"), "[::1]");
        assert_eq!(stranger("this process"), "this process");

        let accounts = Accounts::default();
        let first = accounts.of("a".into());
        assert!(Arc::ptr_eq(&first, &accounts.of("a".into())));
        assert!(!Arc::ptr_eq(&first, &accounts.of("b".into())));
        (0..10 * FEW_ACCOUNTS).for_each(|i| drop(accounts.of(i.to_string())));
        assert!(lock(&accounts.known).accounts.len() <= FEW_ACCOUNTS + 1);
        assert!(Arc::ptr_eq(&first, &accounts.of("a".into())));
    }
}
