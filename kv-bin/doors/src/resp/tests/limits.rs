//! The limits of a door.

use super::*;

/// All connections together have a limit, and give back what they took.
#[tokio::test(start_paused = true)]
async fn the_memory_of_all_connections_is_bounded() {
    let options = RespOptions { max_memory_bytes: 2_000_000, ..RespOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    let value = "x".repeat(100_000);
    let set = |key: &str| format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$100000\r\n{value}\r\n", key.len());
    connection.send(&set("a")).await;
    connection.expect("+OK\r\n").await;
    let refusal = "the memory of this door is used up, which ends when other clients have their replies\r\n";
    // Replies of one command.
    connection
        .call(&format!("MGET{}", " a".repeat(25)), &format!("-TRYAGAIN nothing was changed: {refusal}"))
        .await;
    // Requests of transactions that are not complete.
    let mut queued = Vec::new();
    for _ in 0..4 {
        let mut connection = Connection::open(&door);
        connection.call("MULTI", "+OK\r\n").await;
        for key in ["b", "c"] {
            connection.send(&set(key)).await;
            connection.expect("+QUEUED\r\n").await;
        }
        connection.call("GET small", "+QUEUED\r\n").await;
        queued.push(connection);
    }
    let mut large = Connection::open(&door);
    large.send("*3\r\n$3\r\nSET\r\n$1\r\nd\r\n$2000000\r\n").await;
    // The door may close the connection before it has taken everything.
    let (mut reader, mut writer) = tokio::io::split(large.stream);
    let sent = tokio::spawn(async move { writer.write_all(&[b'x'; 2_000_002]).await });
    let mut replies = Vec::new();
    timeout(LIMIT, reader.read_to_end(&mut replies)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(replies).unwrap(), format!("-TRYAGAIN nothing was changed: {refusal}"));
    let _ = sent.await.unwrap();
    // Small commands are served.
    connection.call("SET small 1", "+OK\r\n").await;
    connection.call("GET small", "$1\r\n1\r\n").await;
    drop(queued);
    // Also a connection that is idle after a large request has given its memory back.
    connection.send(&set("e")).await;
    connection.expect("+OK\r\n").await;
    timeout(LIMIT, async {
        while door.memory.used() > 100_000 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the memory is given back");
    connection
        .call(
            &format!("MGET{}", " a".repeat(2)),
            &format!("*2\r\n{}", format!("$100000\r\n{value}\r\n").repeat(2)),
        )
        .await;
}

#[tokio::test(start_paused = true)]
async fn limits_hold() {
    let mut options = RespOptions::default();
    (options.max_arguments, options.max_request_bytes, options.max_queued) = (8, 1000, 2);
    (options.max_subscriptions, options.max_pipeline) = (1, 2);
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    connection.send(&"PING\r\n".repeat(20)).await;
    connection.expect(&"+PONG\r\n".repeat(20)).await;
    connection.call("MULTI", "+OK\r\n").await;
    connection.call("GET a", "+QUEUED\r\n").await;
    connection.call("GET a", "+QUEUED\r\n").await;
    connection.send("GET a\r\n").await;
    connection
        .expect("-ERR the transaction is too large: it may have 2 requests with 1000 bytes together, and each word counts 64 bytes more\r\n")
        .await;
    connection.call("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n").await;
    connection.call("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").await;
    connection.send("SUBSCRIBE b\r\n").await;
    connection.expect("-ERR a connection may have 1 subscriptions").await;
    for wrong in ["*9\r\n", "*1\r\n$1001\r\n", "*1\r\nx"] {
        let mut connection = Connection::open(&door);
        connection.send(wrong).await;
        connection.expect("-ERR Protocol error: ").await;
        let mut rest = Vec::new();
        timeout(LIMIT, connection.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_read_often_makes_no_large_reply() {
    let options = RespOptions { max_reply_bytes: 100_000, ..RespOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    let value = "x".repeat(10_000);
    connection.call(&format!("SET a {value}"), "+OK\r\n").await;
    let refusal = "-ERR nothing was changed: the reply would have more than 100000 bytes\r\n";
    connection.call(&format!("MGET{}", " a".repeat(20)), refusal).await;
    connection.call("MULTI", "+OK\r\n").await;
    connection.call("SET done 1", "+QUEUED\r\n").await;
    for _ in 0..20 {
        connection.call("GETRANGE a 0 -1", "+QUEUED\r\n").await;
    }
    connection.call("EXEC", refusal).await;
    connection.call("EXISTS done", ":0\r\n").await;
    // Requests that only share a pipeline do not share the limit.
    connection.send(&"GET a\r\n".repeat(20)).await;
    connection.expect(&format!("$10000\r\n{value}\r\n").repeat(20)).await;
}

#[tokio::test(start_paused = true)]
async fn small_requests_build_no_large_transaction() {
    let options = RespOptions { max_request_bytes: 100_000, ..RespOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    let last = door.client.max_value_bytes() - 1;
    connection
        .call(
            &format!("SETRANGE k {} x", last + 1),
            &format!("-ERR string exceeds maximum allowed size ({} bytes)\r\n", last + 1),
        )
        .await;
    connection.call("MULTI", "+OK\r\n").await;
    for key in 0..100 {
        connection.call(&format!("SETRANGE k{key} {last} x"), "+QUEUED\r\n").await;
    }
    let most = 2 * (door.client.max_key_bytes() + door.client.max_value_bytes());
    let text =
        format!("-ERR nothing was changed: the values of the transaction have more than {most} bytes\r\n");
    connection.call("EXEC", &text).await;
    connection.call("DBSIZE", ":0\r\n").await;
    // The values of before are not kept, so what counts is what is there at one time.
    connection.call("MULTI", "+OK\r\n").await;
    for _ in 0..10 {
        connection.call(&format!("SETRANGE k {last} x"), "+QUEUED\r\n").await;
    }
    connection.call("EXEC", &format!("*10\r\n{}", format!(":{}\r\n", last + 1).repeat(10))).await;
}

#[tokio::test(start_paused = true)]
async fn words_of_a_transaction_count_even_without_text() {
    let options = RespOptions { max_request_bytes: 10_000, ..RespOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    connection.call("MULTI", "+OK\r\n").await;
    let request = format!("*101\r\n$3\r\nDEL\r\n{}", "$0\r\n\r\n".repeat(100));
    connection.send(&request).await;
    connection.expect("+QUEUED\r\n").await;
    connection.send(&request).await;
    connection.expect("-ERR the transaction is too large: ").await;
}

#[tokio::test(start_paused = true)]
async fn names_of_subscriptions_are_short() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    for (command, length, max) in [("SUBSCRIBE", 4112, 4111), ("PSUBSCRIBE", 1025, 1024)] {
        let refusal = format!("-ERR the name has {length} bytes, and may have up to {max}\r\n");
        connection.call(&format!("{command} {}", "a".repeat(length)), &refusal).await;
    }
    let mut connection = Connection::open(&door);
    // 262 names of 4,000 bytes fit into 1 MiB. A name that is repeated takes no more room.
    for number in (0..262).chain(0..2) {
        let name = format!("{number:04000}");
        connection.send(&format!("SUBSCRIBE {name}\r\n")).await;
        connection.expect(&format!("*3\r\n$9\r\nsubscribe\r\n$4000\r\n{name}\r\n:")).await;
        connection.line().await;
    }
    connection.send(&format!("SUBSCRIBE {:04000}\r\n", 262)).await;
    connection.expect("-ERR a connection may have 1000 subscriptions, whose names have up to ").await;
    connection.send("UNSUBSCRIBE\r\n").await;
    connection.expect("1048576 bytes together\r\n*3\r\n$11\r\nunsubscribe\r\n").await;
}

/// Commands that do not need values read any number of them; the others have a limit for all their keys together.
#[tokio::test(start_paused = true)]
async fn reads_of_many_values_are_bounded() {
    let options = RespOptions { max_reply_bytes: 300_000, ..RespOptions::default() };
    let (_cluster, door) = start(options).await;
    let mut connection = Connection::open(&door);
    let value = "x".repeat(10_000);
    for part in 0..8 {
        let pairs: String = (0..5).map(|number| format!(" {part}:{number} {value}")).collect();
        connection.call(&format!("MSET{pairs}"), "+OK\r\n").await;
    }
    let keys: String =
        (0..8).flat_map(|part| (0..5).map(move |number| format!(" {part}:{number}"))).collect();
    connection.call(&format!("EXISTS{keys}"), ":40\r\n").await;
    // 3,000 keys: more than one read, each of which is small enough.
    let absent: String = (0..3000).map(|number| format!(" {number}")).collect();
    connection.call(&format!("EXISTS{keys}{absent}"), ":40\r\n").await;
    let refusal = "-ERR refused: the keys and values that are read have more than 300000 bytes\r\n";
    connection.call(&format!("MGET{keys}{absent}"), refusal).await;
    let absent: String = (0..6000).map(|number| format!(" {number}")).collect();
    connection.call(&format!("EXISTS{absent}"), refusal).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_changes_up_to_a_thousand_keys() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    let keys: String = (0..1000).map(|number| format!(" {number}")).collect();
    connection.call(&format!("DEL{keys}"), ":0\r\n").await;
    let refusal =
        "-ERR nothing was changed: 1001 keys are named to be changed, and up to 1000 can be at once\r\n";
    connection.call(&format!("DEL{keys} more"), refusal).await;
    connection.call("MULTI", "+OK\r\n").await;
    for number in 0..3 {
        connection.call(&format!("SET {number} {}", "x".repeat(50_000)), "+QUEUED\r\n").await;
    }
    for number in 3..103 {
        connection.call(&format!("DEL {number}"), "+QUEUED\r\n").await;
    }
    for number in 103..106 {
        connection.call(&format!("SET {number} {}", "x".repeat(50_000)), "+QUEUED\r\n").await;
    }
    let (ok, none) = ("+OK\r\n".repeat(3), ":0\r\n".repeat(100));
    connection.call("EXEC", &format!("*106\r\n{ok}{none}{ok}")).await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_and_slow_readers_are_closed() {
    let mut options = RespOptions::default();
    (options.idle_timeout, options.write_timeout) = (Duration::from_secs(5), Duration::from_secs(5));
    let (_cluster, door) = start(options).await;
    let mut idle = Connection::open(&door);
    idle.call("PING", "+PONG\r\n").await;
    idle.expect_end().await;
    let mut slow = Connection::open(&door);
    slow.call(&format!("SET a {}", "x".repeat(10_000)), "+OK\r\n").await;
    slow.send("GET a\r\nGET a\r\nGET a\r\n").await;
    // The replies do not fit into the connection, and nobody reads them.
    tokio::time::sleep(Duration::from_secs(20)).await;
    let mut rest = Vec::new();
    timeout(LIMIT, slow.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.len() < 30_000, "{}", rest.len());
}
