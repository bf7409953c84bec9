//! Random transactions, compared with a small model of etcd, in which each request sees those before it.

use super::*;
use std::collections::BTreeMap;

const KEYS: [&str; 5] = ["a", "b", "c", "d", "e"];
const VALUES: [&str; 4] = ["", "m", "x", "zz"];

#[derive(Clone, PartialEq, Debug)]
struct Entry {
    value: &'static str,
    created: u64,
    modified: u64,
    version: u64,
}

type Store = BTreeMap<&'static str, Entry>;

fn record(key: &str, entry: &Entry) -> Value {
    let mut record = json!({
        "key": b64(key),
        "create_revision": entry.created.to_string(),
        "mod_revision": entry.modified.to_string(),
        "version": entry.version.to_string(),
    });
    if !entry.value.is_empty() {
        record["value"] = b64(entry.value).into();
    }
    record
}

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: &'static str,
        value: &'static str,
        previous: bool,
    },
    Delete {
        key: &'static str,
        previous: bool,
    },
    Range {
        from: &'static str,
        to: Option<&'static str>,
        descend: bool,
        by_value: bool,
        limit: usize,
        counts: bool,
    },
}

impl Op {
    fn random(random: &mut fastrand::Rng) -> Self {
        let mut key = || KEYS[random.usize(..KEYS.len())];
        let (one, other) = (key(), key());
        match random.u32(..5) {
            0 | 1 => {
                Self::Put { key: one, value: VALUES[random.usize(..VALUES.len())], previous: random.bool() }
            }
            2 => Self::Delete { key: one, previous: random.bool() },
            _ => Self::Range {
                from: one,
                to: [None, Some(other), Some("\0"), Some("zzz")][random.usize(..4)],
                descend: random.bool(),
                by_value: random.u32(..4) == 0,
                limit: random.usize(..4),
                counts: random.u32(..5) == 0,
            },
        }
    }

    fn request(&self) -> Value {
        match self {
            Self::Put { key, value, previous } => {
                json!({"request_put": {"key": b64(key), "value": b64(value), "prev_kv": previous}})
            }
            Self::Delete { key, previous } => {
                json!({"request_delete_range": {"key": b64(key), "prev_kv": previous}})
            }
            Self::Range { from, to, descend, by_value, limit, counts } => {
                let mut range = json!({"key": b64(from), "limit": limit, "count_only": counts});
                if let Some(to) = to {
                    range["range_end"] = b64(to).into();
                }
                if *descend {
                    range["sort_order"] = "DESCEND".into();
                }
                if *by_value {
                    range["sort_target"] = "VALUE".into();
                }
                json!({"request_range": range})
            }
        }
    }

    fn changes(&self) -> Option<&'static str> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::Range { .. } => None,
        }
    }

    fn reads(&self, key: &str) -> bool {
        match self {
            Self::Range { from, to: None, .. } => *from == key,
            Self::Range { from, to: Some("\0"), .. } => *from <= key,
            Self::Range { from, to: Some(to), .. } => *from <= key && key < *to,
            Self::Put { .. } | Self::Delete { .. } => false,
        }
    }

    /// Runs the request, and returns the answer without its header.
    fn run(&self, store: &mut Store, revision: u64) -> Value {
        match self {
            Self::Put { key, value, previous } => {
                let before = store.get(key).cloned();
                let created = before.as_ref().map_or(revision, |before| before.created);
                let version = before.as_ref().map_or(0, |before| before.version) + 1;
                store.insert(key, Entry { value, created, modified: revision, version });
                let before = before.filter(|_| *previous).map(|before| record(key, &before));
                json!({"response_put": before.map_or(json!({}), |before| json!({"prev_kv": before}))})
            }
            Self::Delete { key, previous } => match store.remove(key) {
                None => json!({"response_delete_range": {}}),
                Some(before) if *previous => {
                    json!({"response_delete_range": {"deleted": "1", "prev_kvs": [record(key, &before)]}})
                }
                Some(_) => json!({"response_delete_range": {"deleted": "1"}}),
            },
            Self::Range { descend, by_value, limit, counts, .. } => {
                let mut found: Vec<_> = store.iter().filter(|(key, _)| self.reads(key)).collect();
                let mut answer = json!({});
                if !found.is_empty() {
                    answer["count"] = found.len().to_string().into();
                }
                if *by_value {
                    found.sort_by_key(|(_, entry)| entry.value);
                }
                if *descend {
                    found.reverse();
                }
                if *counts {
                    return json!({"response_range": answer});
                }
                if *limit > 0 && found.len() > *limit {
                    found.truncate(*limit);
                    answer["more"] = true.into();
                }
                if !found.is_empty() {
                    answer["kvs"] = found.iter().map(|(key, entry)| record(key, entry)).collect();
                }
                json!({"response_range": answer})
            }
        }
    }
}

/// The code with which a list of requests is refused.
fn refusal(ops: &[Op]) -> Option<u64> {
    // Only removals of the same key may be repeated, and only the first one changes it.
    let mut changed = BTreeMap::new();
    let mut effective = Vec::new();
    for op in ops {
        let is_removal = matches!(op, Op::Delete { .. });
        match op.changes().and_then(|key| changed.insert(key, is_removal)) {
            None => effective.push(op.clone()),
            Some(true) if is_removal => {}
            Some(_) => return Some(3),
        }
    }
    let ops = effective;
    let changes = |ops: &[Op], range: &Op| ops.iter().filter_map(Op::changes).any(|key| range.reads(key));
    let is_between =
        |index: usize| changes(&ops[..index], &ops[index]) && changes(&ops[index..], &ops[index]);
    (0..ops.len()).any(is_between).then_some(12)
}

/// A random comparison, and whether it holds.
fn comparison(random: &mut fastrand::Rng, store: &Store) -> (Value, bool) {
    let key = KEYS[random.usize(..KEYS.len())];
    let entry = store.get(key);
    let (target, field) =
        [("VERSION", "version"), ("CREATE", "create_revision"), ("MOD", "mod_revision"), ("VALUE", "value")]
            [random.usize(..4)];
    let (result, wanted) = [
        ("EQUAL", [false, true, false]),
        ("GREATER", [false, false, true]),
        ("LESS", [true, false, false]),
        ("NOT_EQUAL", [true, false, true]),
    ][random.usize(..4)];
    let mut compare = json!({"key": b64(key), "target": target, "result": result});
    let order = if target == "VALUE" {
        let value = VALUES[random.usize(..VALUES.len())];
        compare[field] = b64(value).into();
        entry.map(|entry| entry.value.cmp(value))
    } else {
        let present = entry.map_or(0, |entry| match target {
            "VERSION" => entry.version,
            "CREATE" => entry.created,
            _ => entry.modified,
        });
        let number = [0, 1, present, present + 1][random.usize(..4)];
        compare[field] = if random.bool() { json!(number) } else { json!(number.to_string()) };
        Some(present.cmp(&number))
    };
    let holds = order.is_some_and(|order| wanted[usize::try_from(order as i8 + 1).unwrap()]);
    (compare, holds)
}

/// A transaction, with others inside of it.
struct Txn {
    /// The comparisons, and whether each of them holds.
    compares: Vec<(Value, bool)>,
    then: Vec<Item>,
    otherwise: Vec<Item>,
}

enum Item {
    Op(Op),
    Txn(Txn),
}

impl Txn {
    /// A random transaction in this state, of which up to `depth` are inside of one another.
    fn random(random: &mut fastrand::Rng, store: &Store, depth: usize) -> Self {
        let mut list = || {
            (0..random.usize(..5))
                .map(|_| match random.u32(..3) {
                    0 if depth > 1 => Item::Txn(Self::random(random, store, depth - 1)),
                    _ => Item::Op(Op::random(random)),
                })
                .collect()
        };
        let (then, otherwise) = (list(), list());
        let compares = (0..random.usize(..3)).map(|_| comparison(random, store)).collect();
        Self { compares, then, otherwise }
    }

    fn request(&self) -> Value {
        let requests = |list: &[Item]| {
            let each = list.iter().map(|item| match item {
                Item::Op(op) => op.request(),
                Item::Txn(txn) => json!({"request_txn": txn.request()}),
            });
            each.collect::<Value>()
        };
        json!({
            "compare": self.compares.iter().map(|(compare, _)| compare.clone()).collect::<Value>(),
            "success": requests(&self.then),
            "failure": requests(&self.otherwise),
        })
    }

    fn is_nested(&self) -> bool {
        self.then.iter().chain(&self.otherwise).any(|item| matches!(item, Item::Txn(_)))
    }

    /// The requests that can be run, for all possible results of the comparisons.
    fn ways(&self) -> Vec<Vec<Op>> {
        let mut all = Vec::new();
        for list in [&self.then, &self.otherwise] {
            let mut ways = vec![Vec::new()];
            for item in list {
                let next = match item {
                    Item::Op(op) => vec![vec![op.clone()]],
                    Item::Txn(txn) => txn.ways(),
                };
                ways =
                    ways.iter().flat_map(|way| next.iter().map(|next| [&way[..], next].concat())).collect();
            }
            all.extend(ways);
        }
        all
    }

    /// Runs the transaction, and returns the answer without the headers.
    fn run(&self, store: &mut Store, revision: u64) -> Value {
        let holds = self.compares.iter().all(|(_, holds)| *holds);
        let list = if holds { &self.then } else { &self.otherwise };
        let run = |item: &Item| match item {
            Item::Op(op) => op.run(store, revision),
            Item::Txn(txn) => json!({"response_txn": txn.run(store, revision)}),
        };
        let responses: Vec<_> = list.iter().map(run).collect();
        let mut answer = json!({});
        if holds {
            answer["succeeded"] = true.into();
        }
        if !responses.is_empty() {
            answer["responses"] = responses.into();
        }
        answer
    }
}

/// Checks the revisions in the headers of an answer, and removes the headers.
fn without_headers(answer: &mut Value, revision: u64) {
    let header = answer.as_object_mut().unwrap().remove("header").unwrap();
    assert_eq!(header["revision"], revision.to_string());
    for response in answer.get_mut("responses").and_then(Value::as_array_mut).into_iter().flatten() {
        let (_, inner) = response.as_object_mut().unwrap().iter_mut().next().unwrap();
        without_headers(inner, revision);
    }
}

/// Random transactions, of which up to `depth` are inside of one another. Returns how many were done (with others
/// inside, if `depth` allows it), and how many were refused although the model would have done them.
async fn compare_with_model(depth: usize, rounds: u32) -> (u32, u32) {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut store, mut last, mut done, mut refused, mut too_strict) = (Store::new(), 0, 0, 0, 0);
    for round in 0..rounds {
        let txn = Txn::random(&mut random, &store, depth);
        let body = txn.request();
        let answer = connection.try_post("/v3/kv/txn", &body).await;
        let refusals: Vec<_> = txn.ways().iter().filter_map(|ops| refusal(ops)).collect();
        if answer.status != 200 {
            assert!(answer.status == 400 || answer.status == 501, "{round}: {body} {answer:?}");
            let code = answer.json()["code"].as_u64().unwrap();
            if let Some(first) = refusals.first() {
                assert!(
                    code == *first || txn.is_nested() && [3, 12].contains(&code),
                    "{round}: {body} {answer:?}"
                );
                refused += 1;
            } else {
                assert!(code == 12 && txn.is_nested(), "{round}: {body} {answer:?}");
                too_strict += 1;
            }
            continue;
        }
        assert!(refusals.is_empty(), "{round}: {body}");
        let mut answer = answer.json();
        let revision = answer["header"]["revision"].as_str().unwrap().parse().unwrap();
        assert!(revision > last, "{round}");
        last = revision;
        without_headers(&mut answer, revision);
        let before = store.clone();
        assert_eq!(answer, txn.run(&mut store, revision), "{round}: {body} {before:?}");
        done += u32::from(depth == 1 || txn.is_nested());
    }
    assert!(refused > 100, "{refused}");
    (done, too_strict)
}

#[tokio::test(start_paused = true)]
async fn transactions_are_those_of_etcd() {
    let (done, too_strict) = compare_with_model(1, 1500).await;
    assert!(done > 500 && too_strict == 0, "{done} {too_strict}");
}

#[tokio::test(start_paused = true)]
async fn transactions_inside_of_others_are_those_of_etcd() {
    let (done, too_strict) = compare_with_model(3, 4000).await;
    assert!(done > 300 && too_strict < 10, "{done} {too_strict}");
}
