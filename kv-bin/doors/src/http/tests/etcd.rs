//! The calls of etcd's gateway.

use super::*;
use kv_core::config::Options;

#[tokio::test(start_paused = true)]
async fn records_have_the_revisions_of_kv() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let empty = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!((empty.get("kvs"), empty.get("count")), (None, None));
    assert!(empty["header"]["cluster_id"].is_string() && empty["header"]["raft_term"].is_string());
    let first = number(&connection.put("a", "one").await["header"]["revision"]);
    let second = number(&connection.put("a", "").await["header"]["revision"]);
    assert_eq!(second, first + 1);
    let answer = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    let expected = json!({
        "key": b64("a"), "create_revision": first.to_string(), "mod_revision": second.to_string(), "version": "2",
    });
    assert_eq!((&answer["kvs"], &answer["count"]), (&json!([expected]), &json!("1")));
    assert_eq!(number(&answer["header"]["revision"]), second);
    // The past, and what is not the past.
    let past = connection.post("/v3/kv/range", json!({"key": b64("a"), "revision": first})).await;
    assert_eq!(decode(&past["kvs"][0]["value"]), "one");
    assert_eq!(number(&past["header"]["revision"]), second);
    connection
        .refused("/v3/kv/range", json!({"key": b64("a"), "revision": second + 100}), 11, "future revision")
        .await;
    connection.refused("/v3/kv/range", json!({}), 3, "key is not provided").await;
    connection.refused("/v3/kv/put", json!({"value": b64("x")}), 3, "key is not provided").await;
    connection.refused("/v3/kv/put", json!({"key": "%"}), 3, "base64").await;
    connection.refused("/v3/kv/put", json!([]), 3, "JSON").await;
    let local = connection.post("/v3/kv/range", json!({"key": b64("a"), "serializable": true})).await;
    assert!(local["header"]["revision"].is_string());
    // The previous record.
    let put =
        connection.post("/v3/kv/put", json!({"key": b64("a"), "value": b64("x"), "prev_kv": true})).await;
    assert_eq!(put["prev_kv"], expected);
    let deleted = connection.post("/v3/kv/deleterange", json!({"key": b64("a"), "prevKv": true})).await;
    assert_eq!(
        (&deleted["deleted"], decode(&deleted["prev_kvs"][0]["value"])),
        (&json!("1"), "x".to_owned())
    );
    let again = connection.post("/v3/kv/deleterange", json!({"key": b64("a"), "prev_kv": true})).await;
    assert_eq!((again.get("deleted"), again.get("prev_kvs")), (None, None));
}

#[tokio::test(start_paused = true)]
async fn ranges_are_sorted_cut_counted_and_filtered() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let mut revisions = Vec::new();
    for (key, value) in [("c", "1"), ("a", "3"), ("b", "2"), ("d", "2"), ("a", "9")] {
        revisions.push(number(&connection.put(key, value).await["header"]["revision"]));
    }
    let mut find = async |more: Value| connection.post("/v3/kv/range", range("a", "d", more)).await;
    assert_eq!(keys(&find(json!({})).await), ["a", "b", "c"]);
    assert_eq!(keys(&find(json!({"sort_order": "DESCEND"})).await), ["c", "b", "a"]);
    assert_eq!(keys(&find(json!({"sortOrder": 2, "limit": "1"})).await), ["c"]);
    assert_eq!(keys(&find(json!({"sort_target": "VALUE"})).await), ["c", "b", "a"]);
    assert_eq!(
        keys(&find(json!({"sort_target": "VALUE", "sort_order": "DESCEND", "limit": 2})).await),
        ["a", "b"]
    );
    assert_eq!(keys(&find(json!({"sort_target": "CREATE"})).await), ["c", "a", "b"]);
    assert_eq!(keys(&find(json!({"sort_target": "MOD"})).await), ["c", "b", "a"]);
    assert_eq!(keys(&find(json!({"sort_target": 1, "sort_order": 2, "limit": 1})).await), ["a"]);
    // The number of keys does not depend on the limit.
    let cut = find(json!({"limit": 2})).await;
    assert_eq!(
        (keys(&cut), &cut["more"], &cut["count"]),
        (vec!["a".into(), "b".into()], &json!(true), &json!("3"))
    );
    let all = find(json!({"limit": 3})).await;
    assert_eq!((keys(&all).len(), all.get("more"), &all["count"]), (3, None, &json!("3")));
    let counted = find(json!({"count_only": true, "limit": 1})).await;
    assert_eq!((counted.get("kvs"), counted.get("more"), &counted["count"]), (None, None, &json!("3")));
    let only = find(json!({"keys_only": true, "sort_target": "VALUE"})).await;
    assert_eq!((keys(&only), only["kvs"][0].get("value")), (vec!["c".into(), "b".into(), "a".into()], None));
    let filtered = find(json!({"min_mod_revision": revisions[2], "limit": 1})).await;
    assert_eq!((keys(&filtered), &filtered["more"]), (vec!["a".to_owned()], &json!(true)));
    assert_eq!(filtered["count"], "3", "keys that are left out count");
    assert_eq!(keys(&find(json!({"max_create_revision": revisions[0]})).await), ["c"]);
    assert_eq!(keys(&find(json!({"revision": revisions[1]})).await), ["a", "c"]);
    assert_eq!(keys(&find(json!({"serializable": true})).await).len(), 3);
    // The end of all keys, all keys, and none.
    let rest = connection.post("/v3/kv/range", range("c", "\0", json!({}))).await;
    assert_eq!(keys(&rest), ["c", "d"]);
    let every = connection.post("/v3/kv/range", range("\0", "\0", json!({}))).await;
    assert_eq!(keys(&every).len(), 4);
    for (from, to) in [("c", "a"), ("c", "c")] {
        let none = connection.post("/v3/kv/range", range(from, to, json!({}))).await;
        assert_eq!((none.get("kvs"), none.get("count")), (None, None));
        let none = connection.post("/v3/kv/deleterange", range(from, to, json!({"prev_kv": true}))).await;
        assert_eq!(none.get("deleted"), None);
    }
}

/// Clients rely on a header that is not older than what it comes with.
#[tokio::test(start_paused = true)]
async fn the_header_of_a_read_of_the_past_is_not_older() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let put = Connection::open(&door).put("a", "x").await;
    let revision = &put["header"]["revision"];
    // This door knows of no revision.
    let other = Arc::new(Door::new(door.client.clone(), None, HttpOptions::default()));
    let past = json!({"key": b64("a"), "revision": revision});
    let found = Connection::open(&other).post("/v3/kv/range", past).await;
    assert_eq!(found["kvs"][0]["mod_revision"], *revision);
    assert!(number(&found["header"]["revision"]) >= number(revision), "{found}");
}

#[tokio::test(start_paused = true)]
async fn a_long_range_is_read_at_one_revision() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    for part in 0..11 {
        let puts: Vec<_> = (0..100)
            .map(|number| json!({"request_put": {"key": b64(format!("k{part:02}{number:02}")), "value": b64("x")}}))
            .collect();
        connection.post("/v3/kv/txn", json!({"success": puts})).await;
    }
    for more in [
        json!({}),
        json!({"sort_order": "DESCEND"}),
        json!({"serializable": true}),
        json!({"sort_target": "MOD"}),
    ] {
        let all = connection.post("/v3/kv/range", range("k", "l", more.clone())).await;
        let mut found = keys(&all);
        if more.get("sort_order").is_some() {
            found.reverse();
        }
        assert_eq!((found.len(), &all["count"]), (1100, &json!("1100")), "{more}");
        assert!(found.is_sorted_by(|one, other| one < other));
    }
    let cut =
        connection.post("/v3/kv/range", range("k", "l", json!({"limit": 700, "keys_only": true}))).await;
    assert_eq!((keys(&cut).len(), &cut["more"], &cut["count"]), (700, &json!(true), &json!("1100")));
    connection.refused("/v3/kv/deleterange", range("k", "l", json!({"prev_kv": true})), 8, "499 keys").await;
    let some = connection.post("/v3/kv/deleterange", range("k00", "k01", json!({"prev_kv": true}))).await;
    assert_eq!((&some["deleted"], some["prev_kvs"].as_array().unwrap().len()), (&json!("100"), 100));
    let deleted = connection.post("/v3/kv/deleterange", range("k", "l", json!({}))).await;
    assert_eq!(deleted["deleted"], "1000");
}

/// A long read of the present is not refused because history is dropped meanwhile: its client knows nothing of that.
#[tokio::test(start_paused = true)]
async fn a_long_read_is_repeated_if_history_is_dropped() {
    let mut options = Options::default();
    options.history_revisions = 0;
    let cluster = TestCluster::in_memory(1).options(options).start().await;
    let door = Arc::new(Door::new(cluster.client().await, None, HttpOptions::default()));
    let mut connection = Connection::open(&door);
    let lease = connection.post("/v3/lease/grant", json!({"TTL": 60})).await["ID"].clone();
    connection.post("/v3/kv/put", json!({"key": b64("k"), "lease": lease})).await;
    for part in 0..3 {
        let puts = (0..900)
            .fold(door.client.transaction(), |puts, number| puts.put(format!("k{part}{number}"), "x"));
        puts.await.unwrap();
    }
    let client = door.client.clone();
    let writer = tokio::spawn(async move {
        loop {
            client.put("other", "x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut answered = 0;
    for _ in 0..20 {
        for (path, body) in [
            ("/v3/kv/range", range("k", "l", json!({"keys_only": true}))),
            ("/v3/lease/timetolive", json!({"ID": lease, "keys": true})),
        ] {
            let answer = connection.try_post(path, &body).await;
            assert!([200, 503].contains(&answer.status), "{path}: {}", String::from_utf8_lossy(&answer.body));
            answered += u32::from(answer.status == 200);
        }
    }
    assert!(answered > 0);
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_put_can_keep_the_value_or_the_lease() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let lease = connection.post("/v3/lease/grant", json!({"TTL": 60})).await["ID"].clone();
    connection
        .refused("/v3/kv/put", json!({"key": b64("a"), "ignore_value": true}), 3, "key not found")
        .await;
    connection.post("/v3/kv/put", json!({"key": b64("a"), "value": b64("x"), "lease": lease})).await;
    let given = json!({"key": b64("a"), "value": b64("x"), "ignore_value": true});
    connection.refused("/v3/kv/put", given, 3, "value is provided").await;
    let given = json!({"key": b64("a"), "lease": lease, "ignoreLease": true});
    connection.refused("/v3/kv/put", given, 3, "lease is provided").await;
    let put = json!({"key": b64("a"), "value": b64("y"), "ignore_lease": true, "prev_kv": true});
    let put = connection.post("/v3/kv/put", put).await;
    assert_eq!(decode(&put["prev_kv"]["value"]), "x");
    let found = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!((decode(&found["kvs"][0]["value"]), &found["kvs"][0]["lease"]), ("y".to_owned(), &lease));
    connection.post("/v3/kv/put", json!({"key": b64("a"), "ignore_value": true})).await;
    let found = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!((decode(&found["kvs"][0]["value"]), found["kvs"][0].get("lease")), ("y".to_owned(), None));
    door.client.put("t", "x").ttl(Duration::from_secs(60)).await.unwrap();
    let keep = json!({"key": b64("t"), "value": b64("y"), "ignore_lease": true});
    connection.refused("/v3/kv/put", keep, 9, "time to live").await;
}

#[tokio::test(start_paused = true)]
async fn leases_end_with_their_keys() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let granted = connection.post("/v3/lease/grant", json!({"TTL": "60", "ID": 0})).await;
    assert_eq!(granted["TTL"], "60");
    let lease = granted["ID"].clone();
    for key in ["a", "b"] {
        connection.post("/v3/kv/put", json!({"key": b64(key), "value": b64("x"), "lease": lease})).await;
    }
    let info = connection.post("/v3/lease/timetolive", json!({"ID": lease, "keys": true})).await;
    assert_eq!((&info["grantedTTL"], &info["keys"]), (&json!("60"), &json!([b64("a"), b64("b")])));
    assert!(info["TTL"] == "60" || info["TTL"] == "59", "{info}");
    tokio::time::sleep(Duration::from_secs(20)).await;
    let left = connection.post("/v3/kv/lease/timetolive", json!({"ID": lease})).await;
    assert!((38..=41).contains(&number(&left["TTL"])), "{left}");
    assert_eq!(left.get("keys"), None);
    let kept = connection.post("/v3/lease/keepalive", json!({"ID": lease})).await;
    assert_eq!((&kept["result"]["ID"], &kept["result"]["TTL"]), (&lease, &json!("60")));
    // Another door learns the time to live first. A lease that has ended has none.
    let other = Arc::new(Door::new(door.client.clone(), None, HttpOptions::default()));
    let mut other = Connection::open(&other);
    let both =
        other.post_text("/v3/lease/keepalive", &format!("{{\"ID\":{lease}}}\n{{\"ID\":\"77777\"}}")).await;
    let lines: Vec<Value> = both
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(
        (lines.len(), &lines[0]["result"]["TTL"], lines[1]["result"].get("TTL")),
        (2, &json!("60"), None)
    );
    connection.post("/v3/lease/revoke", json!({"ID": lease})).await;
    let gone = connection.post("/v3/kv/range", range("a", "c", json!({}))).await;
    assert_eq!(gone.get("kvs"), None);
    let ended = connection.post("/v3/lease/timetolive", json!({"ID": lease})).await;
    assert_eq!((&ended["TTL"], ended.get("grantedTTL")), (&json!("-1"), None));
    let kept = connection.post("/v3/lease/keepalive", json!({"ID": lease})).await;
    assert_eq!(kept["result"].get("TTL"), None);
    for path in ["/v3/lease/revoke", "/v3/kv/lease/revoke"] {
        connection.refused(path, json!({"ID": lease}), 5, "requested lease not found").await;
    }
    let put = json!({"key": b64("a"), "lease": lease});
    connection.refused("/v3/kv/put", put.clone(), 5, "requested lease not found").await;
    connection
        .refused("/v3/kv/txn", json!({"success": [{"request_put": put}]}), 5, "requested lease not found")
        .await;
    connection.refused("/v3/lease/grant", json!({"TTL": 5, "ID": 7}), 12, "kv chooses the ids").await;
    for ttl in [0, -1, 10_000_000] {
        connection.refused("/v3/lease/grant", json!({"TTL": ttl}), 11, "1 to 2592000 s").await;
    }
    connection.refused("/v3/lease/leases", json!({}), 12, "does not list").await;
    connection
        .refused("/v3/auth/authenticate", json!({"name": "root"}), 9, "authentication is not enabled")
        .await;
    // Without a renewal, it ends.
    let lease = connection.post("/v3/lease/grant", json!({"TTL": 5})).await["ID"].clone();
    connection.post("/v3/kv/put", json!({"key": b64("c"), "lease": lease})).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(connection.post("/v3/kv/range", json!({"key": b64("c")})).await.get("count"), None);
}

#[tokio::test(start_paused = true)]
async fn transactions_compare_and_run_one_of_two_lists() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let create = |value: &str| {
        json!({
            "compare": [{"key": b64("a"), "target": "CREATE", "result": "EQUAL", "create_revision": "0"}],
            "success": [{"request_put": {"key": b64("a"), "value": b64(value)}}],
            "failure": [{"requestRange": {"key": b64("a")}}],
        })
    };
    let created = connection.post("/v3/kv/txn", create("one")).await;
    let revision = created["header"]["revision"].clone();
    assert_eq!(created["succeeded"], true);
    assert_eq!(created["responses"][0]["response_put"]["header"]["revision"], revision);
    let exists = connection.post("/v3/kv/txn", create("two")).await;
    assert_eq!(exists.get("succeeded"), None);
    let found = &exists["responses"][0]["response_range"];
    assert_eq!((decode(&found["kvs"][0]["value"]), &found["count"]), ("one".to_owned(), &json!("1")));
    // By each target, with a condition of kv and without.
    let lease = connection.post("/v3/lease/grant", json!({"TTL": 60})).await["ID"].clone();
    connection.post("/v3/kv/put", json!({"key": b64("b"), "value": b64("m"), "lease": lease})).await;
    connection.post("/v3/kv/put", json!({"key": b64("b"), "value": b64("m"), "lease": lease})).await;
    for (compare, holds) in [
        (json!({"target": "MOD", "mod_revision": revision, "key": b64("a")}), true),
        (json!({"target": "MOD", "mod_revision": 1_000_000, "key": b64("a")}), false),
        (json!({"target": "MOD", "mod_revision": revision, "result": "GREATER", "key": b64("b")}), true),
        (json!({"target": "VERSION", "version": 2, "key": b64("b")}), true),
        (json!({"target": "VERSION", "version": 2, "result": "NOT_EQUAL", "key": b64("b")}), false),
        (json!({"target": "VERSION", "version": 1, "result": "LESS", "key": b64("nothing")}), true),
        (json!({"target": "CREATE", "create_revision": revision, "key": b64("a")}), true),
        (json!({"target": "VALUE", "value": b64("m"), "key": b64("b")}), true),
        (json!({"target": "VALUE", "value": b64("z"), "result": "LESS", "key": b64("b")}), true),
        (json!({"target": "VALUE", "value": b64("a"), "result": "LESS", "key": b64("b")}), false),
        (json!({"target": "VALUE", "value": "", "key": b64("nothing")}), false),
        (json!({"target": "LEASE", "lease": lease, "key": b64("b")}), true),
        (json!({"target": "LEASE", "lease": 0, "key": b64("b")}), false),
        (json!({"target": "LEASE", "key": b64("nothing")}), true),
    ] {
        let success = json!([{"request_put": {"key": b64("done"), "value": b64("yes")}}]);
        let failure = json!([{"request_delete_range": {"key": b64("done")}}]);
        let body = json!({"compare": [compare], "success": success, "failure": failure});
        let done = connection.post("/v3/kv/txn", body).await;
        assert_eq!(done.get("succeeded").is_some(), holds, "{compare}");
        let found = connection.post("/v3/kv/range", json!({"key": b64("done")})).await;
        assert_eq!(found.get("count").is_some(), holds, "{compare}");
    }
    // All must hold, and nothing to compare holds.
    let both = json!({"compare": [
        {"target": "VALUE", "value": b64("one"), "key": b64("a")},
        {"target": "VERSION", "version": 7, "key": b64("b")},
    ]});
    assert_eq!(connection.post("/v3/kv/txn", both).await.get("succeeded"), None);
    assert_eq!(connection.post("/v3/kv/txn", json!({})).await["succeeded"], true);
}

#[tokio::test(start_paused = true)]
async fn requests_of_a_transaction_see_those_before_them() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.put("a", "old").await;
    connection.put("c", "c").await;
    let get = |key: &str| json!({"request_range": {"key": b64(key)}});
    let put = |key: &str, value: &str| json!({"request_put": {"key": b64(key), "value": b64(value), "prev_kv": true}});
    let all = json!({"request_range": range("a", "z", json!({"sort_order": "DESCEND"}))});
    let delete = json!({"request_delete_range": {"key": b64("c"), "prev_kv": true}});
    let body = json!({"success": [
        get("a"), all, put("a", "new"), get("a"), put("b", "b"), delete, all,
    ]});
    // The range lies between changes of its keys only if more changes follow.
    let done = connection.post("/v3/kv/txn", body).await;
    let answers = done["responses"].as_array().unwrap();
    let range_of = |index: usize| &answers[index]["response_range"];
    assert_eq!(decode(&range_of(0)["kvs"][0]["value"]), "old");
    assert_eq!(keys(range_of(1)), ["c", "a"]);
    assert_eq!(decode(&answers[2]["response_put"]["prev_kv"]["value"]), "old");
    let new = &range_of(3)["kvs"][0];
    assert_eq!(
        (decode(&new["value"]), &new["mod_revision"]),
        ("new".to_owned(), &done["header"]["revision"])
    );
    assert_eq!(answers[4]["response_put"].get("prev_kv"), None);
    let deleted = &answers[5]["response_delete_range"];
    assert_eq!(
        (&deleted["deleted"], decode(&deleted["prev_kvs"][0]["value"])),
        (&json!("1"), "c".to_owned())
    );
    assert_eq!(keys(range_of(6)), ["b", "a"]);
    // Only the first removal of a key changes it.
    let put_c = connection.put("c", "c").await;
    let c = json!({"request_range": {"key": b64("c")}});
    let body = json!({"success": [delete, c, delete]});
    let done = connection.post("/v3/kv/txn", body).await;
    let answers = done["responses"].as_array().unwrap();
    let removals = [0, 2].map(|index| &answers[index]["response_delete_range"]);
    assert_eq!((&removals[0]["deleted"], removals[1].get("deleted")), (&json!("1"), None));
    assert_eq!(removals[0]["prev_kvs"][0]["mod_revision"], put_c["header"]["revision"]);
    assert_eq!((removals[1].get("prev_kvs"), answers[1]["response_range"].get("kvs")), (None, None));
    let before = number(&done["header"]["revision"]);
    for (list, code, part) in [
        (json!([put("a", "1"), all, put("b", "2")]), 12, "before and after it"),
        (json!([put("a", "1"), put("a", "2")]), 3, "duplicate key"),
        (json!([put("c", "1"), delete]), 3, "duplicate key"),
        (json!([delete, put("c", "1")]), 3, "duplicate key"),
        (json!([delete, delete, put("c", "1")]), 3, "duplicate key"),
        (json!([{"request_txn": []}]), 3, "not a JSON object"),
        (json!([{"request_txn": {}, "request_put": {"key": b64("a")}}]), 3, "exactly one"),
        (json!([{"request_delete_range": range("a", "c", json!({}))}]), 12, "removal of a range"),
        (json!([{"request_range": {"key": b64("a"), "revision": 1}}]), 12, "at a revision"),
        (json!([{"request_put": {"key": b64("a"), "ignore_value": true}}]), 12, "ignore_value"),
        (json!([{}]), 3, "exactly one"),
        (json!([{"request_put": {"key": b64("a")}, "request_range": {"key": b64("a")}}]), 3, "exactly one"),
        (json!([{"request_put": {}}]), 3, "key is not provided"),
    ] {
        for branch in ["success", "failure"] {
            connection.refused("/v3/kv/txn", json!({branch: list.clone()}), code, part).await;
        }
    }
    let compare = json!({"compare": [{"key": b64("a"), "range_end": b64("b")}]});
    connection.refused("/v3/kv/txn", compare, 12, "compare single keys").await;
    let found = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!(number(&found["header"]["revision"]), before, "nothing was changed");
    // The first transaction of all.
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let first = connection.post("/v3/kv/txn", json!({"success": [all, put("a", "x")]})).await;
    assert_eq!(first["responses"][0]["response_range"].get("kvs"), None);
}

#[tokio::test(start_paused = true)]
async fn members_have_ids_and_doors() {
    let cluster = TestCluster::in_memory(2).witnesses(1).start().await;
    let options = HttpOptions { doors: vec![(1, "10.0.0.2:2379".to_owned())], ..HttpOptions::default() };
    let door = Arc::new(Door::new(cluster.client().await, None, options));
    let mut connection = Connection::open(&door);
    let list = connection.post_text("/v3/cluster/member/list", "").await.json();
    let members = list["members"].as_array().unwrap();
    let names: Vec<_> = members.iter().map(|member| member["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["0", "1", "2 (witness)"]);
    assert_eq!(members[1]["clientURLs"], json!(["http://10.0.0.2:2379"]));
    let ids: Vec<_> = members.iter().map(|member| number(&member["ID"])).collect();
    assert!(ids[0] != 0 && ids[1] == ids[0] + 1 && ids[2] == ids[0] + 2);
    connection.put("a", "1").await;
    let status = connection.post("/v3/maintenance/status", json!({})).await;
    assert!(ids.contains(&number(&status["leader"])), "{status}");
    assert_eq!(status["version"], "3.5.0");
}

#[tokio::test(start_paused = true)]
async fn leadership_is_passed_on_and_what_is_missing_is_named() {
    let (cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    let list = connection.post("/v3/cluster/member/list", json!({})).await;
    let successor = (cluster.primary().await + 1) % 3;
    let target = list["members"][usize::from(successor)]["ID"].clone();
    let transfer = json!({"targetID": target});
    timeout(LIMIT, async {
        // At first, the primary has heard from nobody.
        while connection.try_post("/v3/maintenance/transfer-leadership", &transfer).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while cluster.primary().await != successor {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it takes over");
    for unknown in [json!(7), json!("7"), json!(0), json!(null)] {
        let body = json!({"targetID": unknown});
        connection.refused("/v3/maintenance/transfer-leadership", body, 5, "member not found").await;
    }
    for (path, part) in [
        ("cluster/member/add", "kv member"),
        ("maintenance/snapshot", "kv backup"),
        ("maintenance/defragment", "on its own"),
        ("maintenance/alarm", "no alarms"),
        ("auth/enable", "users and roles"),
        ("lease/leases", "does not list"),
    ] {
        assert_eq!(connection.refused(&format!("/v3/{path}"), json!({}), 12, part).await.status, 501);
    }
}

/// A write whose outcome is unknown is not reported as one that has failed.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_said_so() {
    let (mut cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.put("a", "1").await;
    let primary = cluster.primary().await;
    // The primary gets the request, and cannot commit it.
    (0..3).filter(|id| *id != primary).for_each(|id| cluster.kill(id));
    let put = json!({"key": b64("a"), "value": b64("2")});
    let late = connection.refused("/v3/kv/put", put.clone(), 4, "outcome_unknown: ").await;
    assert_eq!((late.status, &late.json()["reason"]), (504, &json!("outcome_unknown")));
    let read = connection.refused("/v3/kv/range", json!({"key": b64("a")}), 14, "not read").await;
    assert_eq!((read.status, read.json().get("reason")), (503, None));
    let health = connection.get("/health").await;
    assert_eq!((health.status, &health.json()["health"]), (503, &json!("false")));
    // Now no member gets the request.
    cluster.kill(primary);
    let refused = connection.refused("/v3/kv/put", put, 14, "not applied").await;
    assert_eq!((refused.status, refused.json().get("reason")), (503, None));
}

/// Clients do not accept answers of a member whose term goes back.
#[tokio::test(start_paused = true)]
async fn the_term_never_goes_back() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    assert_eq!((door.known_view(1 << 30), door.known_view(7)), (1 << 30, 1 << 30));
    let mut connection = Connection::open(&door);
    let status = connection.post("/v3/maintenance/status", json!({})).await;
    assert_eq!((number(&status["raftTerm"]), number(&status["header"]["raft_term"])), (1 << 30, 1 << 30));
}
