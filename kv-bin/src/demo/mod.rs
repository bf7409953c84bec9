//! `kv demo`: a cluster of real processes, a failure, and a check that all guarantees were kept.

mod crash;
mod ledger;
pub(crate) mod members;
mod narrator;
mod omission;
pub(crate) mod watch;
mod writers;

use crate::cli::{DemoArgs, Scenario};
use crate::failure::Failure;
use crate::output::{self, BAD, Cell, GOOD, NOTE, styled};
use crate::signals::Signals;
use kv_core::Client;
use kv_core::transport::Transport;
use ledger::LedgerReport;
use members::{COUNT, DemoPlan, Members};
use narrator::Narrator;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use writers::Writers;

/// How many problems of each scenario are shown.
const SHOWN_PROBLEMS: usize = 10;

/// The result of one scenario, also as JSON.
#[derive(Serialize, Debug)]
struct Report {
    scenario: &'static str,
    transport: &'static str,
    #[serde(flatten)]
    verdict: LedgerReport,
}

/// Runs the scenarios, and prints their results. Leaves neither a process nor a folder behind, however it ends.
pub(crate) async fn run(args: DemoArgs, log: Option<String>, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    // Fails early if the transport is not compiled in.
    let transport = args.transport.unwrap_or_default();
    transport.check()?;
    #[cfg(feature = "tls")]
    let tls = args.tls;
    #[cfg(not(feature = "tls"))]
    let tls = false;
    let plan = DemoPlan { members: COUNT, transport, tls, seed: args.seed, loss: 0, log };
    let reports = tokio::select! {
        reports = run_scenarios(&args, &plan, json) => reports?,
        signal = signals.next() => {
            return Err(signal.ended(format!("stopped by {signal}: no process and no folder is left behind")));
        }
    };
    finish(&reports, json)
}

async fn run_scenarios(args: &DemoArgs, plan: &DemoPlan, json: bool) -> Result<Vec<Report>, Failure> {
    let mut reports = Vec::new();
    let transport = plan.transport.name();
    if matches!(args.scenario, Scenario::Crash | Scenario::All) {
        let narrator = Narrator::begin("crash: the primary is killed in the middle of writes", json);
        let verdict = crash::run(&narrator, plan).await?;
        reports.push(Report { scenario: "crash", transport, verdict });
    }
    if matches!(args.scenario, Scenario::Omission | Scenario::All) {
        let narrator = Narrator::begin(
            "omission: requests, replies and messages between members are lost at random",
            json,
        );
        let verdict = omission::run(&narrator, plan).await?;
        reports.push(Report { scenario: "omission", transport, verdict });
    }
    Ok(reports)
}

/// Prints the members, and starts this many writers once the cluster has formed. Returns a client too.
async fn begin(
    narrator: &Narrator,
    members: &Members,
    transport: &Arc<dyn Transport>,
    plan: &DemoPlan,
    (count, pace): (usize, Duration),
) -> Result<(Client, Writers), Failure> {
    for (id, address) in (0..).zip(members.addresses()) {
        let pid = members.pid(id).unwrap_or_default();
        narrator.print(format_args!("member {id} serves on {address}: process {pid}"));
    }
    let clients = watch::connect(members, transport, plan.seed, count).await?;
    let primary = watch::formed(&clients[0], COUNT.into()).await?;
    let (id, view) = (primary.id, primary.view);
    narrator.print(format_args!("the cluster has formed: member {id} is primary in view {view}"));
    let writers = Writers::start(&clients, count, pace);
    narrator.print(format_args!("{count} clients write"));
    Ok((clients[0].clone(), writers))
}

/// Stops the writers, reads everything back, compares, and prints the result. `problem` is one that the comparison
/// does not see.
async fn end(
    narrator: &Narrator,
    client: &Client,
    writers: Writers,
    problem: Option<String>,
) -> Result<LedgerReport, Failure> {
    let ledgers = writers.stop().await?;
    let store = watch::read_back(client).await?;
    let (mut verdict, keys) = (ledger::compare(&ledgers, &store), store.len());
    verdict.problems.extend(problem);
    let LedgerReport { writes, acknowledged, lost, duplicated, .. } = &verdict;
    let style = if verdict.is_good() { GOOD } else { BAD };
    narrator.print_in(
        style,
        format_args!(
            "{keys} keys read back: {acknowledged} of {writes} writes acknowledged, {lost} lost, {duplicated} applied twice"
        ),
    );
    Ok(verdict)
}

/// Shows the last log lines of the members when a scenario failed.
fn show_logs(narrator: &Narrator, members: &Members) {
    for (id, lines) in members.last_logs() {
        for line in lines {
            narrator.line(&styled(NOTE, format_args!("member {id}: {line}")));
        }
    }
}

/// Prints the summary, as a table or JSON, and returns whether everything was correct.
fn finish(reports: &[Report], json: bool) -> Result<(), Failure> {
    let text = if json {
        serde_json::to_string(reports).expect("names and numbers are always JSON")
    } else {
        let header = ["scenario", "transport", "writes", "acknowledged", "lost", "duplicated", "outage"];
        let rows: Vec<_> = reports.iter().map(Report::row).collect();
        format!("\n{}", output::table(&header, &rows).trim_end())
    };
    let problems = reports.iter().flat_map(|report| report.verdict.problems.iter().take(SHOWN_PROBLEMS));
    for problem in problems {
        output::print_error(problem);
    }
    output::print(&text)
        .map_err(|error| Failure::failed(format!("cannot write to standard output: {error}")))?;
    if !reports.iter().all(|report| report.verdict.is_good()) {
        return Err(Failure::failed("a promise was broken: writes were lost or applied twice"));
    }
    if !json {
        let all = styled(GOOD, "Every acknowledged write is there, and none was applied twice.");
        // The table was printed; it does not matter if nobody reads this line.
        let _ = output::print(&format!("\n{all}"));
    }
    Ok(())
}

impl Report {
    fn row(&self) -> Vec<Cell> {
        let count = |number: u64| Cell::number(number).with(if number == 0 { GOOD } else { BAD });
        let verdict = &self.verdict;
        let acknowledged = if verdict.acknowledged == verdict.writes { GOOD } else { NOTE };
        vec![
            Cell::text(self.scenario),
            Cell::text(self.transport),
            Cell::number(verdict.writes),
            Cell::number(verdict.acknowledged).with(acknowledged),
            count(verdict.lost),
            count(verdict.duplicated),
            Cell::number(format!("{} ms", verdict.outage_ms)),
        ]
    }
}
