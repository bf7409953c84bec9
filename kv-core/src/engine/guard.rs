//! Calls of redb that may fail, or panic.

use super::EngineError;
use super::blocks::Blocks;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a call of redb. What redb reads has passed its checksums, so it finds what it wrote. If it still reports
/// corruption, the disk is not damaged, and all members may have the same problem. So the state is neither replaced nor
/// discarded.
pub(super) fn guarded<R>(
    blocks: &Blocks,
    call: impl FnOnce() -> Result<R, redb::Error>,
) -> Result<R, EngineError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(error)) => Err(blocks.failure().unwrap_or_else(|| classify(error))),
        Err(_) => Err(blocks.failure().unwrap_or_else(|| inconsistent("the B-tree has panicked"))),
    }
}

fn classify(error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(error) => EngineError::io("use", error),
        redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
            EngineError::Failed
        }
        error => inconsistent(error.to_string()),
    }
}

fn inconsistent(detail: impl Into<String>) -> EngineError {
    EngineError::Inconsistent { detail: detail.into() }
}
