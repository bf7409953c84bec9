//! Lists that are decoded no further than their limit: a list of empty parts is dozens of times larger in memory than
//! on the wire.

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// The capacity that a list gets at first, whatever length it announces.
const AT_ONCE: usize = 64;

/// Up to this many times its limit, a list is counted, so that the error can contain its length. A longer list is not
/// decoded further: only an attacker sends it, and a million parts would take a thread of the runtime tens of
/// milliseconds.
const WALKED: usize = 10;

/// Decodes a list of at most `MOST` parts. Of a longer list, the first `MOST + 1` are kept, so that the check can
/// report what is wrong. The rest is decoded, because only that shows where the list ends, and dropped one by one.
///
/// # Errors
/// If a part does not decode, or there are more than ten times as many.
pub(super) fn list<'de, D, T, const MOST: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(List::<T, MOST>(PhantomData))
}

struct List<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for List<T, MOST> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST}")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::with_capacity(parts.size_hint().unwrap_or(0).min(AT_ONCE).min(MOST));
        let mut walked = 0;
        while let Some(part) = parts.next_element()? {
            walked += 1;
            if walked > WALKED * MOST {
                return Err(A::Error::invalid_length(walked, &self));
            }
            if list.len() <= MOST {
                list.push(part);
            }
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use crate::ids::{LeaseId, RequestNumber, SessionId};
    use crate::message::{
        Command, Condition, Expiry, Operation, Query, Request, RequestError, SizeLimits, TransactionRequest,
        TransactionStep,
    };
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer};
    use std::cell::Cell;

    const LIMITS: SizeLimits = SizeLimits { max_key_bytes: 4 << 10, max_value_bytes: 1 << 20 };

    fn transaction(conditions: usize, then: usize, otherwise: usize) -> TransactionRequest {
        TransactionRequest {
            conditions: vec![(Bytes::new(), Condition::Absent); conditions],
            then: vec![TransactionStep::Get { key: Bytes::new() }; then],
            otherwise: vec![TransactionStep::Get { key: Bytes::new() }; otherwise],
        }
    }

    fn decoded(operation: Operation) -> Operation {
        let (number, acked_through) = (RequestNumber::new(1), RequestNumber::ZERO);
        let request = Request { session: SessionId::new(1), number, acked_through, operation };
        Request::decode(&request.encode()).expect("it decodes").operation
    }

    thread_local!(static DECODED: Cell<usize> = const { Cell::new(0) });

    /// Counts how many of its kind were decoded.
    struct Counted;

    impl<'de> Deserialize<'de> for Counted {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            DECODED.with(|decoded| decoded.set(decoded.get() + 1));
            u8::deserialize(deserializer).map(|_| Self)
        }
    }

    #[derive(Deserialize)]
    struct Parts(#[serde(deserialize_with = "super::list::<_, _, 100>")] Vec<Counted>);

    /// Two mebibytes of empty parts cost no more than a few times the limit, however often they are sent.
    #[test]
    fn f_input_10_decoding_a_list_takes_no_more_steps_than_its_limit_allows() {
        let steps = |parts: usize| {
            let bytes = postcard::to_stdvec(&vec![0_u8; parts]).expect("it encodes");
            DECODED.with(|decoded| decoded.set(0));
            let list = postcard::from_bytes::<Parts>(&bytes).map(|parts| parts.0.len());
            (DECODED.with(Cell::get), list.ok())
        };
        assert_eq!(steps(100), (100, Some(100)));
        assert_eq!(steps(1000), (1000, Some(101)));
        assert_eq!(steps(1001), (1001, None));
        assert_eq!(steps(2 << 20), (1001, None));
        let request = Operation::Command(Command::Transaction(transaction(0, 1 << 20, 0)));
        let (number, acked_through) = (RequestNumber::new(1), RequestNumber::ZERO);
        let request = Request { session: SessionId::new(1), number, acked_through, operation: request };
        assert_eq!(Request::decode(&request.encode()), Err(RequestError::Malformed));
    }

    /// A request of nothing but empty parts grows no larger than its limits, and is refused with the right reason.
    #[test]
    fn f_input_10_a_request_of_empty_parts_takes_no_more_than_its_limits() {
        const CONDITIONS: usize = 10 * TransactionRequest::MAX_CONDITIONS;
        const MANY: usize = 10 * TransactionRequest::MAX_STEPS;
        for (conditions, then, otherwise, what) in
            [(CONDITIONS, 0, 0, "conditions"), (0, MANY, 0, "steps"), (0, 0, MANY, "alternative steps")]
        {
            let operation =
                Operation::Command(Command::Transaction(transaction(conditions, then, otherwise)));
            let Operation::Command(Command::Transaction(it)) = decoded(operation) else { unreachable!() };
            assert!(it.conditions.capacity() <= 2 * TransactionRequest::MAX_CONDITIONS + 64);
            assert!(
                it.then.capacity().max(it.otherwise.capacity()) <= 2 * TransactionRequest::MAX_STEPS + 64
            );
            let refused = Command::Transaction(it).check(LIMITS);
            assert!(
                matches!(refused, Err(RequestError::TooManyOps { what: it, .. }) if it == what),
                "{refused:?}"
            );
        }
        let due = vec![Expiry::Lease { lease: LeaseId::new(1) }; MANY];
        let Operation::Expire(due) = decoded(Operation::Expire(due)) else { unreachable!() };
        assert!(due.capacity() <= 2 * Expiry::MOST + 64);
        let keys = vec![Bytes::new(); MANY];
        let query = postcard::to_stdvec(&Query::Many { keys, at: None }).expect("it encodes");
        let query: Query = postcard::from_bytes(&query).expect("it decodes");
        assert!(query.check(LIMITS).is_err());
        let Query::Many { keys, .. } = query else { unreachable!() };
        assert!(keys.capacity() <= 2 * Query::MAX_KEYS + 64);
    }

    #[test]
    fn lists_within_their_limits_are_decoded_whole() {
        for (conditions, steps) in
            [(0, 0), (1, 1), (TransactionRequest::MAX_CONDITIONS, TransactionRequest::MAX_STEPS)]
        {
            let operation = Operation::Command(Command::Transaction(transaction(conditions, steps, steps)));
            assert_eq!(decoded(operation.clone()), operation);
        }
    }
}
