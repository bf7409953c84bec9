//! Slowly re-reads the stored journal entries and the state, so that damage is found while other members still have
//! intact copies.

use super::shared::Shared;
use super::sync::lock;
use crate::ids::Op;
use crate::journal::LogReader;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// How many bytes are read in one step.
const STEP_BYTES: u64 = 256 << 10;
/// The pause after everything has been read.
const BETWEEN: Duration = Duration::from_secs(60);

/// Runs until the node stops, at no more than this rate.
pub(super) async fn run(shared: Arc<Shared>, bytes_per_second: u64) {
    if bytes_per_second == 0 {
        return;
    }
    let mut from = ScrubPosition::Journal(Op::ZERO);
    loop {
        let (job, place) = (shared.clone(), from.clone());
        let Some(Some(step)) = shared.peers.ask(move || step(&job, &place)).await else { return };
        let pause = Duration::from_micros(step.bytes.saturating_mul(1_000_000) / bytes_per_second);
        let again = step.next.is_none();
        from = step.next.unwrap_or(ScrubPosition::Journal(Op::ZERO));
        tokio::time::sleep(if again { BETWEEN.max(pause) } else { pause }).await;
    }
}

/// The position of the scrub: first in the journal, then in the state.
#[derive(Clone, Debug)]
enum ScrubPosition {
    Journal(Op),
    State(Bytes),
}

/// How much was read, and the next position; `None` at the end.
struct ScrubStep {
    bytes: u64,
    next: Option<ScrubPosition>,
}

fn step(shared: &Shared, from: &ScrubPosition) -> Option<ScrubStep> {
    match from {
        ScrubPosition::Journal(op) => journal_step(shared, *op),
        ScrubPosition::State(after) => Some(state_step(shared, after)),
    }
}

fn journal_step(shared: &Shared, from: Op) -> Option<ScrubStep> {
    let log = shared.log()?;
    let (first, last) = log.bounds();
    let mut op = from.max(first);
    let mut bytes = 0;
    while op <= last && bytes < STEP_BYTES {
        bytes += verify(shared, &log, op);
        op = op.next();
    }
    let next = if op <= last { ScrubPosition::Journal(op) } else { ScrubPosition::State(Bytes::new()) };
    Some(ScrubStep { bytes, next: Some(next) })
}

/// Reads on in the files of the newest checkpoint. It may be a newer one than in the last step.
fn state_step(shared: &Shared, after: &Bytes) -> ScrubStep {
    let life = shared.state_life();
    // A state that is set aside is known to be damaged.
    let latest = shared.state().and_then(|_| lock(&shared.sources).latest());
    let Some(state) = latest else { return ScrubStep { bytes: 0, next: None } };
    let most = usize::try_from(STEP_BYTES).unwrap_or(usize::MAX);
    match state.scrub(after, most) {
        Ok((bytes, next)) => ScrubStep { bytes: bytes as u64, next: next.map(ScrubPosition::State) },
        Err(error) => {
            shared.state_failed(life, error);
            ScrubStep { bytes: 0, next: None }
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
