//! Errors, in the form that etcd's gateway gives them.

use super::respond::{self, Response};
use hyper::StatusCode;
use hyper::body::Bytes;
use kv_core::error::{LeaseFailure, ReadError, StepFailure, WatchError, WriteError};
use serde_json::json;

/// The codes of gRPC that occur.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    OutOfRange = 11,
    Unimplemented = 12,
    Unavailable = 14,
}

impl Code {
    /// The status that grpc-gateway gives to an error with this code.
    const fn status(self) -> StatusCode {
        match self {
            Self::InvalidArgument | Self::FailedPrecondition | Self::OutOfRange => StatusCode::BAD_REQUEST,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) message: String,
    status: StatusCode,
    /// Whether the request may have taken effect, or may still do so.
    outcome_unknown: bool,
    /// The methods of the path, if the method is wrong.
    pub(super) allow: Option<&'static str>,
}

/// The beginning of the message if the outcome of a request is unknown, and the value of `reason`.
pub(super) const OUTCOME_UNKNOWN: &str = "outcome_unknown";

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), status: code.status(), outcome_unknown: false, allow: None }
    }

    /// A failure with a status other than that of its code.
    pub(super) fn with_status(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, ..Self::new(code, message) }
    }

    /// The method is wrong: these are the methods of the path.
    pub(super) fn with_allowed(self, allowed: &'static str) -> Self {
        Self { status: StatusCode::METHOD_NOT_ALLOWED, allow: Some(allowed), ..self }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, message)
    }

    /// What kv cannot do.
    pub(super) fn not_offered(message: impl Into<String>) -> Self {
        Self::new(Code::Unimplemented, message)
    }

    pub(super) fn outcome_unknown(message: impl std::fmt::Display) -> Self {
        let message = format!("{OUTCOME_UNKNOWN}: {message}");
        Self { outcome_unknown: true, ..Self::new(Code::DeadlineExceeded, message) }
    }

    /// This failure after a part of the request may have taken effect: its outcome is unknown.
    pub(super) fn after(self, what: impl std::fmt::Display) -> Self {
        if self.outcome_unknown {
            self
        } else {
            Self::outcome_unknown(format_args!("{what}: {}", self.message))
        }
    }

    /// All connections have requests, and this one is for what is answered at once.
    pub(super) fn too_many_connections() -> Self {
        Self::with_status(StatusCode::SERVICE_UNAVAILABLE, Code::ResourceExhausted, "too many connections")
    }

    /// All connections take too much memory together.
    pub(super) fn no_memory() -> Self {
        let message =
            "the memory of this server is used up, which ends when other clients have their answers";
        Self::new(Code::ResourceExhausted, message)
    }

    /// The last line of an answer that goes on, in the form that grpc-gateway gives to it.
    pub(super) fn stream_line(&self) -> Bytes {
        let line = json!({"error": {
            "grpc_code": self.code as u8,
            "http_code": self.status.as_u16(),
            "message": self.message,
            "http_status": self.status.canonical_reason(),
        }});
        format!("{line}\n").into()
    }

    pub(super) fn response(&self) -> Response {
        let mut body = json!({"error": self.message, "code": self.code as u8, "message": self.message});
        if self.outcome_unknown {
            body["reason"] = OUTCOME_UNKNOWN.into();
        }
        respond::json(self.status, &body)
    }
}

impl From<WriteError> for Failure {
    fn from(error: WriteError) -> Self {
        let code = match &error {
            WriteError::OutcomeUnknown(cause) => return Self::outcome_unknown(cause),
            WriteError::Lease(why) | WriteError::StepFailed { why: StepFailure::Lease(why), .. } => {
                return (*why).into();
            }
            WriteError::NotApplied(_)
            | WriteError::Closed
            | WriteError::StepFailed { why: StepFailure::Busy, .. } => Code::Unavailable,
            WriteError::StepFailed { why: StepFailure::ResponseTooLarge { .. }, .. } => {
                Code::ResourceExhausted
            }
            WriteError::ConditionFailed { .. } | WriteError::LockLost { .. } => Code::FailedPrecondition,
            WriteError::Refused(_) => Code::FailedPrecondition,
            WriteError::Key { len: 0, .. } => return no_key(),
            _ => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

impl From<LeaseFailure> for Failure {
    fn from(why: LeaseFailure) -> Self {
        match why {
            LeaseFailure::Unknown => Self::new(Code::NotFound, "etcdserver: requested lease not found"),
            _ => Self::new(Code::ResourceExhausted, why.to_string()),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let code = match &error {
            ReadError::Compacted { .. } => return compacted(),
            ReadError::Future { .. } => return future(),
            ReadError::Key { len: 0, .. } => return no_key(),
            ReadError::Unavailable(_) | ReadError::Closed => Code::Unavailable,
            ReadError::Refused(_) => Code::FailedPrecondition,
            _ => Code::InvalidArgument,
        };
        Self::new(code, error.to_string())
    }
}

impl From<WatchError> for Failure {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { .. } => compacted(),
            WatchError::Read(error) => error.into(),
            WatchError::Closed => Self::new(Code::Unavailable, error.to_string()),
            WatchError::Refused(_) => Self::new(Code::ResourceExhausted, error.to_string()),
            _ => Self::invalid(error.to_string()),
        }
    }
}

// Clients compare these messages, so they are etcd's own.

pub(super) fn compacted() -> Failure {
    Failure::new(Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
}

pub(super) fn future() -> Failure {
    Failure::new(Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision")
}

pub(super) fn no_key() -> Failure {
    Failure::invalid("etcdserver: key is not provided")
}
