//! How a command ends when it does not end well: one line for people, a code for programs.

use std::fmt;
use std::process::ExitCode;

/// Which exit code a failure has. The codes are part of the interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// It was tried and did not work out: 1.
    Failed,
    /// What was asked for makes no sense, and nothing was tried: 2.
    Usage,
    /// It may have happened or not: 3.
    Unknown,
    /// What was run has ended with this one.
    PassedOn(u8),
}

/// Why a command failed, in one line: what is wrong and what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    /// It was tried and did not work out.
    pub(crate) fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// What was asked for makes no sense.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// It may have happened or not.
    pub(crate) fn unknown(message: impl fmt::Display) -> Self {
        Self::new(Kind::Unknown, message)
    }

    /// What was run has failed, with this code.
    pub(crate) fn passed_on(code: u8, message: impl fmt::Display) -> Self {
        Self::new(Kind::PassedOn(code), message)
    }

    /// The same failure, and where it was.
    pub(crate) fn within(self, place: impl fmt::Display) -> Self {
        Self::new(self.kind, format!("{place}: {}", self.message))
    }

    fn new(kind: Kind, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Self { kind, message }
    }

    /// The process's exit code.
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
