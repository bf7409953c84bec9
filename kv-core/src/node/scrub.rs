//! Reads stored journal entries and the state again, slowly, so that what has gone bad is found while others still have it.

use super::pool::{For, Kind};
use super::shared::Shared;
use super::sync::lock;
use crate::ids::Op;
use crate::journal::LogReader;
use bytes::Bytes;
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
    let mut from = Place::Journal(Op::ZERO);
    loop {
        let (give, take) = tokio::sync::oneshot::channel();
        let (job, place) = (shared.clone(), from.clone());
        shared.peers.run(Kind::Read, For::NODE, move || {
            // The receiver is gone only if the node stops.
            let _ = give.send(step(&job, &place));
        });
        let Ok(Some(step)) = take.await else { return };
        let pause = Duration::from_micros(step.bytes.saturating_mul(1_000_000) / bytes_per_second);
        let again = step.next.is_none();
        from = step.next.unwrap_or(Place::Journal(Op::ZERO));
        tokio::time::sleep(if again { BETWEEN.max(pause) } else { pause }).await;
    }
}

/// How far the reading has come: first the journal, then the state.
#[derive(Clone, Debug)]
enum Place {
    Journal(Op),
    State(Bytes),
}

/// What was read, and where to go on; nowhere at the end.
struct Step {
    bytes: u64,
    next: Option<Place>,
}

fn step(shared: &Shared, from: &Place) -> Option<Step> {
    match from {
        Place::Journal(op) => journal_step(shared, *op),
        Place::State(after) => Some(state_step(shared, after)),
    }
}

fn journal_step(shared: &Shared, from: Op) -> Option<Step> {
    let log = shared.log()?;
    let (first, last) = log.bounds();
    let mut op = from.max(first);
    let mut bytes = 0;
    while op <= last && bytes < STEP_BYTES {
        bytes += verify(shared, &log, op);
        op = op.next();
    }
    let next = if op <= last { Place::Journal(op) } else { Place::State(Bytes::new()) };
    Some(Step { bytes, next: Some(next) })
}

/// Of the newest checkpoint, a little further on in the order of keys each time: it may be another one than before.
fn state_step(shared: &Shared, after: &Bytes) -> Step {
    let life = shared.state_life();
    // One that is set aside is known to be damaged.
    let latest = shared.state().and_then(|_| lock(&shared.sources).latest());
    let Some(state) = latest else { return Step { bytes: 0, next: None } };
    let most = usize::try_from(STEP_BYTES).unwrap_or(usize::MAX);
    match state.scrub(after, most) {
        Ok((bytes, next)) => Step { bytes: bytes as u64, next: next.map(Place::State) },
        Err(error) => {
            shared.state_failed(life, error);
            Step { bytes: 0, next: None }
        }
    }
}

fn verify(shared: &Shared, log: &LogReader, op: Op) -> u64 {
    match log.verify(op) {
        Ok(read) => read.unwrap_or_default() as u64,
        Err(error) => {
            tracing::warn!(%op, %error, "a stored entry is damaged");
            shared.inbox.faulty(op);
            4096
        }
    }
}
