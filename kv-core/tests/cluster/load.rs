//! Writers that record every acknowledgement.

use super::harness::Harness;
use kv_core::Client;
use kv_core::error::WriteError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::task::JoinSet;

/// Writers that run until they are stopped. Each has one key and puts 1, 2, 3, ... there.
pub(crate) struct Load {
    writers: JoinSet<Account>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

/// What one writer knows.
#[derive(Debug)]
struct Account {
    key: String,
    /// Puts that were acknowledged.
    acknowledged: u64,
    /// Puts whose outcome is unknown.
    unknown: u64,
    /// The last value that was acknowledged.
    last: u64,
}

impl Load {
    /// Starts writers.
    pub(crate) fn start(client: &Client, writers: usize) -> Self {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut set = JoinSet::new();
        for writer in 0..writers {
            set.spawn(write(client.clone(), format!("load/{writer}"), stop.clone(), acknowledged.clone()));
        }
        Self { writers: set, stop, acknowledged }
    }

    /// Puts that were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits for this many more acknowledgements.
    pub(crate) async fn progress(&self, puts: u64) {
        let goal = self.acknowledged() + puts;
        super::harness::eventually("progress", async || self.acknowledged() >= goal).await;
    }

    /// Stops the writers and checks every key: nothing acknowledged is missing, nothing was applied twice. Returns how
    /// many outcomes were unknown.
    pub(crate) async fn check(mut self, harness: &Harness) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let reader = harness.client().await;
        let mut unknown = 0;
        while let Some(account) = self.writers.join_next().await {
            let account = account.expect("the writer does not panic");
            let Some(record) = reader.get(&account.key).await.expect("it can be read") else {
                assert_eq!(account.acknowledged, 0, "{account:?}: acknowledged puts are lost");
                continue;
            };
            let value: u64 = std::str::from_utf8(&record.value).expect("a number").parse().expect("a number");
            assert!(
                value >= account.last,
                "{account:?}: the last acknowledged put is lost, {value} stands there"
            );
            let (least, most) = (account.acknowledged, account.acknowledged + account.unknown);
            assert!(
                (least..=most).contains(&record.version),
                "{account:?}: applied {} times, that is lost or duplicated",
                record.version
            );
            unknown += account.unknown;
        }
        unknown
    }
}

async fn write(client: Client, key: String, stop: Arc<AtomicBool>, total: Arc<AtomicU64>) -> Account {
    let mut account = Account { key, acknowledged: 0, unknown: 0, last: 0 };
    let mut value = 0;
    while !stop.load(Ordering::Relaxed) {
        value += 1;
        match client.put(&account.key, value.to_string()).await {
            Ok(_) => {
                account.acknowledged += 1;
                account.last = value;
                total.fetch_add(1, Ordering::Relaxed);
            }
            Err(WriteError::OutcomeUnknown(_)) => account.unknown += 1,
            Err(error) => panic!("{}: {error}", account.key),
        }
    }
    account
}
