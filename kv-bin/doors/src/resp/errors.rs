//! The errors of the client as replies.

use super::reply::Reply;
use kv_core::error::{ReadError, StepFailure, WatchError, WriteError};

/// A write that did not succeed. `UNKNOWN` is the code of a write that may have happened; every other code means that
/// nothing was changed.
pub(crate) fn write(error: &WriteError) -> Reply {
    let code = match error {
        WriteError::OutcomeUnknown(_) => "UNKNOWN",
        WriteError::NotApplied(_) | WriteError::Closed => "TRYAGAIN",
        WriteError::StepFailed { why: StepFailure::Busy, .. } => "TRYAGAIN",
        WriteError::StepFailed { why: StepFailure::NotANumber, .. } => {
            return Reply::error("ERR value is not an integer or out of range");
        }
        WriteError::StepFailed { why: StepFailure::OutOfRange, .. } => {
            return Reply::error("ERR increment or decrement would overflow");
        }
        _ => "ERR",
    };
    Reply::error(format!("{code} {error}"))
}

pub(crate) fn read(error: &ReadError) -> Reply {
    let code = match error {
        ReadError::Unavailable(_)
        | ReadError::Closed
        | ReadError::Compacted { .. }
        | ReadError::Future { .. } => "TRYAGAIN",
        _ => "ERR",
    };
    Reply::error(format!("{code} {error}"))
}

pub(crate) fn watch(error: &WatchError) -> Reply {
    Reply::error(format!("ERR the subscription has ended: {error}"))
}
