//! Transactions that are inside of others, and that compete.

use super::*;

/// A client such as Patroni keeps its key, and makes it again if it is gone, in one request.
#[tokio::test(start_paused = true)]
async fn a_transaction_inside_of_another_one_is_run_with_it() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let keep = |value: &str| {
        let put = json!([{"request_put": {"key": b64("l"), "value": b64(value)}}]);
        let compare = json!([{"key": b64("l"), "target": "CREATE", "create_revision": "0"}]);
        json!({
            "compare": [{"key": b64("l"), "target": "VALUE", "value": b64(value)}],
            "success": put,
            "failure": [{"request_txn": {"compare": compare, "success": put}}],
        })
    };
    let made = connection.post("/v3/kv/txn", keep("a")).await;
    let header = &made["header"];
    let put = json!([{"response_put": {"header": header}}]);
    let inner = json!({"header": header, "succeeded": true, "responses": put});
    assert_eq!(made, json!({"header": header, "responses": [{"response_txn": inner}]}));
    let kept = connection.post("/v3/kv/txn", keep("a")).await;
    let header = &kept["header"];
    let put = json!([{"response_put": {"header": header}}]);
    assert_eq!(kept, json!({"header": header, "succeeded": true, "responses": put}));
    // Another client has the key.
    let refused = connection.post("/v3/kv/txn", keep("b")).await;
    let header = &refused["header"];
    assert_eq!(refused, json!({"header": header, "responses": [{"response_txn": {"header": header}}]}));
    let found = connection.post("/v3/kv/range", json!({"key": b64("l")})).await;
    assert_eq!(
        (decode(&found["kvs"][0]["value"]), &found["kvs"][0]["version"]),
        ("a".to_owned(), &json!("2"))
    );
}

/// Whether a transaction with others inside of it is refused does not depend on what their comparisons result in.
#[tokio::test(start_paused = true)]
async fn transactions_inside_of_others_are_checked_as_a_whole() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let put = json!({"request_put": {"key": b64("a")}});
    let delete = json!({"request_delete_range": {"key": b64("a")}});
    let get = json!({"request_range": {"key": b64("a")}});
    let inner =
        |then: &Value, otherwise: &Value| json!({"request_txn": {"success": [then], "failure": [otherwise]}});
    let (puts, deletes) = (inner(&get, &put), inner(&get, &delete));
    let deep = |depth| (1..depth).fold(json!({}), |txn, _| json!({"failure": [{"request_txn": txn}]}));
    let compares = |count| (0..count).map(|_| json!({"key": b64("a")})).collect::<Value>();
    let compared = |outer, within| json!({"compare": compares(outer), "failure": [{"request_txn": {"compare": compares(within)}}]});
    let many = |count| (0..count).map(|_| get.clone()).collect::<Value>();
    let requests = |then, otherwise| json!({"failure": [{"request_txn": {"success": many(then), "failure": many(otherwise)}}]});
    for body in [
        json!({"success": [inner(&put, &delete)], "failure": [put]}),
        json!({"success": [inner(&put, &put), inner(&get, &get)]}),
        json!({"success": [inner(&delete, &delete), inner(&delete, &delete), delete]}),
        json!({"success": [get, puts]}),
        json!({"success": [puts, get]}),
        deep(8),
        compared(60, 4),
        requests(499, 499),
    ] {
        connection.post("/v3/kv/txn", body).await;
    }
    let before = connection.put("a", "before").await["header"]["revision"].clone();
    for (body, code, part) in [
        (json!({"success": [puts, put]}), 3, "duplicate key"),
        (json!({"success": [put, puts]}), 3, "duplicate key"),
        (json!({"failure": [puts, puts]}), 3, "duplicate key"),
        (json!({"failure": [put, deletes]}), 3, "duplicate key"),
        (json!({"failure": [puts, delete]}), 3, "duplicate key"),
        (json!({"failure": [deletes, puts]}), 3, "duplicate key"),
        (json!({"failure": [puts, deletes]}), 12, "an earlier transaction"),
        (json!({"success": [deletes, get, delete]}), 12, "before and after it"),
        (json!({"success": [{"request_txn": {"success": [{}]}}]}), 3, "exactly one"),
        (json!({"success": [{"request_txn": {"compare": [{}]}}]}), 3, "key is not provided"),
        (deep(9), 3, "more than 8 transactions"),
        (compared(60, 5), 3, "more than 64 comparisons"),
        (requests(500, 0), 3, "run more than 500 requests"),
        (requests(500, 500), 3, "more than 1000 requests"),
    ] {
        connection.refused("/v3/kv/txn", body, code, part).await;
    }
    let found = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!((&found["header"]["revision"], &found["kvs"][0]["mod_revision"]), (&before, &before));
}

/// Comparisons that kv has no condition for lose no update.
#[tokio::test(start_paused = true)]
async fn concurrent_transactions_lose_no_update() {
    for is_nested in [false, true] {
        count_together(is_nested).await;
    }
}

async fn count_together(is_nested: bool) {
    let (_cluster, door) = start(HttpOptions::default()).await;
    Connection::open(&door).put("n", "0").await;
    let count = |door: Arc<Door>| async move {
        let mut connection = Connection::open(&door);
        let mut done = 0;
        while done < 20 {
            let found = connection.post("/v3/kv/range", json!({"key": b64("n")})).await;
            let record = &found["kvs"][0];
            let next = decode(&record["value"]).parse::<u64>().unwrap() + 1;
            let mut body = json!({
                "compare": [{"key": b64("n"), "target": "VERSION", "version": record["version"]}],
                "success": [{"request_put": {"key": b64("n"), "value": b64(next.to_string())}}],
            });
            if is_nested {
                body = json!({"success": [{"request_txn": body}]});
            }
            let mut answer = connection.post("/v3/kv/txn", body).await;
            if is_nested {
                answer = answer["responses"][0]["response_txn"].take();
            }
            done += u32::from(answer.get("succeeded").is_some());
        }
    };
    futures::future::join_all((0..4).map(|_| count(door.clone()))).await;
    let found = Connection::open(&door).post("/v3/kv/range", json!({"key": b64("n")})).await;
    assert_eq!(
        (decode(&found["kvs"][0]["value"]), &found["kvs"][0]["version"]),
        ("80".to_owned(), &json!("81"))
    );
}
