//! How a failed command ends: one line for people, and a code for programs.

use std::fmt;
use std::process::ExitCode;

/// The kinds of failures, by exit code. The codes are part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The command was tried and failed: 1.
    Failed,
    /// Wrong usage; nothing was tried: 2.
    Usage,
    /// The outcome is unknown: 3.
    Unknown,
    /// The exit code of the process that was run.
    PassedOn(u8),
}

/// Why a command failed, in one line: what is wrong and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// The command was tried and failed.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Wrong usage.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The outcome is unknown.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::new(Kind::Unknown, message)
    }

    /// The process that was run has failed with this code.
    pub(crate) fn passed_on(code: u8, message: impl fmt::Display) -> Self {
        Self::new(Kind::PassedOn(code), message)
    }

    /// The same failure, with its place.
    pub(crate) fn within(self, place: impl fmt::Display) -> Self {
        Self::new(self.kind, format!("{place}: {}", self.message))
    }

    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, message }
    }

    /// The exit code of the process.
    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Unknown => 3,
            Kind::PassedOn(code) => code,
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
