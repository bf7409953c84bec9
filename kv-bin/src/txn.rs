//! `kv txn`: several changes and reads at once, from a file.

use crate::cli::TxnArgs;
use crate::commands::{record_json, tell, tell_bytes, write_failure};
use crate::config::Span;
use crate::context::Context;
use crate::failure::Failure;
use kv_core::client::Transact;
use kv_core::ids::{LeaseId, Revision};
use kv_core::message::{Lifetime, StepResult};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::fs;

/// The file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, expecting = "an object with `then`, and perhaps `if` and `else`")]
struct File {
    #[serde(default, rename = "if")]
    conditions: Vec<Condition>,
    then: Vec<Step>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Step>,
}

/// What must hold of a key.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Condition {
    Absent(String),
    Present(String),
    Revision((String, u64)),
    Value((String, String)),
}

#[derive(Deserialize, Debug)]
#[serde(try_from = "Map<String, Value>")]
enum Step {
    Put(Put),
    Delete(Delete),
    Add(Add),
    Get(Get),
    Scan(Scan),
}

impl TryFrom<Map<String, Value>> for Step {
    type Error = String;

    fn try_from(fields: Map<String, Value>) -> Result<Self, String> {
        fn read<T: DeserializeOwned>(what: &str, fields: Map<String, Value>) -> Result<T, String> {
            serde_json::from_value(fields.into()).map_err(|error| format!("a step with `{what}`: {error}"))
        }
        let named =
            ["put", "delete", "add", "get", "scan"].into_iter().find(|name| fields.contains_key(*name));
        match named {
            Some("put") => read("put", fields).map(Self::Put),
            Some("delete") => read("delete", fields).map(Self::Delete),
            Some("add") => read("add", fields).map(Self::Add),
            Some("get") => read("get", fields).map(Self::Get),
            Some("scan") => read("scan", fields).map(Self::Scan),
            _ => Err("a step has one of `put`, `delete`, `add`, `get` and `scan`, with a key".to_owned()),
        }
    }
}

impl Step {
    /// The key, for the output.
    fn key(&self) -> &str {
        match self {
            Self::Put(Put { put: key, .. })
            | Self::Delete(Delete { delete: key })
            | Self::Add(Add { add: key, .. })
            | Self::Get(Get { get: key })
            | Self::Scan(Scan { scan: key, .. }) => key,
        }
    }
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Put {
    put: String,
    value: String,
    ttl: Option<Span>,
    lease: Option<u64>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Delete {
    delete: String,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Add {
    add: String,
    by: i64,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Get {
    get: String,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Scan {
    scan: String,
    #[serde(default = "everything")]
    limit: u32,
}

const fn everything() -> u32 {
    u32::MAX
}

/// Reads the file, and does what it says: all of it or nothing.
pub(crate) async fn txn(context: &Context, args: TxnArgs, json: bool) -> Result<(), Failure> {
    let shown = args.file.display();
    let (shown, text) = if args.file.as_os_str() == "-" {
        ("standard input".to_owned(), context.standard_input()?)
    } else {
        let text = fs::read(&args.file);
        (shown.to_string(), text.map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?)
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!("{shown} is not a transaction: {error}; see kv txn --help"))
    })?;
    let has_other = !file.otherwise.is_empty();
    let keys =
        [&file.then, &file.otherwise].map(|steps| steps.iter().map(|it| it.key().to_owned()).collect());
    let [then, otherwise]: [Vec<String>; 2] = keys;
    let client = context.client().await?;
    let mut transaction = file.conditions.into_iter().fold(client.transaction(), condition);
    transaction = file.then.into_iter().fold(transaction, step);
    transaction = file.otherwise.into_iter().fold(transaction.otherwise(), step);
    let result = transaction.await;
    let done = result.map_err(|error| write_failure(&error))?;
    let revision = done.revision.get();
    let results = || if done.held { &then } else { &otherwise }.iter().zip(&done.results);
    if json {
        let results: Vec<Value> = results().map(|(key, result)| result_json(key, result)).collect();
        tell(&json!({ "held": done.held, "revision": revision, "results": results }).to_string())?;
    } else if done.held || has_other {
        tell(&format!("revision {revision}{}", if done.held { "" } else { ", by else" }))?;
        results().try_for_each(|(key, result)| tell_found(key.as_bytes(), result))?;
    }
    if done.held || has_other {
        return Ok(());
    }
    Err(Failure::failed("a condition did not hold: nothing was changed"))
}

fn condition(transaction: Transact, condition: Condition) -> Transact {
    match condition {
        Condition::Absent(key) => transaction.if_absent(key),
        Condition::Present(key) => transaction.if_present(key),
        Condition::Revision((key, revision)) => transaction.if_revision(key, Revision::new(revision)),
        Condition::Value((key, value)) => transaction.if_value(key, value),
    }
}

fn step(transaction: Transact, step: Step) -> Transact {
    match step {
        Step::Put(Put { put, value, ttl, lease }) => {
            let ttl = ttl.map_or(Lifetime::FOREVER, |ttl| Lifetime::ttl(ttl.0));
            transaction.put_for(put, value, Lifetime { lease: lease.map(LeaseId::new), ..ttl })
        }
        Step::Delete(Delete { delete }) => transaction.delete(delete),
        Step::Add(Add { add, by }) => transaction.add(add, by),
        Step::Get(Get { get }) => transaction.get(get),
        Step::Scan(Scan { scan, limit }) => transaction.scan(scan, limit),
    }
}

fn result_json(key: &str, result: &StepResult) -> Value {
    match result {
        StepResult::Put => json!({ "put": true }),
        StepResult::Deleted { existed } => json!({ "existed": existed }),
        StepResult::Added { sum } => json!({ "sum": sum }),
        StepResult::Got(None) => json!({ "record": null }),
        StepResult::Got(Some(record)) => json!({ "record": record_json(key.as_bytes(), record) }),
        StepResult::Scanned(found) => {
            let records: Vec<Value> =
                found.records.iter().map(|(key, record)| record_json(key, record)).collect();
            json!({ "records": records, "more": found.more })
        }
        _ => Value::Null,
    }
}

/// Prints what was read, as `kv scan` does.
fn tell_found(key: &[u8], result: &StepResult) -> Result<(), Failure> {
    match result {
        StepResult::Got(Some(record)) => tell_bytes(&[key, b"\t", &record.value[..]].concat()),
        StepResult::Scanned(found) => found
            .records
            .iter()
            .try_for_each(|(key, record)| tell_bytes(&[&key[..], b"\t", &record.value[..]].concat())),
        _ => Ok(()),
    }
}
