//! The limits of a door.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_that_is_too_large_is_refused_before_it_is_read() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection
        .send("POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 536870912\r\n\r\n{")
        .await;
    let answer = connection.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    connection.expect_end().await;
    // In parts, the length is not known before.
    let options = HttpOptions { max_body_bytes: 10_000, ..HttpOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    connection
        .send("POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let part = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    for _ in 0..3 {
        connection.send(&part).await;
    }
    assert_eq!(connection.answer().await.status, 413);
    let mut connection = Connection::open(&door);
    connection
        .send("POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n")
        .await;
    let body = json!({"key": b64("a")}).to_string();
    connection.send(format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())).await;
    assert_eq!(connection.answer().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_too_large_is_refused() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    // The door may answer before it has read everything.
    let head = format!("GET /{0} HTTP/1.1\r\nhost: localhost\r\na: {0}\r\n\r\n", "x".repeat(15_000));
    let _ = connection.stream.write_all(head.as_bytes()).await;
    let answer = connection.head().await.unwrap();
    assert!(answer.status == 431 || answer.status == 414, "{answer:?}");
    let mut connection = Connection::open(&door);
    let headers: String = (0..100).map(|number| format!("a{number}: x\r\n")).collect();
    connection.send(format!("GET /livez HTTP/1.1\r\n{headers}\r\n")).await;
    assert_eq!(connection.head().await.unwrap().status, 431);
}

#[tokio::test(start_paused = true)]
async fn slow_and_idle_connections_are_closed() {
    let seconds = Duration::from_secs;
    let mut options = HttpOptions::default();
    (options.head_timeout, options.body_timeout, options.idle_timeout) = (seconds(1), seconds(2), seconds(5));
    let (_cluster, door) = start(options).await;
    let started = tokio::time::Instant::now();
    // Nothing, or a part of a head.
    let (mut silent, mut slow) = (Connection::open(&door), Connection::open(&door));
    slow.send("GET /livez HT").await;
    silent.expect_end().await;
    slow.expect_end().await;
    let elapsed = started.elapsed();
    assert!(elapsed >= seconds(1) && elapsed < seconds(3), "{elapsed:?}");
    // One byte after the other does not help.
    let mut slow = Connection::open(&door);
    let started = tokio::time::Instant::now();
    while slow.stream.write_all(b"x").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(started.elapsed() < seconds(5));
    }
    // A body that does not come.
    let mut slow = Connection::open(&door);
    slow.send("POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{").await;
    assert_eq!(slow.answer().await.status, 408);
    slow.expect_end().await;
    // Between requests, a connection may be idle for longer.
    let mut idle = Connection::open(&door);
    for _ in 0..3 {
        assert_eq!(idle.get("/livez").await.status, 200);
        tokio::time::sleep(seconds(4)).await;
    }
    tokio::time::sleep(seconds(3)).await;
    idle.expect_end().await;
    // All of them are gone.
    assert_eq!(door.connections.len(), 0);
}

/// A server on a port, which counts the connections that it accepts.
#[tokio::test]
async fn a_flood_of_connections_does_not_keep_others_out() {
    let cluster = TestCluster::in_memory(1).start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = HttpOptions { max_connections: 10, ..HttpOptions::default() };
    tokio::spawn(server::serve(listener, cluster.client().await, None, options));
    let connect = async || tokio::net::TcpStream::connect(address).await.unwrap();
    let call = async |stream: &mut tokio::net::TcpStream| {
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let mut answer = [0; 15];
        timeout(LIMIT, stream.read_exact(&mut answer)).await.unwrap()?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let mut served = connect().await;
    assert_eq!(call(&mut served).await.unwrap(), "HTTP/1.1 200 OK");
    let mut flood = Vec::new();
    for _ in 0..30 {
        let mut half_open = connect().await;
        half_open.write_all(b"GET /livez").await.unwrap();
        flood.push(half_open);
    }
    // A client that was served keeps its connection, and others get one.
    let mut rest = [0; 1000];
    let _ = timeout(LIMIT, served.read(&mut rest)).await.unwrap().unwrap();
    assert_eq!(call(&mut served).await.unwrap(), "HTTP/1.1 200 OK");
    assert_eq!(call(&mut connect().await).await.unwrap(), "HTTP/1.1 200 OK");
    // The oldest of the flood are closed.
    let mut end = Vec::new();
    let _ = timeout(LIMIT, flood[0].read_to_end(&mut end)).await.expect("it is closed");
    assert_eq!(end, b"");
    // A request whose body is incomplete is closed like one whose head is.
    let mut slow = Vec::new();
    for _ in 0..30 {
        let mut body = connect().await;
        body.write_all(b"POST /v3/kv/put HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
            .await
            .unwrap();
        slow.push(body);
    }
    assert_eq!(call(&mut connect().await).await.unwrap(), "HTTP/1.1 200 OK");
    drop(slow);
    // If all have requests, there is room only for the programs that watch the member.
    let mut watches = Vec::new();
    for _ in 0..10 {
        let mut watch = connect().await;
        let body = json!({"create_request": {"key": b64("a")}}).to_string();
        let head =
            format!("POST /v3/watch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n", body.len());
        watch.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        timeout(LIMIT, watch.read_exact(&mut answer)).await.unwrap().unwrap();
        watches.push(watch);
    }
    for (path, status) in [("/livez", 200), ("/status", 503), ("/health", 503), ("/version", 503)] {
        let mut spare = connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        spare.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LIMIT, spare.read_to_string(&mut answer)).await.expect("it is closed").unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {answer}");
        assert_eq!(answer.ends_with("connections\"}"), status == 503, "{path}: {answer}");
    }
}

/// Until an answer has been written, its memory counts, and its connection is not closed for the sake of others.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_unread_keeps_its_memory_and_its_connection() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    for (key, bytes) in [("large", 200_000), ("small", 9_000)] {
        connection.put(key, &"x".repeat(bytes)).await;
    }
    drop(connection);
    for (key, capacity) in [("large", 16 << 10), ("small", 1 << 10)] {
        timeout(LIMIT, async {
            while door.connections.len() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("the connection ends");
        let mut connection = Connection::with_capacity(&door, capacity);
        let body = json!({"key": b64(key)}).to_string();
        let length = body.len();
        connection
            .send(format!(
                "POST /v3/kv/range HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
            ))
            .await;
        let answer = connection.head().await.unwrap();
        assert_eq!(answer.status, 200);
        // More of it does not come before it is read.
        tokio::time::sleep(Duration::from_secs(1)).await;
        if key == "large" {
            let used = door.memory.used();
            assert!((200_000..400_000).contains(&used), "{used}");
        }
        assert!(!door.connections.make_room(), "{key}: it has a request");
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let mut body = vec![0; length];
        timeout(LIMIT, connection.stream.read_exact(&mut body)).await.unwrap().unwrap();
        let found: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(decode(&found["kvs"][0]["key"]), key);
        assert_eq!(connection.get("/livez").await.body, b"ok\n", "the connection goes on");
        assert_eq!(door.memory.used(), 0);
        timeout(LIMIT, async {
            while !door.connections.make_room() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .expect("it is idle");
    }
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_takes_end_the_connection() {
    let options = HttpOptions { write_timeout: Duration::from_secs(2), ..HttpOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    for key in ["a", "b", "c"] {
        connection.put(key, &"x".repeat(50_000)).await;
    }
    let range = json!({"key": b64("a"), "range_end": b64("z")});
    let text = range.to_string();
    let request = format!(
        "POST /v3/kv/range HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    connection.send(&request).await;
    // The answer does not fit into the connection.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(door.connections.len(), 0);
    assert_eq!(door.memory.used(), 0);
    // Neither does it help to take a few bytes from time to time.
    let mut connection = Connection::open(&door);
    connection.send(&request).await;
    let mut few = [0; 100];
    for _ in 0..60 {
        // The answer has so many bytes that it would take much longer.
        let read = timeout(LIMIT, connection.stream.read(&mut few)).await.unwrap();
        assert!(matches!(read, Ok(read) if read > 0) || door.connections.len() == 0);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(door.connections.len(), 0);
}

/// A watch whose client does not read does not fill the memory, and ends.
#[tokio::test(start_paused = true)]
async fn watches_that_nobody_reads_end() {
    let options =
        HttpOptions { max_watches: 2, write_timeout: Duration::from_secs(2), ..HttpOptions::default() };
    let (_cluster, door) = start(options).await;
    let create = json!({"create_request": {"key": b64("a"), "range_end": b64("b")}}).to_string();
    let watch = format!(
        "POST /v3/watch HTTP/1.1\r\nhost: localhost\r\ncontent-length: {}\r\n\r\n{create}",
        create.len()
    );
    let mut watchers = Vec::new();
    for _ in 0..2 {
        let mut watcher = Connection::open(&door);
        watcher.send(&watch).await;
        assert_eq!(watcher.head().await.unwrap().status, 200);
        watchers.push(watcher);
    }
    let mut connection = Connection::open(&door);
    connection.refused("/v3/watch", serde_json::from_str(&create).unwrap(), 8, "2 watches").await;
    for number in 0..20 {
        connection.put(&format!("a{number}"), &"x".repeat(50_000)).await;
    }
    assert!(door.memory.used() < 5_000_000, "{}", door.memory.used());
    timeout(LIMIT, async {
        while door.connections.len() > 1 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await
    .expect("the watches end");
    assert_eq!(door.memory.used(), 0);
    // Others can watch then.
    let mut watcher = Connection::open(&door);
    watcher.send(&watch).await;
    assert_eq!(watcher.head().await.unwrap().status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_requests_is_answered_in_order_with_little_memory() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let (reader, mut writer) = tokio::io::split(Connection::open(&door).stream.into_inner());
    let many = 20_000;
    let flood = tokio::spawn(async move {
        for number in 0..many {
            let path = if number % 2 == 0 { "/livez" } else { "/version" };
            writer
                .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").as_bytes())
                .await
                .unwrap();
        }
        writer
    });
    let mut lines = BufReader::new(reader).lines();
    let (mut pages, mut versions) = (0, 0);
    while versions < many / 2 {
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().expect("all are answered");
        if line == "content-type: text/plain" {
            pages += 1;
            assert!(pages - versions <= 1, "in order");
        } else if line == "content-type: application/json" {
            versions += 1;
            assert!(pages >= versions, "in order");
        }
    }
    assert_eq!(pages, many / 2);
    drop(flood.await.unwrap());
    assert_eq!(door.memory.used(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_memory_of_all_connections_is_bounded() {
    let options = HttpOptions { max_memory_bytes: 300_000, ..HttpOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    connection
        .refused("/v3/kv/put", json!({"key": b64("a"), "value": b64("x".repeat(200_000))}), 8, "memory")
        .await;
    let mut connection = Connection::open(&door);
    connection.put("a", &"x".repeat(60_000)).await;
    connection.put("b", &"x".repeat(60_000)).await;
    let all = json!({"key": b64("a"), "range_end": b64("z")});
    connection.refused("/v3/kv/range", all.clone(), 8, "memory").await;
    let mut connection = Connection::open(&door);
    let one = connection.post("/v3/kv/range", json!({"key": b64("a")})).await;
    assert_eq!(one["kvs"][0]["value"].as_str().unwrap().len(), 80_000);
    // The request and the answer are there at the same time.
    let padded = format!("{}{}", json!({"key": b64("a")}), " ".repeat(100_000));
    assert_eq!(connection.post_text("/v3/kv/range", &padded).await.status, 429);
    assert_eq!(door.memory.used(), 0);
    let options = HttpOptions { max_answer_bytes: 100_000, ..HttpOptions::default() };
    let door = Arc::new(Door::new(door.client.clone(), None, options));
    let mut connection = Connection::open(&door);
    connection.refused("/v3/kv/range", all, 8, "with limit").await;
    // Of a range in an order of its own, only the first records are kept.
    for number in 0..8 {
        connection.put(&format!("c{number}"), &format!("{number}{}", "x".repeat(20_000))).await;
    }
    for (order, expected) in [("ASCEND", ["c0", "c1"]), ("DESCEND", ["c7", "c6"])] {
        for target in ["MOD", "CREATE"] {
            let sort = json!({"sort_target": target, "sort_order": order, "limit": 2});
            let found = connection.post("/v3/kv/range", range("c", "z", sort)).await;
            assert_eq!((keys(&found), &found["count"]), (expected.map(str::to_owned).to_vec(), &json!("8")));
            assert_eq!(found["more"], true);
        }
    }
    assert_eq!(door.memory.used(), 0);
    let counted = json!({"key": b64("a"), "range_end": b64("z"), "count_only": true});
    assert_eq!(connection.post("/v3/kv/range", counted).await["count"], "10");
}

/// Random bytes and random JSON get an answer or the end of the connection, and the door goes on.
#[tokio::test(start_paused = true)]
async fn random_requests_do_no_harm() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..200 {
        let mut connection = Connection::open(&door);
        let bytes: Vec<u8> = (0..random.usize(1..300)).map(|_| random.u8(..)).collect();
        let text = if random.bool() { bytes } else { [b"POST /v3/kv/txn HTTP/1.1\r\n", &bytes[..]].concat() };
        let _ = connection.stream.write_all(&text).await;
        let _ = connection.stream.shutdown().await;
        let mut rest = Vec::new();
        let _ = timeout(LIMIT, connection.stream.read_to_end(&mut rest)).await.expect("an end in time");
    }
    let paths = [
        "kv/range",
        "kv/put",
        "kv/deleterange",
        "kv/txn",
        "kv/compaction",
        "lease/grant",
        "lease/revoke",
        "lease/keepalive",
        "lease/timetolive",
        "maintenance/status",
        "auth/authenticate",
    ];
    let mut connection = Connection::open(&door);
    for _ in 0..600 {
        let path = format!("/v3/{}", paths[random.usize(..paths.len())]);
        let body = random_object(&mut random, 4);
        let answer = connection.try_post(&path, &body).await;
        assert!([200, 400, 404, 409, 429, 501, 503].contains(&answer.status), "{path} {body} {answer:?}");
        if answer.header("connection") == Some("close") {
            connection = Connection::open(&door);
        }
    }
    assert_eq!(Connection::open(&door).get("/livez").await.status, 200);
    assert_eq!(door.memory.used(), 0);
}

fn random_object(random: &mut fastrand::Rng, depth: u32) -> Value {
    let names = [
        "key",
        "range_end",
        "value",
        "lease",
        "limit",
        "revision",
        "ID",
        "TTL",
        "compare",
        "success",
        "failure",
        "request_put",
        "request_range",
        "request_delete_range",
        "request_txn",
        "target",
        "result",
        "prev_kv",
        "ignore_value",
        "mod_revision",
        "sort_order",
        "sort_target",
        "keys_only",
        "keys",
        "other",
    ];
    let fields = (0..random.usize(..6))
        .map(|_| (names[random.usize(..names.len())].to_owned(), random_value(random, depth)));
    Value::Object(fields.collect())
}

fn random_value(random: &mut fastrand::Rng, depth: u32) -> Value {
    match random.u32(..if depth == 0 { 6 } else { 9 }) {
        0 => Value::Null,
        1 => random.bool().into(),
        2 => random.i64(-3..5).into(),
        3 => random.i64(..).to_string().into(),
        4 => b64(["a", "b", "k", "\0", "zz"][random.usize(..5)]).into(),
        5 => ["EQUAL", "MOD", "VALUE", "x", ""][random.usize(..5)].into(),
        6 => (0..random.usize(..4)).map(|_| random_object(random, depth - 1)).collect(),
        _ => random_object(random, depth - 1),
    }
}
