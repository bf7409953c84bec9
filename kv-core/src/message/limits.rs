//! The size limits of requests, and why a request is invalid.

use super::Condition;
use crate::ids::Revision;
use bytes::Bytes;

/// Why a request is invalid.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The bytes do not decode, or a list in them is more than ten times longer than allowed.
    #[error("the bytes are not a request, or its lists are more than ten times too long")]
    Malformed,
    /// The key is empty or too long.
    #[error("the key has {len} bytes: keys have 1 to {max}")]
    Key {
        /// Its length in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The value is too long.
    #[error("the value has {len} bytes: values have up to {max}")]
    Value {
        /// Its length in bytes.
        len: usize,
        /// The greatest length allowed, in bytes.
        max: usize,
    },
    /// The transaction has too many conditions or steps.
    #[error("the transaction has {len} {what}: up to {max} are allowed")]
    TooManyOps {
        /// What the transaction has too many of: conditions, or steps of one list.
        what: &'static str,
        /// Their number.
        len: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// The keys and values of the transaction are too large together.
    #[error("the transaction's keys and values have {len} bytes together: up to {max} are allowed")]
    Transaction {
        /// Their size in bytes.
        len: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// A time to live is too short or too long.
    #[error("invalid time to live {ms} ms: {min} to {max} ms are allowed")]
    Ttl {
        /// The given time to live, in milliseconds.
        ms: u64,
        /// The shortest time allowed, in milliseconds.
        min: u64,
        /// The longest time allowed, in milliseconds.
        max: u64,
    },
    /// One read has too many keys, or these keys are too long together.
    #[error("the read has {count} keys with {bytes} bytes: up to {most} keys with {max} bytes are allowed")]
    Keys {
        /// Their number.
        count: usize,
        /// The greatest number allowed.
        most: usize,
        /// The bytes of all keys together.
        bytes: usize,
        /// The greatest value allowed.
        max: usize,
    },
    /// The request would skip revisions up to one that is too great.
    #[error("the revision cannot be raised to {to}: {max} is the greatest allowed")]
    Skip {
        /// The requested revision.
        to: Revision,
        /// The greatest one allowed.
        max: Revision,
    },
    /// Two steps of one list change the same key.
    #[error("two steps of the transaction change the key {:?}: combine them", String::from_utf8_lossy(key))]
    DuplicateKey {
        /// The key that two steps change.
        key: Bytes,
    },
}

/// The size limits of keys and values, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SizeLimits {
    /// The largest key.
    pub max_key_bytes: usize,
    /// The largest value.
    pub max_value_bytes: usize,
}

impl SizeLimits {
    pub(super) fn key(self, key: &Bytes) -> Result<(), RequestError> {
        let (len, max) = (key.len(), self.max_key_bytes);
        if len == 0 || len > max { Err(RequestError::Key { len, max }) } else { Ok(()) }
    }

    pub(super) fn value(self, value: &Bytes) -> Result<(), RequestError> {
        let (len, max) = (value.len(), self.max_value_bytes);
        if len > max { Err(RequestError::Value { len, max }) } else { Ok(()) }
    }

    pub(super) fn range(self, from: &Bytes, to: Option<&Bytes>) -> Result<(), RequestError> {
        // A range may end just after the longest key. This end is one byte longer than the key.
        let max = self.max_key_bytes + 1;
        let too_long = [Some(from), to].into_iter().flatten().find(|end| end.len() > max);
        too_long.map_or(Ok(()), |end| Err(RequestError::Key { len: end.len(), max }))
    }

    /// The length of the longest request in bytes: two of the largest keys and values, and the overhead.
    #[must_use]
    pub(crate) const fn request_bytes(self) -> usize {
        2 * (self.max_key_bytes + self.max_value_bytes) + (64 << 10)
    }

    /// How many bytes a transaction may return: the largest key, the largest value, and 256 KiB. A record counts as its
    /// key, its value and 128 bytes, and each result as 16.
    #[must_use]
    pub const fn returned_bytes(self) -> usize {
        self.max_key_bytes + self.max_value_bytes + (256 << 10)
    }

    pub(super) fn condition(self, condition: &Condition) -> Result<(), RequestError> {
        condition.value().map_or(Ok(()), |value| self.value(value))
    }
}
