//! The primary is killed in the middle of writes.

use super::ledger::LedgerReport;
use super::members::{DemoPlan, Members};
use super::narrator::Narrator;
use super::watch;
use crate::failure::Failure;
use crate::output::{BAD, GOOD};
use std::time::{Duration, Instant};

/// How many writers work at once.
const WRITERS: usize = 8;
/// How often each begins a write.
const PACE: Duration = Duration::from_millis(4);
/// How many writes are acknowledged between two events of the demo.
const STEP: u64 = 1500;
/// The same on a machine that is too slow for that.
const SHORT_STEP: u64 = 100;
/// How long a step may take if it makes progress.
const STEP_SPAN: Duration = Duration::from_secs(5);
/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Runs the scenario of a killed primary, and prints what happens.
pub(super) async fn run(narrator: &Narrator, plan: &DemoPlan) -> Result<LedgerReport, Failure> {
    let mut members = Members::start(plan).await?;
    let result = play(narrator, &mut members, plan).await;
    result.inspect_err(|_| super::show_logs(narrator, &members))
}

async fn play(narrator: &Narrator, members: &mut Members, plan: &DemoPlan) -> Result<LedgerReport, Failure> {
    let (client, writers) =
        super::begin(narrator, members, &members.transport()?, plan, (WRITERS, PACE)).await?;
    let client = &client;
    writers.work(SHORT_STEP, STEP, STEP_SPAN, STEP_LIMIT).await?;

    let primary = watch::primary(client).await?;
    let pid = members.pid(primary.id.get()).unwrap_or_default();
    let before = writers.acknowledged();
    let kill = Instant::now();
    members.kill(primary.id.get());
    narrator.print_in(
        BAD,
        format_args!(
            "{before} writes acknowledged; member {}, the primary, is killed: kill -9 {pid}",
            primary.id
        ),
    );
    let promoted = watch::promoted(client, primary.id).await?;
    narrator.print_in(
        GOOD,
        format_args!("member {} has automatically become primary in view {}", promoted.id, promoted.view),
    );
    writers.work(SHORT_STEP, STEP, STEP_SPAN, STEP_LIMIT).await?;
    let (now, after) = (writers.acknowledged(), kill.elapsed().as_secs_f64());
    narrator.print(format_args!("{now} writes acknowledged, {after:.3} s after the kill"));

    members.start_member(primary.id.get()).await?;
    narrator.print(format_args!("member {} is restarted on its data", primary.id));
    let back = watch::level(client, primary.id).await?;
    narrator.print_in(
        GOOD,
        format_args!(
            "member {} has caught up: {} in view {}, at op {}",
            back.id, back.state, back.view, back.applied
        ),
    );
    writers.work(SHORT_STEP, STEP / 3, STEP_SPAN, STEP_LIMIT).await?;

    super::end(narrator, client, writers, None).await
}
