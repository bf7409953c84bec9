//! The comparisons of a transaction.

use super::super::door::Door;
use super::super::errors::{self, Failure};
use super::json::{Blob, Int, choices};
use super::messages::KeyValue;
use crate::memory::Share;
use bytes::Bytes;
use kv_core::client::{Revision, Transaction};
use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;

choices!(
    /// Which result a comparison must have.
    Wanted { Equal = "EQUAL", Greater = "GREATER", Less = "LESS", NotEqual = "NOT_EQUAL" }
);

choices!(
    /// What is compared.
    Target { Version = "VERSION", Create = "CREATE", Mod = "MOD", Value = "VALUE", Lease = "LEASE" }
);

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(super) struct Comparison {
    result: Wanted,
    target: Target,
    key: Blob,
    #[serde(alias = "rangeEnd")]
    range_end: Blob,
    version: Int,
    #[serde(alias = "createRevision")]
    create_revision: Int,
    #[serde(alias = "modRevision")]
    mod_revision: Int,
    value: Blob,
    lease: Int,
}

/// A comparison as a condition of kv.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Condition {
    Absent,
    Present,
    Modified(Revision),
    Created(Revision),
    Value(Bytes),
}

impl Comparison {
    /// The number that is compared with.
    const fn number(&self) -> i64 {
        match self.target {
            Target::Version => self.version.0,
            Target::Create => self.create_revision.0,
            Target::Mod => self.mod_revision.0,
            Target::Lease => self.lease.0,
            Target::Value => 0,
        }
    }

    /// The same as a condition of kv, if there is one.
    fn condition(&self) -> Option<Condition> {
        let revision = || u64::try_from(self.number()).ok().map(Revision::new);
        match (self.target, self.result, self.number()) {
            (Target::Value, Wanted::Equal, _) => Some(Condition::Value(self.value.0.clone())),
            // These numbers are 0 if the key does not exist, and otherwise greater.
            (Target::Version | Target::Create | Target::Mod, Wanted::Equal, 0)
            | (Target::Version | Target::Create | Target::Mod, Wanted::Less, 1) => Some(Condition::Absent),
            (Target::Version | Target::Create | Target::Mod, Wanted::NotEqual | Wanted::Greater, 0) => {
                Some(Condition::Present)
            }
            (Target::Create, Wanted::Equal, _) => revision().map(Condition::Created),
            (Target::Mod, Wanted::Equal, _) => revision().map(Condition::Modified),
            _ => None,
        }
    }

    fn holds(&self, record: Option<&KeyValue>) -> bool {
        let order = if self.target == Target::Value {
            let Some(record) = record else { return false };
            record.value.cmp(&self.value.0)
        } else {
            let number = record.map_or(0, |record| match self.target {
                Target::Version => record.version,
                Target::Create => record.create_revision,
                Target::Mod => record.mod_revision,
                Target::Lease | Target::Value => record.lease,
            });
            i128::from(number).cmp(&i128::from(self.number()))
        };
        match self.result {
            Wanted::Equal => order == Ordering::Equal,
            Wanted::Greater => order == Ordering::Greater,
            Wanted::Less => order == Ordering::Less,
            Wanted::NotEqual => order != Ordering::Equal,
        }
    }
}

/// The revisions at which keys were last changed; `None` for a key that does not exist.
pub(super) type Guards = BTreeMap<Bytes, Option<Revision>>;

/// All comparisons of a transaction.
#[derive(Debug)]
pub(super) struct Compares {
    all: Vec<Comparison>,
    /// The same as conditions of kv, if each has one.
    conditions: Option<Vec<Condition>>,
}

impl Compares {
    pub(super) fn new(all: Vec<Comparison>) -> Result<Self, Failure> {
        for comparison in &all {
            if comparison.key.0.is_empty() {
                return Err(errors::no_key());
            }
            if !comparison.range_end.0.is_empty() {
                return Err(Failure::not_offered(
                    "a comparison of all keys of a range is not offered: compare single keys",
                ));
            }
        }
        let conditions = all.iter().map(Comparison::condition).collect();
        Ok(Self { all, conditions })
    }

    /// Whether the cluster can make the comparisons.
    pub(super) const fn are_conditions(&self) -> bool {
        self.conditions.is_some()
    }

    /// Adds the comparisons to a transaction.
    pub(super) fn conditions(&self, transaction: Transaction) -> Transaction {
        let conditions = self.all.iter().zip(self.conditions.iter().flatten());
        conditions.fold(transaction, |transaction, (comparison, condition)| {
            let key = &comparison.key.0;
            match condition {
                Condition::Absent => transaction.if_absent(key),
                Condition::Present => transaction.if_present(key),
                Condition::Modified(revision) => transaction.if_revision(key, *revision),
                Condition::Created(revision) => transaction.if_created(key, *revision),
                Condition::Value(value) => transaction.if_value(key, value.clone()),
            }
        })
    }

    /// Makes the comparisons now, and returns whether all hold. Adds the keys on which that depends to `guards`.
    /// Returns nothing if a key has changed meanwhile.
    pub(super) async fn decide(
        &self,
        door: &Door,
        share: &mut Share,
        guards: &mut Guards,
    ) -> Result<Option<bool>, Failure> {
        let others = share.bytes();
        let mut holds = true;
        for comparison in &self.all {
            let key = &comparison.key.0;
            let record = door.client.get(key).await?;
            let record = record.map(|record| KeyValue::new(key.clone(), record));
            // One record is there at a time.
            if !share.set(others + record.as_ref().map_or(0, KeyValue::weight)) {
                return Err(Failure::no_memory());
            }
            share.set(others);
            let revision = record.as_ref().map(|record| Revision::new(record.mod_revision));
            if guards.insert(key.clone(), revision).is_some_and(|before| before != revision) {
                return Ok(None);
            }
            holds &= comparison.holds(record.as_ref());
        }
        Ok(Some(holds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(text: &str) -> Comparison {
        serde_json::from_str(text).unwrap()
    }

    /// A condition of kv means the same as the comparison, whatever the key is.
    #[test]
    fn conditions_mean_the_same_as_comparisons() {
        let record = |version, created, modified, value: &'static str, lease| {
            Some(KeyValue {
                key: "k".into(),
                create_revision: created,
                mod_revision: modified,
                version,
                value: value.into(),
                lease,
            })
        };
        let records = [None, record(1, 1, 1, "", 0), record(2, 1, 3, "x", 7), record(1, 3, 3, "y", 1)];
        let means = |condition: &Condition, record: Option<&KeyValue>| match condition {
            Condition::Absent => record.is_none(),
            Condition::Present => record.is_some(),
            Condition::Modified(at) => record.is_some_and(|record| record.mod_revision == at.get()),
            Condition::Created(at) => record.is_some_and(|record| record.create_revision == at.get()),
            Condition::Value(value) => record.is_some_and(|record| record.value == *value),
        };
        let mut with_condition = 0;
        for result in ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"] {
            for target in ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"] {
                for number in [-1, 0, 1, 2, 3] {
                    let comparison = comparison(&format!(
                        r#"{{"result":"{result}","target":"{target}","key":"aw==","version":{number},"create_revision":{number},
                        "modRevision":"{number}","lease":{number},"value":"{}"}}"#,
                        if number == 1 { "eA==" } else { "" }
                    ));
                    let Some(condition) = comparison.condition() else { continue };
                    with_condition += 1;
                    for record in &records {
                        let record = record.as_ref();
                        assert_eq!(
                            means(&condition, record),
                            comparison.holds(record),
                            "{comparison:?} {record:?}"
                        );
                    }
                }
            }
        }
        assert_eq!(with_condition, 5 + 3 * 4 + 2 * 3, "values; 0 and 1 for three numbers; other revisions");
    }

    #[test]
    fn an_absent_key_compares_as_zero_but_has_no_value() {
        for (text, holds) in [
            (r#"{"target":"LEASE"}"#, true),
            (r#"{"target":"VERSION","result":"LESS","version":5}"#, true),
            (r#"{"target":"MOD","result":"GREATER","mod_revision":-1}"#, true),
            (r#"{"target":"VALUE","value":""}"#, false),
            (r#"{"target":"VALUE","result":"NOT_EQUAL","value":"eA=="}"#, false),
            (r#"{"target":"VALUE","result":"LESS","value":"eA=="}"#, false),
        ] {
            assert_eq!(comparison(text).holds(None), holds, "{text}");
        }
    }
}
