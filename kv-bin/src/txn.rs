//! `kv txn`: runs a transaction from a file.

use crate::cli::TxnArgs;
use crate::commands::{print_bytes, print_line, record_json};
use crate::config::DurationArg;
use crate::context::Context;
use crate::encoding::{Blob, Encoding, decode_fields, json_line};
use crate::failure::Failure;
use kv_core::client::{LeaseId, Lifetime, Revision, StepResult, Transaction};
use kv_core::error::WriteError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// The file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields, expecting = "an object with `then`, and perhaps `if` and `else`")]
struct File {
    #[serde(default, rename = "if")]
    conditions: Vec<ConditionInput>,
    then: Vec<StepInput>,
    #[serde(default, rename = "else")]
    otherwise: Vec<StepInput>,
}

/// A condition on a key.
#[derive(Deserialize, Debug)]
#[serde(try_from = "Map<String, Value>")]
struct ConditionInput(Holds);

impl TryFrom<Map<String, Value>> for ConditionInput {
    type Error = String;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, String> {
        decode_fields(&mut fields, &["absent", "present", "revision", "value"])?;
        serde_json::from_value(fields.into()).map(Self).map_err(|error| format!("a condition: {error}"))
    }
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Holds {
    Absent(Blob),
    Present(Blob),
    Revision((Blob, u64)),
    Value((Blob, Blob)),
}

#[derive(Deserialize, Debug)]
#[serde(try_from = "Map<String, Value>")]
enum StepInput {
    Put(Put),
    Delete(Delete),
    Add(Add),
    Get(Get),
    Scan(Scan),
    Touch(Touch),
    Persist(Persist),
}

impl TryFrom<Map<String, Value>> for StepInput {
    type Error = String;

    fn try_from(mut fields: Map<String, Value>) -> Result<Self, String> {
        fn read<T: DeserializeOwned>(what: &str, fields: Map<String, Value>) -> Result<T, String> {
            serde_json::from_value(fields.into()).map_err(|error| format!("a step with `{what}`: {error}"))
        }
        const KINDS: [&str; 7] = ["put", "delete", "add", "get", "scan", "touch", "persist"];
        decode_fields(&mut fields, &[&KINDS[..], &["value"]].concat())?;
        let named = KINDS.into_iter().find(|name| fields.contains_key(*name));
        match named {
            Some("put") => read("put", fields).map(Self::Put),
            Some("delete") => read("delete", fields).map(Self::Delete),
            Some("add") => read("add", fields).map(Self::Add),
            Some("get") => read("get", fields).map(Self::Get),
            Some("scan") => read("scan", fields).map(Self::Scan),
            Some("touch") => read("touch", fields).map(Self::Touch),
            Some("persist") => read("persist", fields).map(Self::Persist),
            _ => Err(
                "a step has one of `put`, `delete`, `add`, `get`, `scan`, `touch` and `persist`, with a key"
                    .to_owned(),
            ),
        }
    }
}

impl StepInput {
    /// The key, for the output.
    fn key(&self) -> &Blob {
        match self {
            Self::Put(Put { put: key, .. })
            | Self::Delete(Delete { delete: key })
            | Self::Add(Add { add: key, .. })
            | Self::Get(Get { get: key })
            | Self::Scan(Scan { scan: key, .. })
            | Self::Touch(Touch { touch: key, .. })
            | Self::Persist(Persist { persist: key }) => key,
        }
    }
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Put {
    put: Blob,
    value: Blob,
    ttl: Option<DurationArg>,
    lease: Option<u64>,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Delete {
    delete: Blob,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Add {
    add: Blob,
    by: i64,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Get {
    get: Blob,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Scan {
    scan: Blob,
    #[serde(default = "everything")]
    limit: u32,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Touch {
    touch: Blob,
    ttl: DurationArg,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Persist {
    persist: Blob,
}

const fn everything() -> u32 {
    u32::MAX
}

/// Reads the file and runs the transaction.
pub(crate) async fn txn(context: &Context, args: TxnArgs, json: bool) -> Result<(), Failure> {
    let encoding = args.encoding;
    let (shown, text) = context.text_of(&args.file)?;
    let file: File = serde_json::from_str(&text).map_err(|error| {
        Failure::usage(format!("{shown} is not a transaction: {error}; see kv txn --help"))
    })?;
    let has_other = !file.otherwise.is_empty();
    let keys =
        [&file.then, &file.otherwise].map(|steps| steps.iter().map(|it| it.key().clone().into()).collect());
    let [then, otherwise]: [Vec<Vec<u8>>; 2] = keys;
    let client = context.client().await?;
    let mut transaction = file.conditions.into_iter().fold(client.transaction(), condition);
    transaction = file.then.into_iter().fold(transaction, step);
    transaction = file.otherwise.into_iter().fold(transaction.otherwise(), step);
    let done = transaction.await.map_err(|error| match error {
        WriteError::StepFailed { step, why, .. } => {
            let keys =
                [&then, &otherwise].into_iter().filter_map(|keys| Some(encoding.quoted(keys.get(step)?)));
            let keys = keys.collect::<Vec<_>>().join(" or ");
            Failure::failed(format!("step {} (key {keys}) failed, and nothing was changed: {why}", step + 1))
        }
        error => error.into(),
    })?;
    let revision = done.revision.get();
    let results = || if done.succeeded { &then } else { &otherwise }.iter().zip(&done.results);
    if json {
        let results: Vec<Value> = results().map(|(key, result)| result_json(key, result, encoding)).collect();
        print_line(&json_line(
            &json!({ "succeeded": done.succeeded, "revision": revision, "results": results }),
        ))?;
    } else if done.succeeded || has_other {
        print_line(&format!("revision {revision}{}", if done.succeeded { "" } else { ", by else" }))?;
        results().try_for_each(|(key, result)| print_result(key, result, encoding))?;
    }
    if done.succeeded || has_other {
        return Ok(());
    }
    Err(Failure::failed("a condition did not hold: nothing was changed"))
}

fn condition(transaction: Transaction, ConditionInput(holds): ConditionInput) -> Transaction {
    match holds {
        Holds::Absent(key) => transaction.if_absent(Vec::from(key)),
        Holds::Present(key) => transaction.if_present(Vec::from(key)),
        Holds::Revision((key, revision)) => transaction.if_revision(Vec::from(key), Revision::new(revision)),
        Holds::Value((key, value)) => transaction.if_value(Vec::from(key), Vec::from(value)),
    }
}

fn step(transaction: Transaction, step: StepInput) -> Transaction {
    match step {
        StepInput::Put(Put { put, value, ttl, lease }) => {
            let ttl = ttl.map_or(Lifetime::FOREVER, |ttl| Lifetime::ttl(ttl.0));
            transaction.put_for(
                Vec::from(put),
                Vec::from(value),
                Lifetime { lease: lease.map(LeaseId::new), ..ttl },
            )
        }
        StepInput::Delete(Delete { delete }) => transaction.delete(Vec::from(delete)),
        StepInput::Add(Add { add, by }) => transaction.add(Vec::from(add), by),
        StepInput::Get(Get { get }) => transaction.get(Vec::from(get)),
        StepInput::Touch(Touch { touch, ttl }) => transaction.touch(Vec::from(touch), ttl.0),
        StepInput::Persist(Persist { persist }) => transaction.persist(Vec::from(persist)),
        StepInput::Scan(Scan { scan, limit }) => transaction.scan(Vec::from(scan), limit),
    }
}

fn result_json(key: &[u8], result: &StepResult, encoding: Encoding) -> Value {
    match result {
        StepResult::Put => json!({ "put": true }),
        StepResult::Deleted { existed } | StepResult::Touched { existed } => json!({ "existed": existed }),
        StepResult::Added { sum } => json!({ "sum": sum }),
        StepResult::Got(None) => json!({ "record": null }),
        StepResult::Got(Some(record)) => json!({ "record": record_json(key, record, encoding) }),
        StepResult::Scanned(found) => {
            let records: Vec<Value> =
                found.records.iter().map(|(key, record)| record_json(key, record, encoding)).collect();
            json!({ "records": records, "more": found.more })
        }
        _ => Value::Null,
    }
}

/// Prints a line for a step, and further ones for what a scan has found.
fn print_result(key: &[u8], result: &StepResult, encoding: Encoding) -> Result<(), Failure> {
    let (kind, text) = match result {
        StepResult::Put => ("put", None),
        StepResult::Deleted { existed: true } => ("delete", None),
        StepResult::Touched { existed: true } => ("touch", None),
        StepResult::Touched { existed: false } => ("touch", Some(b"the key does not exist".to_vec())),
        StepResult::Deleted { existed: false } => ("delete", Some(b"the key did not exist".to_vec())),
        StepResult::Added { sum } => ("add", Some(sum.to_string().into_bytes())),
        StepResult::Got(found) => ("get", found.as_ref().map(|record| encoding.shown(&record.value))),
        StepResult::Scanned(found) => ("scan", Some(found.records.len().to_string().into_bytes())),
        _ => return Ok(()),
    };
    let line: Vec<_> = [kind.as_bytes().to_vec(), encoding.shown(key)].into_iter().chain(text).collect();
    print_bytes(&line.join(&b'\t'))?;
    let StepResult::Scanned(found) = result else { return Ok(()) };
    found.records.iter().try_for_each(|(key, record)| {
        print_bytes(&[b"", &encoding.shown(key)[..], &encoding.shown(&record.value)].join(&b'\t'))
    })
}
