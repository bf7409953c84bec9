//! How a failed command ends: one line for people, and a code for programs.

use kv_core::error::{Cause, LeaseFailure, LockError, ReadError, RequestError, WriteError};
use std::fmt;
use std::io;
use std::process::ExitCode;

/// The units of times, in milliseconds.
pub(crate) const TIMES: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("min", 60 * 1000), ("h", 3600 * 1000), ("d", 24 * 3600 * 1000)];

/// A time in the largest unit that shows it exactly.
pub(crate) fn time(ms: u64) -> String {
    let exact = |(_, factor): &&(&str, u64)| ms != 0 && ms.is_multiple_of(*factor);
    let (unit, factor) = TIMES.iter().rev().find(exact).unwrap_or(&TIMES[0]);
    format!("{}{unit}", ms / factor)
}

/// Why a command failed, in one line: what is wrong and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// The exit code. The codes are part of the interface.
    code: u8,
    message: String,
    /// Whether the cluster did not answer in time: its members may know why.
    pub(crate) is_late: bool,
}

impl Failure {
    /// The exit code after wrong usage or configuration.
    const USAGE: u8 = 2;
    /// The exit code after the cluster has refused a change of its member list. Nothing has changed.
    const REFUSED: u8 = 4;
    /// The exit code of a member that must not be started again before someone has solved its problem. systemd shows
    /// names for the codes up to 7 of services; they would mislead.
    const NEEDS_OPERATOR: u8 = 8;
    /// The exit codes after which a supervisor must not start a member again. They are in the unit for systemd.
    #[cfg(test)]
    pub(crate) const NO_RESTART: [u8; 2] = [Self::USAGE, Self::NEEDS_OPERATOR];

    /// The command was tried and failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::passed_on(1, message)
    }

    /// Wrong usage; nothing was tried.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::passed_on(Self::USAGE, message)
    }

    /// A file of the configuration cannot be read. The configuration is wrong if the file does not exist or contains no
    /// text; everything else may pass, such as a network file system that is away.
    pub(crate) fn unreadable(error: &io::Error, message: impl fmt::Display) -> Self {
        use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
        match error.kind() {
            NotFound | NotADirectory | IsADirectory | InvalidData => Self::usage(message),
            _ => Self::failed(message),
        }
    }

    /// The outcome is unknown.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::passed_on(3, message)
    }

    /// The cluster does not make the change; nothing has changed.
    pub(crate) fn refused(message: impl fmt::Display) -> Self {
        Self::passed_on(Self::REFUSED, message)
    }

    /// A member stopped, and would stop again until someone has solved the problem.
    pub(crate) fn needs_operator(message: impl fmt::Display) -> Self {
        Self::passed_on(Self::NEEDS_OPERATOR, message)
    }

    /// The process that was run has failed with this code.
    pub(crate) fn passed_on(code: u8, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { code, message, is_late: false }
    }

    /// The same failure, with its place.
    pub(crate) fn within(self, place: impl fmt::Display) -> Self {
        Self { is_late: self.is_late, ..Self::passed_on(self.code, format!("{place}: {}", self.message)) }
    }

    /// The same failure, with a hint.
    pub(crate) fn with_hint(self, hint: impl fmt::Display) -> Self {
        Self::passed_on(self.code, format!("{}; {hint}", self.message))
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> ExitCode {
        self.code.into()
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let is_late = matches!(
            error,
            WriteError::NotApplied(Cause::Deadline(_)) | WriteError::OutcomeUnknown(Cause::Deadline(_))
        );
        let failure = match error {
            WriteError::OutcomeUnknown(_) => {
                Self::unknown(format!("{error}; read the key to find out before you write it again"))
            }
            WriteError::Malformed(RequestError::Ttl { ms, min, max }) => {
                let [ms, min, max] = [ms, min, max].map(time);
                Self::usage(format!("invalid time to live {ms}: write {min} to {max}"))
            }
            WriteError::Lease(LeaseFailure::Unknown) => Self::failed(format!("{error}, or never existed")),
            WriteError::Key { .. } | WriteError::Value { .. } | WriteError::Malformed(_) => {
                Self::usage(error)
            }
            _ => Self::failed(error),
        };
        Self { is_late, ..failure }
    }
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Write(error) => error.into(),
            LockError::Read(error) => error.into(),
            error => Self::failed(error),
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
            ReadError::Unavailable(Cause::Deadline(_)) => Self { is_late: true, ..Self::failed(error) },
            _ => Self::failed(error),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
