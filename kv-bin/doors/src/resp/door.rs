//! What all connections of a door share, and how groups of requests are run.

use super::clock::ClusterClock;
use super::command::{Call, Direct, Run, Step};
use super::cursors::Cursors;
use super::overlay::{Change, Guard, Overlay};
use super::registry::Registry;
use super::reply::Reply;
use super::{RespOptions, errors};
use crate::attempts::{MAX_ATTEMPTS, pause};
use crate::memory::{Memory, Share};
use bytes::Bytes;
use kv_core::Client;
use kv_core::client::{Lifetime, Record, Revision, StepResult, Transacted, Transaction};
use kv_core::config::{MemberId, Role};
use kv_core::error::{ReadError, WriteError};
use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How many keys one read may name, and how many one transaction may change.
const MAX_KEYS: usize = 1000;
/// How many conditions one transaction may have.
const MAX_CONDITIONS: usize = 64;
/// Which reads a connection makes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reads {
    Linearizable,
    /// From any member; they may be stale.
    Local,
}

/// The keys that a connection watches, and when they were last changed; `None` if they did not exist.
pub(crate) type Watched = BTreeMap<Bytes, Option<Revision>>;

/// Why a group of requests was not run.
#[derive(Debug)]
pub(crate) enum GroupError {
    /// Nothing was changed. One of the requests may be at fault, or what they need together. Alone, the others may
    /// succeed.
    Refused(Reply),
    /// The whole group has failed, and a part of it would, too.
    Failed(Reply),
}

/// About how many bytes a record takes besides its value.
const RECORD_BYTES: usize = 64;

/// Records that have been read.
#[derive(Debug)]
struct Found {
    records: Vec<(Bytes, Option<Record>)>,
    bytes: usize,
    /// Whether the values are kept.
    values: bool,
    /// The memory of the records, and of what is made of them.
    share: Share,
}

/// All connections take too much memory together.
pub(crate) const NO_MEMORY: &str =
    "the memory of this door is used up, which ends when other clients have their replies";

#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) client: Client,
    pub(crate) options: RespOptions,
    pub(crate) clock: ClusterClock,
    pub(crate) registry: Registry,
    pub(crate) cursors: Mutex<Cursors>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) started: Instant,
    /// The members, once they are known.
    pub(crate) members: OnceLock<Vec<(MemberId, Role)>>,
    /// The primary, while a connection subscribes to its changes.
    pub(crate) primary: watch::Sender<Option<u8>>,
}

impl Door {
    pub(crate) fn new(client: Client, options: RespOptions) -> Self {
        let (registry, memory) = (Registry::default(), Memory::new(options.max_memory_bytes));
        Self {
            client,
            options,
            clock: ClusterClock::default(),
            registry,
            cursors: Mutex::default(),
            memory,
            started: Instant::now(),
            members: OnceLock::new(),
            primary: watch::Sender::new(None),
        }
    }

    /// Runs commands that only read. All see the same revision.
    pub(crate) async fn read(&self, calls: &[Call], reads: Reads) -> Result<Vec<Reply>, GroupError> {
        if reads == Reads::Linearizable {
            self.learn_time(calls).await.map_err(GroupError::Failed)?;
        }
        let values = calls.iter().any(|call| call.spec.reads_value);
        let mut found = self.fetch(&keys_of(calls), reads, values).await.map_err(|error| match error {
            ReadError::Key { .. } | ReadError::Malformed(_) | ReadError::Refused(_) => {
                GroupError::Refused(errors::read(&error))
            }
            error => GroupError::Failed(errors::read(&error)),
        })?;
        let mut overlay = self.overlay(std::mem::take(&mut found.records));
        self.run_all(calls, &mut overlay, &mut found).await.map_err(GroupError::Refused)
    }

    /// Learns the cluster's time if it may be wrong and the commands need it: those that keep or set a time to live
    /// could otherwise end a key early.
    pub(crate) async fn learn_time<'a>(
        &self,
        calls: impl IntoIterator<Item = &'a Call>,
    ) -> Result<(), Reply> {
        if self.clock.is_known() || !calls.into_iter().any(|call| call.spec.needs_time(&call.request)) {
            return Ok(());
        }
        // Any write has a timestamp. This one changes nothing.
        self.commit(self.client.transaction().get("k")).await.map_err(|error| {
            Reply::error(format!("TRYAGAIN nothing was changed: the time of the cluster is unknown: {error}"))
        })?;
        Ok(())
    }

    fn overlay(&self, records: Vec<(Bytes, Option<Record>)>) -> Overlay {
        Overlay::new(records, self.clock.now(), self.client.max_value_bytes())
    }

    /// Runs commands on keys that have been read. Fails if their replies would be too large together, because a small
    /// request can name a large value many times; or if the values that they build would be, for example in many calls
    /// of `SETRANGE`.
    async fn run_all(
        &self,
        calls: &[Call],
        overlay: &mut Overlay,
        found: &mut Found,
    ) -> Result<Vec<Reply>, Reply> {
        let max = self.options.max_reply_bytes;
        let max_written = 2 * (self.client.max_key_bytes() + self.client.max_value_bytes());
        let max_written = max_written.max(self.options.max_request_bytes);
        let (mut replies, mut bytes) = (Vec::with_capacity(calls.len()), 0_usize);
        for call in calls {
            // Each command may copy a value. Many of them must not keep the thread from its other tasks.
            tokio::task::consume_budget().await;
            let reply = match call.spec.run {
                Run::Keys(function) => function(overlay, &call.request).unwrap_or_else(|error| error),
                Run::Space(_) | Run::Session(_) => Reply::error("ERR this command is not a command on keys"),
            };
            bytes = bytes.saturating_add(reply.weight());
            if bytes > max {
                return Err(Reply::error(format!(
                    "ERR nothing was changed: the reply would have more than {max} bytes"
                )));
            }
            if !found.share.set(found.bytes + bytes + overlay.written()) {
                return Err(Reply::error(format!("TRYAGAIN nothing was changed: {NO_MEMORY}")));
            }
            if overlay.written() > max_written {
                return Err(Reply::error(format!(
                    "ERR nothing was changed: the values of the transaction have more than {max_written} bytes"
                )));
            }
            replies.push(reply);
        }
        Ok(replies)
    }

    /// Reads keys at one revision. Without `values`, the values are dropped as they arrive. Fails if the records take
    /// more than [`max_reply_bytes`](field@RespOptions::max_reply_bytes).
    async fn fetch(&self, keys: &[Bytes], reads: Reads, values: bool) -> Result<Found, ReadError> {
        let records = Vec::with_capacity(keys.len());
        let mut found = Found { records, bytes: 0, values, share: self.memory.share() };
        if let [key] = keys {
            let get = self.client.get(key);
            let get = if reads == Reads::Local { get.local() } else { get };
            self.keep(key, get.await?, &mut found)?;
            return Ok(found);
        }
        let mut at = None;
        for chunk in keys.chunks(MAX_KEYS) {
            let many = self.client.get_many(chunk);
            let many = if reads == Reads::Local { many.local() } else { many };
            // Another member may answer than before, which must have reached the revision.
            let read = at.into_iter().fold(many, |many, at| many.at_least(at).at(at)).with_revision().await;
            match read {
                Ok(read) => {
                    at = Some(read.revision);
                    for (key, record) in chunk.iter().zip(read.found) {
                        self.keep(key, record, &mut found)?;
                    }
                }
                // The values are too large for one answer.
                Err(ReadError::Refused(_)) => at = self.fetch_singly(chunk, at, &mut found).await?,
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn keep(&self, key: &Bytes, record: Option<Record>, found: &mut Found) -> Result<(), ReadError> {
        let mut record = record;
        if let Some(record) = record.as_mut().filter(|_| !found.values) {
            record.value = Bytes::new();
        }
        found.bytes += record.as_ref().map_or(0, |record| record.value.len()) + RECORD_BYTES;
        let max = self.options.max_reply_bytes;
        if found.bytes > max {
            return Err(ReadError::Refused(format!(
                "the keys and values that are read have more than {max} bytes"
            )));
        }
        if !found.share.set(found.bytes) {
            return Err(ReadError::Refused(NO_MEMORY.to_owned()));
        }
        found.records.push((key.clone(), record));
        Ok(())
    }

    /// Reads keys one after another, at the revision `at` or else at the present one.
    async fn fetch_singly(
        &self,
        keys: &[Bytes],
        mut at: Option<Revision>,
        found: &mut Found,
    ) -> Result<Option<Revision>, ReadError> {
        for key in keys {
            let get = self.client.get(key);
            let read = at.into_iter().fold(get, |get, at| get.at_least(at).at(at)).with_revision().await?;
            at = Some(read.revision);
            self.keep(key, read.found, found)?;
        }
        Ok(at)
    }

    /// Writes a group of requests that need no read.
    ///
    /// The reply is `None` if a watched key has changed.
    pub(crate) async fn write(
        &self,
        direct: Direct,
        watched: &Watched,
    ) -> Result<Option<Vec<Reply>>, GroupError> {
        let results = if watched.is_empty()
            && let Some((key, step)) = direct.only_step()
        {
            self.write_one(key, step).await.map(Some)
        } else {
            let transaction = guard(direct.steps(self.client.transaction()), watched);
            self.commit(transaction).await.map(|done| done.succeeded.then_some(done.results))
        };
        match results {
            Ok(results) => Ok(results.map(|results| direct.replies(&results))),
            Err(error) if is_refusal(&error) => Err(GroupError::Refused(errors::write(&error))),
            Err(error) => Err(GroupError::Failed(errors::write(&error))),
        }
    }

    /// A single step is cheaper as the operation that the client has for it.
    async fn write_one(&self, key: &Bytes, step: &Step) -> Result<Vec<StepResult>, WriteError> {
        let sent = self.clock.local_ms();
        let (result, timestamp) = match step {
            Step::Put { value, ttl_ms } => {
                let put = self.client.put(key, value.clone());
                let put = ttl_ms.map(Duration::from_millis).into_iter().fold(put, |put, ttl| put.ttl(ttl));
                (StepResult::Put, put.await?.timestamp)
            }
            Step::Delete => {
                let deleted = self.client.delete(key).await?;
                (StepResult::Deleted { existed: deleted.existed }, deleted.timestamp)
            }
            Step::Touch { ttl_ms } => {
                let touched = self.client.touch(key, Duration::from_millis(*ttl_ms)).await?;
                (StepResult::Touched { existed: touched.existed }, touched.timestamp)
            }
            // These are transactions anyway, and a transaction has a timestamp.
            Step::Add(by) => return Ok(self.commit(self.client.transaction().add(key, *by)).await?.results),
            Step::Get => return Ok(self.commit(self.client.transaction().get(key)).await?.results),
        };
        self.clock.observe(sent, self.clock.local_ms(), timestamp.get());
        Ok(vec![result])
    }

    async fn commit(&self, transaction: Transaction) -> Result<Transacted, WriteError> {
        let sent = self.clock.local_ms();
        let done = transaction.await?;
        self.clock.observe(sent, self.clock.local_ms(), done.timestamp.get());
        Ok(done)
    }

    /// Runs commands as one transaction. `None` if a watched key has changed. A command that fails has an error as its
    /// reply and changes nothing; the others take effect.
    pub(crate) async fn transact(
        &self,
        calls: &[Call],
        watched: &Watched,
        reads: Reads,
    ) -> Result<Option<Vec<Reply>>, Reply> {
        self.learn_time(calls).await?;
        let changed = keys_of(calls.iter().filter(|call| call.spec.is_write)).len();
        if changed > MAX_KEYS {
            return Err(Reply::error(format!(
                "ERR nothing was changed: {changed} keys are named to be changed, and up to {MAX_KEYS} can be at once"
            )));
        }
        let mut direct = Direct::transaction();
        let now = self.clock.now();
        if !calls.is_empty() && calls.iter().all(|call| direct.push(call, now)) {
            match self.write(direct, watched).await {
                Ok(replies) => return Ok(replies),
                Err(GroupError::Failed(reply)) => return Err(reply),
                // One of them fails, and only a run of its own shows which.
                Err(GroupError::Refused(_)) => {}
            }
        }
        let mut keys = keys_of(calls);
        keys.extend(watched.keys().filter(|key| !keys.contains(key)).cloned().collect::<Vec<_>>());
        let is_write = calls.iter().any(|call| call.spec.is_write);
        let reads = if is_write || !watched.is_empty() { Reads::Linearizable } else { reads };
        for attempt in 0..MAX_ATTEMPTS {
            let mut found = self.fetch(&keys, reads, true).await.map_err(|error| errors::read(&error))?;
            let is_unchanged = |(key, record): &(Bytes, Option<Record>)| {
                watched.get(key).is_none_or(|seen| *seen == record.as_ref().map(|record| record.modified))
            };
            if !found.records.iter().all(is_unchanged) {
                return Ok(None);
            }
            let mut overlay = self.overlay(std::mem::take(&mut found.records));
            let replies = self.run_all(calls, &mut overlay, &mut found).await?;
            let Some(transaction) = self.transaction(&overlay, watched)? else { return Ok(Some(replies)) };
            match self.commit(transaction).await {
                Ok(done) if done.succeeded => return Ok(Some(replies)),
                Ok(_) => pause(attempt).await,
                Err(error) => return Err(errors::write(&error)),
            }
        }
        Err(Reply::error(format!(
            "TRYAGAIN nothing was changed: {MAX_ATTEMPTS} times, other clients have changed the keys before this could"
        )))
    }

    /// The transaction that writes the changes of an overlay; `None` if there are no changes.
    fn transaction(&self, overlay: &Overlay, watched: &Watched) -> Result<Option<Transaction>, Reply> {
        let changes = overlay.changes();
        if changes.is_empty() {
            return Ok(None);
        }
        let guards = overlay.guards();
        let other: HashSet<&Bytes> = guards.iter().map(|(key, _)| *key).collect();
        let watched = watched.iter().filter(|(key, _)| !other.contains(key));
        let watched: Watched = watched.map(|(key, seen)| (key.clone(), *seen)).collect();
        let count = guards.len() + watched.len();
        if count > MAX_CONDITIONS {
            return Err(Reply::error(format!(
                "ERR nothing was changed: the result depends on {count} keys, and a transaction may depend on {MAX_CONDITIONS}"
            )));
        }
        let transaction = guard(self.client.transaction(), &watched);
        let transaction = guards.into_iter().fold(transaction, |transaction, (key, guard)| match guard {
            Guard::Absent => transaction.if_absent(key),
            Guard::Revision(revision) => transaction.if_revision(key, revision),
        });
        let left = |at: u64| at.saturating_sub(overlay.now()).max(1);
        let transaction = changes.into_iter().fold(transaction, |transaction, (key, change)| match change {
            Change::Put(item) => {
                let life = Lifetime { ttl_ms: item.expires.map(left), lease: item.lease };
                transaction.put_for(key, item.value, life)
            }
            // This keeps the lifetime exactly. The guard makes sure that the sum is the one that was computed.
            Change::Add(by) => transaction.add(key, by),
            Change::Expiry(Some(at)) => transaction.touch(key, Duration::from_millis(left(at))),
            Change::Expiry(None) => transaction.persist(key),
            Change::Delete => transaction.delete(key),
        });
        Ok(Some(transaction))
    }

    /// Reads when these keys were last changed.
    pub(crate) async fn revisions(&self, keys: &[Bytes]) -> Result<Watched, Reply> {
        let found =
            self.fetch(keys, Reads::Linearizable, false).await.map_err(|error| errors::read(&error))?;
        Ok(found
            .records
            .into_iter()
            .map(|(key, record)| (key, record.map(|record| record.modified)))
            .collect())
    }
}

fn guard(transaction: Transaction, watched: &Watched) -> Transaction {
    watched.iter().fold(transaction, |transaction, (key, seen)| match seen {
        None => transaction.if_absent(key),
        Some(revision) => transaction.if_revision(key, *revision),
    })
}

/// Whether nothing was changed because the write itself is not allowed.
const fn is_refusal(error: &WriteError) -> bool {
    matches!(
        error,
        WriteError::Key { .. }
            | WriteError::Value { .. }
            | WriteError::Malformed(_)
            | WriteError::StepFailed { .. }
            | WriteError::Refused(_)
    )
}

/// Each key that the commands name, once.
fn keys_of<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Vec<Bytes> {
    let mut seen = HashSet::new();
    let keys = calls.into_iter().flat_map(Call::keys);
    keys.filter(|key| seen.insert(*key)).cloned().collect()
}
