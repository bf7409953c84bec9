//! Locks and elections of etcd's gateway.

use super::*;

async fn lease(connection: &mut Connection) -> Value {
    connection.post("/v3/lease/grant", json!({"TTL": 60})).await["ID"].clone()
}

/// Sends a request on a connection of its own, and returns it before it is answered.
async fn begin(door: &Arc<Door>, path: &str, body: Value) -> Connection {
    let mut connection = Connection::open(door);
    let body = body.to_string();
    let length = body.len();
    connection
        .send(format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"))
        .await;
    connection
}

/// Waits until this many keys begin with the prefix.
async fn until_waiting(door: &Arc<Door>, prefix: &str, count: u64) {
    timeout(LIMIT, async {
        while door.client.count(prefix).await.unwrap() != count {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("they wait");
}

#[tokio::test(start_paused = true)]
async fn a_lock_has_one_holder_after_the_other() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let (one, other, third) =
        (lease(&mut connection).await, lease(&mut connection).await, lease(&mut connection).await);
    let request = |lease: &Value| json!({"name": b64("l"), "lease": lease});
    let held = connection.post("/v3/lock/lock", request(&one)).await["key"].clone();
    let name = format!("l/{:x}", one.as_str().unwrap().parse::<u64>().unwrap());
    assert_eq!(held, b64(name));
    // The same client has it already.
    assert_eq!(connection.post("/v3/lock/lock", request(&one)).await["key"], held);
    let mut second = begin(&door, "/v3/lock/lock", request(&other)).await;
    until_waiting(&door, "l/", 2).await;
    let mut last = begin(&door, "/v3/lock/lock", request(&third)).await;
    until_waiting(&door, "l/", 3).await;
    connection.post("/v3/lock/unlock", json!({"key": held})).await;
    let answer = second.answer().await;
    assert_eq!(answer.status, 200);
    // It is passed on when a lease ends, too.
    connection.post("/v3/lease/revoke", json!({"ID": other})).await;
    let held = last.answer().await.json()["key"].clone();
    connection.post("/v3/lock/unlock", json!({"key": held})).await;
    until_waiting(&door, "l/", 0).await;
    // Without a lease, one is granted.
    let held = connection.post("/v3/lock/lock", json!({"name": b64("l")})).await;
    assert!(held["key"].is_string());
    connection
        .refused("/v3/lock/lock", json!({"name": b64("l"), "lease": "77777"}), 5, "lease not found")
        .await;
    connection.refused("/v3/lock/lock", json!({}), 3, "name is empty").await;
    assert_eq!(door.watches.available_permits(), door.options.max_watches);
}

/// Nobody else can renew the lease of a client that has named none.
#[tokio::test(start_paused = true)]
async fn a_lease_that_a_lock_has_granted_does_not_end_while_the_client_waits() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let holder = connection.post("/v3/lease/grant", json!({"TTL": 1000})).await["ID"].clone();
    let request = json!({"name": b64("l"), "lease": holder});
    let held = connection.post("/v3/lock/lock", request).await["key"].clone();
    let mut waiting = begin(&door, "/v3/lock/lock", json!({"name": b64("l")})).await;
    until_waiting(&door, "l/", 2).await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(door.client.count("l/").await.unwrap(), 2, "the place is still taken");
    connection.post("/v3/lock/unlock", json!({"key": held})).await;
    assert_eq!(waiting.answer().await.status, 200);
    // From then on, it is not renewed.
    until_waiting(&door, "l/", 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_or_has_lost_its_lease_gets_no_lock() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let (one, other, third) =
        (lease(&mut connection).await, lease(&mut connection).await, lease(&mut connection).await);
    let held = connection.post("/v3/lock/lock", json!({"name": b64("l"), "lease": one})).await["key"].clone();
    let gone = begin(&door, "/v3/lock/lock", json!({"name": b64("l"), "lease": other})).await;
    until_waiting(&door, "l/", 2).await;
    let mut expired = begin(&door, "/v3/lock/lock", json!({"name": b64("l"), "lease": third})).await;
    until_waiting(&door, "l/", 3).await;
    drop(gone);
    until_waiting(&door, "l/", 2).await;
    connection.post("/v3/lease/revoke", json!({"ID": third})).await;
    connection.post("/v3/lock/unlock", json!({"key": held})).await;
    let answer = expired.answer().await;
    assert_eq!((answer.status, &answer.json()["message"]), (400, &json!("mutex: session is expired")));
    until_waiting(&door, "l/", 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_election_has_one_leader_after_the_other() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let name = json!({"name": b64("e")});
    connection.refused("/v3/election/leader", name.clone(), 5, "election: no leader").await;
    let mut observer = begin(&door, "/v3/election/observe", name.clone()).await;
    assert_eq!(observer.head().await.unwrap().status, 200);
    let (one, other) = (lease(&mut connection).await, lease(&mut connection).await);
    let campaign =
        |lease: &Value, value: &str| json!({"name": b64("e"), "lease": lease, "value": b64(value)});
    let first = connection.post("/v3/election/campaign", campaign(&one, "ann")).await["leader"].clone();
    assert_eq!((&first["name"], &first["lease"]), (&json!(b64("e")), &one));
    let leader = connection.post("/v3/election/leader", name.clone()).await;
    assert_eq!((&leader["kv"]["value"], &leader["kv"]["key"]), (&json!(b64("ann")), &first["key"]));
    let mut next = begin(&door, "/v3/election/campaign", campaign(&other, "bob")).await;
    until_waiting(&door, "e/", 2).await;
    let proclaim = json!({"leader": first, "value": b64("anne")});
    connection.post("/v3/election/proclaim", proclaim.clone()).await;
    // A campaign that is repeated with another value changes it.
    connection.post("/v3/election/campaign", campaign(&one, "anna")).await;
    assert_eq!(connection.post("/v3/election/leader", name).await["kv"]["value"], b64("anna"));
    connection.post("/v3/election/resign", json!({"leader": first})).await;
    let second = next.answer().await.json()["leader"].clone();
    connection.refused("/v3/election/proclaim", proclaim, 9, "election: not leader").await;
    connection.refused("/v3/election/proclaim", json!({"value": ""}), 3, "\"leader\"").await;
    // One that leads no more resigns nobody else.
    connection.post("/v3/election/resign", json!({"leader": first})).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&json!(b64("bob"))) {
        let line: Value = serde_json::from_slice(&observer.chunk().await).unwrap();
        seen.push(line["result"]["kv"]["value"].clone());
    }
    assert_eq!(seen, ["ann", "anne", "anna", "bob"].map(|value| json!(b64(value))));
    connection.post("/v3/election/resign", json!({"leader": second})).await;
    until_waiting(&door, "e/", 0).await;
}

/// Waits until this key was changed after the revision, and returns its record.
async fn until_changed(door: &Arc<Door>, key: &str, after: u64) -> kv_core::client::Record {
    timeout(LIMIT, async {
        loop {
            let record = door.client.get(key).await.unwrap();
            if let Some(record) = record.filter(|record| record.modified.get() > after) {
                return record;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it changes")
}

/// Whether requests that were given up earlier have removed what they remove: a later write of the same client of kv is
/// done.
async fn settle(door: &Arc<Door>) {
    for _ in 0..20 {
        door.client.put("other", "x").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A client that asks again, perhaps because it got no answer, and then gives up, does not lose the lock.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_up_releases_no_lock_that_is_held() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let (one, other) = (lease(&mut connection).await, lease(&mut connection).await);
    let request = |lease: &Value| json!({"name": b64("l"), "lease": lease});
    let name = |lease: &Value| format!("l/{:x}", lease.as_str().unwrap().parse::<u64>().unwrap());
    let held = connection.post("/v3/lock/lock", request(&one)).await;
    let locked_at = number(&held["header"]["revision"]);
    // It asks again, and is gone before it has the answer.
    let again = begin(&door, "/v3/lock/lock", request(&one)).await;
    let record = until_changed(&door, &name(&one), locked_at).await;
    drop(again);
    settle(&door).await;
    assert_eq!(door.client.get(name(&one)).await.unwrap(), Some(record), "it holds the lock");
    // The same client waits twice. When the first request is given up, the second one keeps the place.
    let first = begin(&door, "/v3/lock/lock", request(&other)).await;
    let waits = until_changed(&door, &name(&other), 0).await;
    let mut second = begin(&door, "/v3/lock/lock", request(&other)).await;
    let record = until_changed(&door, &name(&other), waits.modified.get()).await;
    assert_eq!(record.created, waits.created);
    drop(first);
    settle(&door).await;
    assert_eq!(door.client.get(name(&other)).await.unwrap(), Some(record), "it waits");
    let unlocked = connection.post("/v3/lock/unlock", json!({"key": held["key"]})).await;
    let answer = second.answer().await;
    assert_eq!((answer.status, &answer.json()["key"]), (200, &json!(b64(name(&other)))));
    // It became the holder when the other one released the lock, not when it began to wait.
    let (released, locked) = (&unlocked["header"]["revision"], &answer.json()["header"]["revision"]);
    assert!(number(locked) >= number(released), "{locked} {released}");
}

/// Once a client has a place, an error does not mean that nothing was changed.
#[tokio::test(start_paused = true)]
async fn an_error_after_the_place_was_taken_is_an_unknown_outcome() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let other = lease(&mut connection).await;
    connection.post("/v3/lock/lock", json!({"name": b64("l")})).await;
    let mut waiting = begin(&door, "/v3/lock/lock", json!({"name": b64("l"), "lease": other})).await;
    until_waiting(&door, "l/", 2).await;
    let client = door.client.clone();
    tokio::spawn(async move { client.close().await });
    let answer = waiting.answer().await;
    assert_eq!((answer.status, &answer.json()["reason"]), (504, &json!("outcome_unknown")));
}
