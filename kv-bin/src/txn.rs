//! `kv txn`: several changes at once, from a file.

use crate::cli::TxnArgs;
use crate::commands::{tell, write_failure};
use crate::config::Span;
use crate::context::Context;
use crate::failure::Failure;
use kv_core::client::Transact;
use kv_core::ids::{LeaseId, Revision};
use kv_core::message::{Lifetime, StepResult};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;

/// The file.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default, rename = "if")]
    conditions: Vec<Condition>,
    then: Vec<Change>,
    #[serde(default, rename = "else")]
    otherwise: Vec<Change>,
}

/// What must hold of a key.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Condition {
    Absent(String),
    Present(String),
    Revision(String, u64),
    Value(String, String),
}

#[derive(Deserialize, Debug)]
#[serde(untagged)]
enum Change {
    Put(Put),
    Delete(Delete),
    Add(Add),
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

/// Reads the file, and does what it says: all of it or nothing.
pub(crate) async fn txn(context: &Context, args: TxnArgs, json: bool) -> Result<(), Failure> {
    let shown = args.file.display();
    let text = if args.file.as_os_str() == "-" {
        context.standard_input()?
    } else {
        fs::read(&args.file).map_err(|error| Failure::usage(format!("cannot read {shown}: {error}")))?
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| {
        Failure::usage(format!("{shown} is not a transaction: {error}; see kv txn --help"))
    })?;
    let has_other = !file.otherwise.is_empty();
    let client = context.client().await?;
    let mut transaction = file.conditions.into_iter().fold(client.transaction(), condition);
    transaction = file.then.into_iter().fold(transaction, change);
    transaction = file.otherwise.into_iter().fold(transaction.otherwise(), change);
    let result = transaction.await;
    let done = result.map_err(|error| write_failure(&error))?;
    let revision = done.revision.get();
    if json {
        let results: Vec<Value> = done.results.iter().map(result_json).collect();
        tell(&json!({ "held": done.held, "revision": revision, "results": results }).to_string())?;
    } else if done.held || has_other {
        tell(&format!("revision {revision}{}", if done.held { "" } else { ", by else" }))?;
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
        Condition::Revision(key, revision) => transaction.if_revision(key, Revision::new(revision)),
        Condition::Value(key, value) => transaction.if_value(key, value),
    }
}

fn change(transaction: Transact, change: Change) -> Transact {
    match change {
        Change::Put(Put { put, value, ttl, lease }) => {
            let ttl = ttl.map_or(Lifetime::FOREVER, |ttl| Lifetime::ttl(ttl.0));
            transaction.put_for(put, value, Lifetime { lease: lease.map(LeaseId::new), ..ttl })
        }
        Change::Delete(Delete { delete }) => transaction.delete(delete),
        Change::Add(Add { add, by }) => transaction.add(add, by),
    }
}

fn result_json(result: &StepResult) -> Value {
    match result {
        StepResult::Put => json!({ "put": true }),
        StepResult::Deleted { existed } => json!({ "existed": existed }),
        StepResult::Added { sum } => json!({ "sum": sum }),
        _ => Value::Null,
    }
}
