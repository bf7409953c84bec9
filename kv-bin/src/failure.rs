//! How a failed command ends: one line for people, and a code for programs.

use kv_core::error::{ReadError, WriteError};
use std::fmt;
use std::process::ExitCode;

/// Why a command failed, in one line: what is wrong and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// The exit code. The codes are part of the interface.
    code: u8,
    message: String,
}

impl Failure {
    /// The command was tried and failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::passed_on(1, message)
    }

    /// Wrong usage; nothing was tried.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::passed_on(2, message)
    }

    /// The outcome is unknown.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::passed_on(3, message)
    }

    /// The process that was run has failed with this code.
    pub(crate) fn passed_on(code: u8, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { code, message }
    }

    /// The same failure, with its place.
    pub(crate) fn within(self, place: impl fmt::Display) -> Self {
        Self::passed_on(self.code, format!("{place}: {}", self.message))
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::OutcomeUnknown(_) => {
                Self::unknown(format!("{error}; read the key to find out before you write it again"))
            }
            WriteError::Key { .. } | WriteError::Value { .. } | WriteError::Malformed(_) => {
                Self::usage(error)
            }
            _ => Self::failed(error),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Key { .. }
            | ReadError::Malformed(_)
            | ReadError::Compacted { .. }
            | ReadError::Future { .. } => Self::usage(error),
            _ => Self::failed(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
