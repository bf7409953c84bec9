//! Watches of etcd's gateway.

use super::*;
use kv_core::config::Options;

/// A watch on a connection of its own.
struct Watcher(Connection);

impl Watcher {
    async fn create(door: &Arc<Door>, create: Value) -> (Self, Value) {
        let mut connection = Connection::open(door);
        let body = json!({"create_request": create}).to_string();
        let length = body.len();
        connection
            .send(format!(
                "POST /v3/watch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let head = connection.head().await.unwrap();
        assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
        let mut watcher = Self(connection);
        let created = watcher.next().await;
        assert_eq!(created["created"], true, "{created}");
        (watcher, created)
    }

    /// The next line, which is one part of the answer.
    async fn line(&mut self) -> Option<Value> {
        let chunk = self.0.chunk().await;
        if chunk.is_empty() {
            return None;
        }
        assert_eq!(chunk.iter().position(|byte| *byte == b'\n'), Some(chunk.len() - 1));
        Some(serde_json::from_slice(&chunk).unwrap())
    }

    async fn next(&mut self) -> Value {
        self.line().await.expect("the watch goes on")["result"].clone()
    }

    /// The events of the next line: the kind, the key and the value.
    async fn events(&mut self) -> Vec<(String, String, String)> {
        let result = self.next().await;
        let events = result["events"].as_array().unwrap_or_else(|| panic!("{result}"));
        let text = |event: &Value, name: &str| event["kv"].get(name).map(decode).unwrap_or_default();
        let kind = |event: &Value| event.get("type").map_or("PUT", |kind| kind.as_str().unwrap()).to_owned();
        events.iter().map(|event| (kind(event), text(event, "key"), text(event, "value"))).collect()
    }
}

fn event(kind: &str, key: &str, value: &str) -> (String, String, String) {
    (kind.to_owned(), key.to_owned(), value.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_watch_gets_each_change_once() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let first = number(&connection.put("a", "1").await["header"]["revision"]);
    let (mut watcher, created) = Watcher::create(&door, range("a", "c", json!({}))).await;
    assert_eq!(number(&created["header"]["revision"]), first);
    connection.put("a", "2").await;
    assert_eq!(watcher.events().await, [event("PUT", "a", "2")]);
    connection.put("z", "other").await;
    let deleted = connection.post("/v3/kv/deleterange", json!({"key": b64("a")})).await;
    let line = watcher.next().await;
    let expected = json!({"key": b64("a"), "mod_revision": deleted["header"]["revision"]});
    assert_eq!(line["events"], json!([{"type": "DELETE", "kv": expected}]));
    assert_eq!(line["header"]["revision"], deleted["header"]["revision"]);
    // All changes of a revision come together.
    let puts: Vec<_> =
        ["a", "b"].map(|key| json!({"request_put": {"key": b64(key), "value": b64("3")}})).into();
    connection.post("/v3/kv/txn", json!({"success": puts})).await;
    assert_eq!(watcher.events().await, [event("PUT", "a", "3"), event("PUT", "b", "3")]);
    // From the past, of one key, with the previous records.
    let from =
        json!({"key": b64("a"), "start_revision": first.to_string(), "prev_kv": true, "watch_id": "5"});
    let (mut past, created) = Watcher::create(&door, from).await;
    assert_eq!(created["watch_id"], "5");
    let line = past.next().await;
    let values: Vec<_> =
        line["events"].as_array().unwrap().iter().map(|event| event["kv"].get("value").map(decode)).collect();
    assert_eq!(values, [Some("1".into()), Some("2".into()), None, Some("3".into())]);
    let before: Vec<_> = line["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event.get("prev_kv").map(|kv| decode(&kv["value"])))
        .collect();
    assert_eq!(before, [None, Some("1".into()), Some("2".into()), None]);
    // A filter, and a start in the future.
    let (mut removals, _) = Watcher::create(&door, range("a", "c", json!({"filters": ["NOPUT"]}))).await;
    let newest = number(&connection.put("b", "4").await["header"]["revision"]);
    let (mut later, _) = Watcher::create(&door, range("a", "c", json!({"start_revision": newest + 2}))).await;
    connection.put("b", "5").await;
    connection.post("/v3/kv/deleterange", json!({"key": b64("b")})).await;
    assert_eq!(removals.events().await, [event("DELETE", "b", "")]);
    assert_eq!(later.events().await, [event("DELETE", "b", "")]);
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_when_the_primary_fails() {
    let (mut cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let (mut watcher, _) = Watcher::create(&door, range("a", "c", json!({}))).await;
    connection.put("a", "1").await;
    cluster.kill_primary().await;
    connection.put("a", "2").await;
    let mut events = watcher.events().await;
    if events.len() < 2 {
        events.extend(watcher.events().await);
    }
    assert_eq!(events, [event("PUT", "a", "1"), event("PUT", "a", "2")]);
}

#[tokio::test(start_paused = true)]
async fn a_client_learns_of_the_progress_of_its_watch() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let (mut watcher, _) = Watcher::create(&door, range("a", "c", json!({"progress_notify": true}))).await;
    let revision = number(&connection.put("z", "1").await["header"]["revision"]);
    let mut known = 0;
    while known < revision {
        let line = watcher.next().await;
        assert_eq!(line.get("events"), None);
        known = number(&line["header"]["revision"]);
    }
    assert_eq!(known, revision);
    connection.put("a", "1").await;
    assert_eq!(watcher.events().await, [event("PUT", "a", "1")]);
    // Events that are left out do not delay that.
    let filtered = range("a", "c", json!({"progress_notify": true, "filters": ["NOPUT"]}));
    let (mut watcher, _) = Watcher::create(&door, filtered).await;
    let puts = async {
        for _ in 0..100 {
            connection.put("a", "2").await;
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let line = tokio::select! {
        line = watcher.next() => line,
        () = puts => panic!("no line comes"),
    };
    assert!(line.get("events").is_none() && number(&line["header"]["revision"]) > revision, "{line}");
}

#[tokio::test(start_paused = true)]
async fn history_is_compacted_on_request() {
    let mut options = Options::default();
    options.history_revisions = 1000;
    let cluster = TestCluster::in_memory(3).options(options).start().await;
    let door = Arc::new(Door::new(cluster.client().await, None, HttpOptions::default()));
    let mut connection = Connection::open(&door);
    let mut revisions = Vec::new();
    for value in ["1", "2", "3", "4"] {
        revisions.push(number(&connection.put("a", value).await["header"]["revision"]));
    }
    connection.refused("/v3/kv/compaction", json!({"revision": revisions[3] + 9}), 11, "future").await;
    connection.post("/v3/kv/compaction", json!({"revision": revisions[2], "physical": true})).await;
    let at = |revision: u64| json!({"key": b64("a"), "revision": revision});
    connection.refused("/v3/kv/range", at(revisions[0]), 11, "compacted").await;
    assert_eq!(decode(&connection.post("/v3/kv/range", at(revisions[2])).await["kvs"][0]["value"]), "3");
    connection.refused("/v3/kv/compaction", json!({"revision": revisions[1]}), 11, "compacted").await;
    let (mut watcher, _) =
        Watcher::create(&door, json!({"key": b64("a"), "start_revision": revisions[0]})).await;
    let end = watcher.next().await;
    assert_eq!(end["canceled"], true);
    let start = number(&end["compact_revision"]);
    assert!(start > revisions[0] && start <= revisions[3], "{end}");
    assert_eq!(watcher.line().await, None);
    let (mut watcher, _) = Watcher::create(&door, json!({"key": b64("a"), "start_revision": start})).await;
    assert_eq!(watcher.events().await.last(), Some(&event("PUT", "a", "4")));
}

#[tokio::test(start_paused = true)]
async fn wrong_watches_are_refused() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    for (body, code, part) in [
        (json!({}), 3, "create_request"),
        (json!({"create_request": {}}), 3, "key is not provided"),
        (json!({"create_request": {"key": b64("b"), "range_end": b64("a")}}), 3, "range is empty"),
        (json!({"cancel_request": {"watch_id": 1}}), 12, "close its connection"),
        (json!({"progress_request": {}}), 12, "progress_notify"),
    ] {
        connection.refused("/v3/watch", body, code, part).await;
    }
    let two = r#"{"create_request":{"key":"YQ=="}}{"create_request":{"key":"YQ=="}}"#;
    assert_eq!(connection.post_text("/v3/watch", two).await.status, 400);
    assert_eq!(door.watches.available_permits(), door.options.max_watches);
}
