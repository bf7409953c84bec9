//! Requests, replies and messages between members are lost at random.

use super::ledger::LedgerReport;
use super::members::{DemoPlan, Members};
use super::narrator::Narrator;
use crate::failure::Failure;
use crate::output::{BAD, GOOD};
use kv_core::transport::{Direction, Fault, Faults, Faulty, Lane, Scope, Transport};
use std::sync::Arc;
use std::time::Duration;

/// How many writers work at once.
const WRITERS: usize = 32;
/// How often each begins a write.
const PACE: Duration = Duration::from_millis(5);
/// How many writes are acknowledged before the loss begins.
const CALM: u64 = 300;
/// How many are acknowledged during the loss.
const GOAL: u64 = 1500;
/// The same on a machine that is too slow for that.
const SHORT_GOAL: u64 = 200;
/// How long it may take if there is progress.
const SPAN: Duration = Duration::from_secs(10);
/// How long a step may take.
const STEP_LIMIT: Duration = Duration::from_secs(40);
/// The share of requests, and of replies, that is lost.
const CLIENT_LOSS: f64 = 0.10;
/// The share of the messages between members that is lost, in percent.
const MEMBER_LOSS: u8 = 3;

/// Runs the scenario of lost messages, and prints what happens.
pub(super) async fn run(narrator: &Narrator, plan: &DemoPlan) -> Result<LedgerReport, Failure> {
    let members = Members::start(&DemoPlan { loss: MEMBER_LOSS, ..plan.clone() }).await?;
    let result = play(narrator, &members, plan).await;
    result.inspect_err(|_| super::show_logs(narrator, &members))
}

async fn play(narrator: &Narrator, members: &Members, plan: &DemoPlan) -> Result<LedgerReport, Failure> {
    let faults = Faults::new(plan.seed);
    let transport =
        Faulty::new(members.transport()?, faults.clone(), kv_core::transport::framing()).spare_first();
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let (client, writers) = super::begin(narrator, members, &transport, plan, (WRITERS, PACE)).await?;
    writers.work(CALM / 10, CALM, SPAN / 2, STEP_LIMIT).await?;

    faults.set(Scope::all().lane(Lane::Client), Fault::new().loss(CLIENT_LOSS));
    let seed = plan.seed;
    let percent = CLIENT_LOSS * 100.0;
    narrator.print_in(
        BAD,
        format_args!("from now on {percent} % of all requests and replies are lost (seed {seed}), {MEMBER_LOSS} % between members"),
    );
    writers.work(SHORT_GOAL, GOAL, SPAN, STEP_LIMIT).await?;
    let lost = |direction| faults.counts(Lane::Client, direction).lost;
    let (requests, replies) = (lost(Direction::Outgoing), lost(Direction::Incoming));
    faults.heal();
    narrator.print_in(
        GOOD,
        format_args!("{requests} requests and {replies} replies were lost, and retried with the same number"),
    );

    let is_calm = requests == 0 || replies == 0;
    let problem = is_calm.then(|| "no message was lost: the scenario shows nothing".to_owned());
    super::end(narrator, &client, writers, problem).await
}
