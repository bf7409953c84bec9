//! Lists that are decoded no further than their limit: a list of empty parts is dozens of times larger in memory than on the wire.

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use std::fmt;
use std::marker::PhantomData;

/// Room that a list gets at once, however long it says to be.
const AT_ONCE: usize = 64;

/// Decodes a list of at most `MOST`. Of a longer one the first `MOST + 1` are kept, so that whoever checks it can say what is wrong;
/// the rest is decoded, because only that tells where it ends, and dropped one by one.
///
/// # Errors
/// If a part does not decode.
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
        while let Some(part) = parts.next_element()? {
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
        Command, Expiry, Guard, Operation, Query, Request, RequestError, SizeLimits, Step, Transaction,
    };
    use bytes::Bytes;

    const LIMITS: SizeLimits = SizeLimits { max_key_bytes: 4 << 10, max_value_bytes: 1 << 20 };

    fn transaction(guards: usize, then: usize, otherwise: usize) -> Transaction {
        Transaction {
            guards: vec![(Bytes::new(), Guard::Absent); guards],
            then: vec![Step::Get { key: Bytes::new() }; then],
            otherwise: vec![Step::Get { key: Bytes::new() }; otherwise],
        }
    }

    fn decoded(operation: Operation) -> Operation {
        let (number, acked_through) = (RequestNumber::new(1), RequestNumber::ZERO);
        let request = Request { session: SessionId::new(1), number, acked_through, operation };
        Request::decode(&request.encode()).expect("it decodes").operation
    }

    /// A request of two mebibytes that is nothing but empty parts becomes no more than its limits, and is refused as what it is.
    #[test]
    fn x10_a_request_of_empty_parts_takes_no_more_than_its_limits() {
        const MANY: usize = 1_000_000;
        for (guards, then, otherwise, what) in
            [(MANY, 0, 0, "guards"), (0, MANY, 0, "steps"), (0, 0, MANY, "steps for the other case")]
        {
            let operation = Operation::Command(Command::Transaction(transaction(guards, then, otherwise)));
            let Operation::Command(Command::Transaction(it)) = decoded(operation) else { unreachable!() };
            assert!(it.guards.capacity() <= 2 * Transaction::MAX_GUARDS + 64);
            assert!(it.then.capacity().max(it.otherwise.capacity()) <= 2 * Transaction::MAX_STEPS + 64);
            let refused = Command::Transaction(it).check(LIMITS);
            assert!(
                matches!(refused, Err(RequestError::Parts { what: it, .. }) if it == what),
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
        for (guards, steps) in [(0, 0), (1, 1), (Transaction::MAX_GUARDS, Transaction::MAX_STEPS)] {
            let operation = Operation::Command(Command::Transaction(transaction(guards, steps, steps)));
            assert_eq!(decoded(operation.clone()), operation);
        }
    }
}
