//! What every drill has: a cluster under load, a watch over its outages, and the reckoning.

use crate::harness::{self, Cluster, LIMIT};
use crate::ledger::{self, Ledger, LedgerReport};
use crate::writers::Writers;
use kv_core::Client;
use kv_core::node::MemberState;
use std::collections::BTreeMap;
use std::fmt;
use std::slice;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const WRITERS: usize = 8;
const PACE: Duration = Duration::from_millis(10);
/// How many writes there are between two blows.
const STEP: u64 = 100;

/// The default timeouts of a member, unlike those of the other tests: here outages are measured.
pub(crate) const FLAGS: [&str; 4] = ["--failure-timeout-min", "150ms", "--failure-timeout-max", "2s"];

/// One line of the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) drill: &'static str,
    pub(crate) faults: &'static str,
    pub(crate) rounds: u32,
    pub(crate) verdict: LedgerReport,
    /// The longest silence that the writers saw after each blow.
    pub(crate) outages: Vec<Duration>,
    pub(crate) remark: String,
    pub(crate) took: Duration,
    pub(crate) skipped: bool,
    pub(crate) failed: bool,
}

impl Row {
    pub(crate) fn skipped(why: String) -> Self {
        Self { skipped: true, remark: why, ..Self::default() }
    }

    pub(crate) fn failed(why: &str) -> Self {
        Self { failed: true, remark: why.to_owned(), ..Self::default() }
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.failed && self.verdict.is_good()
    }

    fn outcome(&self) -> &'static str {
        match (self.skipped, self.is_good()) {
            (true, _) => "skipped",
            (false, true) => "good",
            (false, false) => "FAILED",
        }
    }

    fn outage(&self) -> String {
        let mut sorted = self.outages.clone();
        sorted.sort_unstable();
        match (sorted.get(sorted.len() / 2), sorted.last()) {
            (Some(median), Some(worst)) => format!("{} / {}", median.as_millis(), worst.as_millis()),
            _ => "-".to_owned(),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LedgerReport { acknowledged, lost, duplicated, .. } = &self.verdict;
        write!(
            f,
            "| {} | {} | {} | {acknowledged} | {lost} | {duplicated} | {} | {} s | {} | {} |",
            self.drill,
            self.faults,
            self.rounds,
            self.outage(),
            self.took.as_secs(),
            self.outcome(),
            self.remark,
        )?;
        for problem in self.verdict.problems.iter().take(5) {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

/// All rows, as Markdown.
pub(crate) fn table(rows: &[Row]) -> String {
    let head = "| drill | faults | rounds | acknowledged | lost | twice | outage ms: median / worst | took | | |\n\
                |---|---|--:|--:|--:|--:|--:|--:|---|---|";
    let mut lines = vec![head.to_owned()];
    lines.extend(rows.iter().map(ToString::to_string));
    lines.join("\n")
}

/// A cluster of three under load.
pub(crate) struct Bench {
    pub(crate) cluster: Cluster,
    pub(crate) client: Client,
    writers: Arc<Writers>,
    pulse: Pulse,
    rounds: u32,
    outages: Vec<Duration>,
}

impl Bench {
    /// Starts the load on a cluster that runs.
    pub(crate) async fn on(cluster: Cluster) -> Self {
        let client = cluster.client().await;
        let writers = Arc::new(Writers::start(slice::from_ref(&client), WRITERS, PACE));
        let pulse = Pulse::of(&writers);
        let bench = Self { cluster, client, writers, pulse, rounds: 0, outages: Vec::new() };
        bench.progress().await;
        bench
    }

    pub(crate) async fn of_three() -> Self {
        Self::of_three_with(&[]).await
    }

    /// The same over QUIC.
    pub(crate) async fn of_three_over_quic() -> Self {
        Self::of_three_with(&["--transport", "quic"]).await
    }

    async fn of_three_with(flags: &[&str]) -> Self {
        Self::on(Cluster::start(&["data", "data", "data"], &[&FLAGS, flags].concat())).await
    }

    /// Waits until the writers have got on.
    pub(crate) async fn progress(&self) {
        harness::progress(&self.writers, STEP).await;
    }

    pub(crate) async fn primary(&self) -> usize {
        harness::primary(&self.client).await
    }

    pub(crate) async fn successor(&self, old: usize) -> usize {
        harness::successor(&self.client, old).await
    }

    pub(crate) async fn level(&self) {
        harness::level(&self.client, &[0, 1, 2]).await;
    }

    /// The view of the primary.
    pub(crate) async fn view(&self) -> u64 {
        harness::see(&self.client, "a primary", |seen| {
            seen.iter().find(|status| status.state == MemberState::Primary).map(|status| status.view.get())
        })
        .await
    }

    /// Whether a member has something in its log from `mark` on.
    pub(crate) async fn logged(&self, id: usize, mark: usize, text: &str) {
        let start = Instant::now();
        while !self.cluster.log(id).get(mark..).is_some_and(|log| log.contains(text)) {
            assert!(start.elapsed() < LIMIT, "member {id} never logs {text:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a member stops, and returns its last lines.
    pub(crate) async fn ended(&mut self, id: usize) -> String {
        let start = Instant::now();
        loop {
            if let Some(words) = self.cluster.has_ended(id) {
                self.cluster.kill(id);
                return words;
            }
            assert!(start.elapsed() < LIMIT, "member {id} does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A blow has been dealt at `blow`, and all is well again: remembers the outage.
    pub(crate) fn survived(&mut self, blow: Instant) {
        self.rounds += 1;
        self.outages.push(self.pulse.longest_since(blow));
    }

    /// The 99th percentile and the longest of the times between two acknowledgements since `blow`.
    pub(crate) fn gaps_since(&self, blow: Instant) -> [Duration; 2] {
        let mut gaps = self.pulse.gaps_since(blow);
        gaps.sort_unstable();
        let at = |share: usize| gaps.get(gaps.len().saturating_sub(1) * share / 100);
        [99, 100].map(|share| at(share).copied().unwrap_or_default())
    }

    /// A round without an outage to speak of.
    pub(crate) fn passed(&mut self) {
        self.rounds += 1;
    }

    /// Stops the load.
    pub(crate) async fn stop(self) -> (Cluster, Client, Vec<Ledger>) {
        self.pulse.stop().await;
        let writers = Arc::into_inner(self.writers).expect("nobody watches them any more");
        (self.cluster, self.client, writers.stop().await.expect("the writers are well"))
    }

    /// Stops the load, and compares the acknowledged writes with the contents of the store.
    pub(crate) async fn end(self, remark: impl Into<String>) -> Row {
        let (rounds, outages) = (self.rounds, self.outages.clone());
        let (_cluster, client, ledgers) = self.stop().await;
        Row {
            rounds,
            verdict: judge(&client, &ledgers).await,
            outages,
            remark: remark.into(),
            ..Row::default()
        }
    }
}

/// Reads everything back and compares it with the outcomes that the writers received.
pub(crate) async fn judge(client: &Client, ledgers: &[Ledger]) -> LedgerReport {
    let records = client.scan("").await.expect("it can be read back");
    ledger::compare(ledgers, &records.into_iter().collect::<BTreeMap<_, _>>())
}

/// When the writers were heard of.
struct Pulse {
    beats: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Pulse {
    fn of(writers: &Arc<Writers>) -> Self {
        let beats = Arc::new(Mutex::new(Vec::new()));
        let (writers, seen) = (writers.clone(), beats.clone());
        let task = tokio::spawn(async move {
            let mut last = 0;
            loop {
                let now = writers.acknowledged();
                if now != last {
                    last = now;
                    seen.lock().unwrap().push(Instant::now());
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { beats, task }
    }

    async fn stop(self) {
        self.task.abort();
        // Cancelled, as it was asked to be.
        let _ = self.task.await;
    }

    /// The times between two acknowledgements that ended after `blow`.
    fn gaps_since(&self, blow: Instant) -> Vec<Duration> {
        let beats = self.beats.lock().unwrap();
        let gaps = beats.windows(2).rev().take_while(|pair| pair[1] >= blow);
        gaps.map(|pair| pair[1] - pair[0]).collect()
    }

    /// The longest of them.
    fn longest_since(&self, blow: Instant) -> Duration {
        self.gaps_since(blow).into_iter().max().unwrap_or_default()
    }
}
