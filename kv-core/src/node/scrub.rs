//! Reads stored journal entries again, slowly, so that one that has gone bad is found while others still have it.

use super::shared::Shared;
use crate::ids::Op;
use crate::journal::LogReader;
use std::sync::Arc;
use std::time::Duration;

/// How many bytes are read at a time.
const STEP_BYTES: u64 = 256 << 10;
/// The pause after all has been read.
const BETWEEN: Duration = Duration::from_secs(60);

/// Runs until the node stops, at most at this rate.
pub(super) async fn run(shared: Arc<Shared>, bytes_per_second: u64) {
    if bytes_per_second == 0 {
        return;
    }
    let mut from = Op::ZERO;
    loop {
        let (give, take) = tokio::sync::oneshot::channel();
        let job = shared.clone();
        shared.pool.run(move || {
            // The receiver is gone only if the node stops.
            let _ = give.send(step(&job, from));
        });
        let Ok(Some(step)) = take.await else { return };
        let pause = Duration::from_micros(step.bytes.saturating_mul(1_000_000) / bytes_per_second);
        from = step.next.unwrap_or(Op::ZERO);
        tokio::time::sleep(if step.next.is_some() { pause } else { BETWEEN.max(pause) }).await;
    }
}

/// What was read, and where to go on; nowhere at the end.
struct Step {
    bytes: u64,
    next: Option<Op>,
}

fn step(shared: &Shared, from: Op) -> Option<Step> {
    let log = shared.log()?;
    let (first, last) = log.bounds();
    let mut op = from.max(first);
    let mut bytes = 0;
    while op <= last && bytes < STEP_BYTES {
        bytes += verify(shared, &log, op);
        op = op.next();
    }
    Some(Step { bytes, next: (op <= last).then_some(op) })
}

fn verify(shared: &Shared, log: &LogReader, op: Op) -> u64 {
    match log.verify(op) {
        Ok(read) => read.unwrap_or_default() as u64,
        Err(error) => {
            tracing::warn!(%op, %error, "a stored entry has gone bad");
            shared.inbox.faulty(op);
            4096
        }
    }
}
