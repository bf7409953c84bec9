//! Connections to a door of a cluster in memory.

mod limits;

use super::RespOptions;
use super::command::{Call, Run};
use super::door::Door;
use super::overlay::Overlay;
use super::reply::{Protocol, Reply};
use super::session::Session;
use bytes::{Bytes, BytesMut};
use kv_core::testing::TestCluster;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::time::timeout;

/// Longer than anything here may take. The time is simulated, and a call of the cluster's client ends after 120 s.
const LIMIT: Duration = Duration::from_secs(600);

/// A cluster of three, and a door with these options.
async fn start(options: RespOptions) -> (TestCluster, Arc<Door>) {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    (cluster, Arc::new(Door::new(client, options)))
}

/// The client's end of a connection.
struct Connection {
    stream: DuplexStream,
}

impl Connection {
    fn open(door: &Arc<Door>) -> Self {
        let address = "127.0.0.1:1".parse().unwrap();
        let (stream, server) = duplex(16 << 10);
        let session = Session::new(door.clone(), door.registry.add(address, address));
        tokio::spawn(session.run(server));
        Self { stream }
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Expects exactly these bytes next.
    #[track_caller]
    fn expect(&mut self, expected: &str) -> impl Future<Output = ()> {
        let (caller, expected) = (std::panic::Location::caller(), expected.to_owned());
        async move {
            let mut found = vec![0; expected.len()];
            let mut length = 0;
            while length < found.len() {
                let read = timeout(LIMIT, self.stream.read(&mut found[length..])).await;
                length += match read.unwrap_or(Ok(0)).unwrap() {
                    0 => break,
                    read => read,
                };
                let (found, expected) = (&found[..length], &expected.as_bytes()[..length]);
                assert_eq!(found.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{caller}");
            }
            assert_eq!(length, found.len(), "{caller}: {} is incomplete", found.escape_ascii());
        }
    }

    /// Sends a line, and expects the reply.
    async fn call(&mut self, line: &str, reply: &str) {
        self.send(&format!("{line}\r\n")).await;
        self.expect(reply).await;
    }

    /// The rest of the line.
    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(timeout(LIMIT, self.stream.read_u8()).await.unwrap().unwrap());
        }
        String::from_utf8(line).unwrap()
    }

    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pipeline_is_answered_in_order() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection
        .send("SET a 1\r\nSET a 2\r\nGET a\r\nINCR a\r\nINCR a\r\nDEL a b\r\nGET a\r\nMSET a x b y\r\nMGET a b c\r\nPING\r\nNO\r\nEXISTS a b\r\n")
        .await;
    connection
        .expect("+OK\r\n+OK\r\n$1\r\n2\r\n:3\r\n:4\r\n:1\r\n$-1\r\n+OK\r\n*3\r\n$1\r\nx\r\n$1\r\ny\r\n$-1\r\n+PONG\r\n")
        .await;
    connection.expect("-ERR unknown command 'NO', with args beginning with: \r\n:2\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn one_bad_request_of_a_group_does_not_harm_the_others() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.call("SET big 9223372036854775806", "+OK\r\n").await;
    connection.send("INCR big\r\nINCR big\r\nDECR big\r\n").await;
    connection.expect(":9223372036854775807\r\n-ERR increment or decrement would overflow\r\n").await;
    connection.expect(":9223372036854775806\r\n").await;
    connection.call("SET text abc", "+OK\r\n").await;
    let not_a_number = "-ERR value is not an integer or out of range\r\n";
    connection.send("SET a 1\r\nINCR text\r\nINCR n\r\nGET \"\"\r\nGET a\r\n").await;
    connection.expect(&format!("+OK\r\n{not_a_number}:1\r\n")).await;
    connection.expect("-ERR the key has 0 bytes: keys have 1 to 4096\r\n$1\r\n1\r\n").await;
}

/// A random command on a few keys, whose reply does not depend on the time.
fn random_command(random: &mut fastrand::Rng) -> String {
    let mut key = || ["a", "b", "c", "d"][random.usize(..4)];
    let (one, two, three) = (key(), key(), key());
    let value = ["1", "-7", "text", "9223372036854775807", ""][random.usize(..5)];
    let commands = [
        format!("GET {one}"),
        format!("SET {one} \"{value}\""),
        format!("SET {one} \"{value}\" NX GET"),
        format!("SET {one} \"{value}\" XX PX 100000"),
        format!("SET {one} \"{value}\" KEEPTTL"),
        format!("SET {one} \"{value}\" PXAT 1"),
        format!("SET {one} \"{value}\" IFEQ 1"),
        format!("GETSET {one} \"{value}\""),
        format!("GETDEL {one}"),
        format!("INCR {one}"),
        format!("DECR {one}"),
        format!("INCRBY {one} 9223372036854775800"),
        format!("DECRBY {one} -5"),
        format!("MSET {one} 1 {two} x {three} 3"),
        format!("MSETNX {one} 1 {two} 2"),
        format!("MGET {one} {two} {three}"),
        format!("DEL {one} {two}"),
        format!("EXISTS {one} {two} {one}"),
        format!("APPEND {one} 1"),
        format!("STRLEN {one}"),
        format!("EXPIRE {one} 100"),
        format!("EXPIRE {one} -1"),
        format!("PERSIST {one}"),
        format!("RENAME {one} {two}"),
        format!("COPY {one} {two} REPLACE"),
        format!("SETRANGE {one} 2 z"),
        format!("INCRBYFLOAT {one} 1.5"),
        format!("DELEX {one} IFNE 1"),
    ];
    commands[random.usize(..commands.len())].clone()
}

/// Commands that are combined have the same effects and replies as one after another.
#[tokio::test(start_paused = true)]
async fn combining_commands_makes_no_difference() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    let mut random = fastrand::Rng::with_seed(11);
    let mut model = Overlay::new([], 1, 1 << 20);
    for round in 0..400 {
        let commands: Vec<String> = (0..random.usize(1..12)).map(|_| random_command(&mut random)).collect();
        let mut replies = Vec::new();
        for command in &commands {
            let words = command.split(' ').map(|word| Bytes::from(word.trim_matches('"').to_owned()));
            let call = Call::new(words.collect()).unwrap();
            let Run::Keys(function) = call.spec.run else { panic!("{command}") };
            replies.push(function(&mut model, &call.request).unwrap_or_else(|error| error));
        }
        let is_transaction = round % 3 == 0;
        let mut expected = BytesMut::new();
        if is_transaction {
            expected.extend_from_slice(b"+OK\r\n");
            expected.extend_from_slice("+QUEUED\r\n".repeat(commands.len()).as_bytes());
            replies = vec![Reply::Array(replies)];
        }
        replies.iter().for_each(|reply| reply.encode(Protocol::Resp2, &mut expected));
        let text = commands.join("\r\n");
        let text = if is_transaction { format!("MULTI\r\n{text}\r\nEXEC") } else { text };
        connection.send(&format!("{text}\r\n")).await;
        let mut found = vec![0; expected.len()];
        timeout(LIMIT, connection.stream.read_exact(&mut found)).await.unwrap().unwrap();
        let (found, expected) = (found.escape_ascii().to_string(), expected.escape_ascii().to_string());
        assert_eq!(found, expected, "round {round}: {commands:#?}");
    }
}

/// Whatever a client sends: the door serves the next one.
#[tokio::test(start_paused = true)]
async fn noise_harms_nobody() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut random = fastrand::Rng::with_seed(5);
    let names: Vec<&str> = super::command::all().iter().map(|spec| spec.name).collect();
    let words = [
        "a",
        "",
        "0",
        "-1",
        "99999999999999999999",
        "*",
        "[",
        "EX",
        "NX",
        "GET",
        "MATCH",
        "COUNT",
        "3",
        "ID",
    ];
    for round in 0..300 {
        let mut connection = Connection::open(&door);
        let mut input = Vec::new();
        for _ in 0..random.usize(1..8) {
            let count = random.usize(1..6);
            input.extend_from_slice(format!("*{count}\r\n").as_bytes());
            for place in 0..count {
                let word = if place == 0 {
                    names[random.usize(..names.len())]
                } else {
                    words[random.usize(..words.len())]
                };
                input.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
            }
        }
        if round % 2 == 0 {
            let at = random.usize(..input.len());
            input[at] = random.u8(..);
        }
        // The door may close the connection at any time.
        let (mut reader, mut writer) = tokio::io::split(connection.stream);
        let sent = tokio::spawn(async move {
            let _ = writer.write_all(&input).await;
            let _ = writer.shutdown().await;
        });
        let mut replies = Vec::new();
        timeout(LIMIT, reader.read_to_end(&mut replies)).await.expect("the connection ends").unwrap();
        sent.await.unwrap();
        connection = Connection::open(&door);
        connection.call("PING", "+PONG\r\n").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_atomic_and_fails_if_a_watched_key_changes() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let (mut one, mut other) = (Connection::open(&door), Connection::open(&door));
    one.call("SET a 1", "+OK\r\n").await;
    one.call("WATCH a absent", "+OK\r\n").await;
    one.call("MULTI", "+OK\r\n").await;
    one.call("INCR a", "+QUEUED\r\n").await;
    one.call("APPEND a x", "+QUEUED\r\n").await;
    one.call("INCR a", "+QUEUED\r\n").await;
    one.call("PING", "+QUEUED\r\n").await;
    one.call("GET a", "+QUEUED\r\n").await;
    one.call(
        "EXEC",
        "*5\r\n:2\r\n:2\r\n-ERR value is not an integer or out of range\r\n+PONG\r\n$2\r\n2x\r\n",
    )
    .await;
    for (key, change) in [("a", "SET a 2"), ("absent", "SET absent 2"), ("a", "DEL a")] {
        one.call(&format!("WATCH {key}"), "+OK\r\n").await;
        other.send(&format!("{change}\r\n")).await;
        other.expect(if change.starts_with("SET") { "+OK\r\n" } else { ":1\r\n" }).await;
        one.call("MULTI", "+OK\r\n").await;
        one.call("SET done 1", "+QUEUED\r\n").await;
        one.call("EXEC", "*-1\r\n").await;
    }
    one.call("EXISTS done", ":0\r\n").await;
    // A transaction without requests can fail, too.
    for (change, reply) in [("PING", "*0\r\n"), ("SET a 3", "*-1\r\n")] {
        one.call("WATCH a", "+OK\r\n").await;
        other.call(change, if change == "PING" { "+PONG\r\n" } else { "+OK\r\n" }).await;
        one.call("MULTI", "+OK\r\n").await;
        one.call("EXEC", reply).await;
    }
    // Without a watch, the same succeeds; after an error, it does not.
    one.call("MULTI", "+OK\r\n").await;
    one.call("SET done 1", "+QUEUED\r\n").await;
    one.call("EXEC", "*1\r\n+OK\r\n").await;
    one.call("MULTI", "+OK\r\n").await;
    one.call("MULTI", "-ERR MULTI calls can not be nested\r\n").await;
    one.call("SET done", "-ERR wrong number of arguments for 'set' command\r\n").await;
    one.call("EXEC", "-EXECABORT Transaction discarded because of previous errors.\r\n").await;
    one.call("EXEC", "-ERR EXEC without MULTI\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_read_first_lose_no_update() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut connection = Connection::open(&door);
        tasks.spawn(async move {
            for _ in 0..10 {
                connection.send("APPEND log x\r\n").await;
                // The length has one or two digits.
                let mut reply = Vec::new();
                while !reply.ends_with(b"\n") {
                    reply.push(timeout(LIMIT, connection.stream.read_u8()).await.unwrap().unwrap());
                }
                assert!(reply.starts_with(b":"), "{}", reply.escape_ascii());
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    Connection::open(&door).call("STRLEN log", ":80\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_failover_is_no_error() {
    let (mut cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    for round in 1..=3 {
        connection.call("INCR n", &format!(":{round}\r\n")).await;
        let killed = cluster.kill_primary().await;
        connection.call("INCRBY m 2", &format!(":{}\r\n", 2 * round)).await;
        connection.call("GET n", &format!("$1\r\n{round}\r\n")).await;
        cluster.restart(killed).await;
        cluster.settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_a_command_fails_and_says_how() {
    let (mut cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.call("SET a 1", "+OK\r\n").await;
    let primary = cluster.primary().await;
    for member in (0..3).filter(|member| *member != primary) {
        cluster.kill(member);
    }
    connection.send("SET a 2\r\n").await;
    // It may be in the log of the primary, and so may still happen: no command may run before.
    connection.send("PING\r\n").await;
    connection.expect("-UNKNOWN the outcome is unknown: ").await;
    connection.line().await;
    connection.expect_end().await;
    let mut connection = Connection::open(&door);
    connection.send("FLUSHALL\r\n").await;
    connection.expect("-UNKNOWN a part of the keys may have been removed: ").await;
    let mut connection = Connection::open(&door);
    // All reads of a pipeline fail at once: not each after a wait of its own.
    let start = tokio::time::Instant::now();
    connection.send(&"GET a\r\nGET b\r\n".repeat(10)).await;
    for _ in 0..20 {
        connection.expect("-TRYAGAIN ").await;
        connection.line().await;
    }
    let passed = start.elapsed();
    assert!(passed < Duration::from_secs(200), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn keys_expire_and_are_found() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.call("SET a 1 PX 50", "+OK\r\n").await;
    connection.call("MSET user:1 x user:2 y other z", "+OK\r\n").await;
    timeout(LIMIT, async {
        loop {
            connection.send("EXISTS a\r\n").await;
            let mut reply = [0; 4];
            connection.stream.read_exact(&mut reply).await.unwrap();
            if reply == *b":0\r\n" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("it expires");
    connection.call("DBSIZE", ":3\r\n").await;
    connection.call("KEYS user:*", "*2\r\n$6\r\nuser:1\r\n$6\r\nuser:2\r\n").await;
    connection.call("SCAN 0 MATCH u*1 COUNT 100", "*2\r\n$1\r\n0\r\n*1\r\n$6\r\nuser:1\r\n").await;
    connection.call("SCAN 1", "-ERR unknown cursor: it is too old, or it comes from another member. Start again with cursor 0\r\n").await;
    connection.call("FLUSHALL", "+OK\r\n").await;
    connection.call("DBSIZE", ":0\r\n").await;
    connection.call("RANDOMKEY", "$-1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_scan_visits_each_key_once() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    let keys: Vec<String> = (10..60).map(|n| format!("k{n}")).collect();
    let pairs: String = keys.iter().map(|key| format!(" {key} v")).collect();
    connection.call(&format!("MSET{pairs}"), "+OK\r\n").await;
    let mut cursor = "0".to_owned();
    for page in keys.chunks(7) {
        // Each page from a connection of its own: a pool of connections works like this.
        let mut connection = Connection::open(&door);
        connection.send(&format!("SCAN {cursor} COUNT 7\r\n")).await;
        connection.expect("*2\r\n$").await;
        let mut line = Vec::new();
        for _ in 0..2 {
            line.clear();
            while !line.ends_with(b"\r\n") {
                line.push(connection.stream.read_u8().await.unwrap());
            }
        }
        cursor = String::from_utf8(line).unwrap().trim().to_owned();
        let found: String = page.iter().map(|key| format!("$3\r\n{key}\r\n")).collect();
        connection.expect(&format!("*{}\r\n{found}", page.len())).await;
    }
    assert_eq!(cursor, "0");
}

#[tokio::test(start_paused = true)]
async fn subscribers_get_each_change_of_a_key() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let (mut subscriber, mut writer) = (Connection::open(&door), Connection::open(&door));
    let channel = "$19\r\n__keyspace@0__:user\r\n";
    subscriber
        .call("SUBSCRIBE __keyspace@0__:user", &format!("*3\r\n$9\r\nsubscribe\r\n{channel}:1\r\n"))
        .await;
    subscriber.call("PING", "*2\r\n$4\r\npong\r\n$0\r\n\r\n").await;
    subscriber.send("GET a\r\n").await;
    subscriber.expect("-ERR Can't execute 'get': ").await;
    writer.send("SET user 1\r\nSET user2 1\r\nDEL user\r\n").await;
    writer.expect("+OK\r\n+OK\r\n:1\r\n").await;
    let mut found = String::new();
    while !found.contains("del") {
        found.push(char::from(timeout(LIMIT, subscriber.stream.read_u8()).await.unwrap().unwrap()));
    }
    let message = |event: &str| format!("*3\r\n$7\r\nmessage\r\n{channel}$3\r\n{event}");
    assert!(found.ends_with(&format!("{}\r\n{}", message("set"), message("del"))), "{found}");
    subscriber.expect("\r\n").await;
    subscriber.call("RESET", "+RESET\r\n").await;
    subscriber.call("GET a", "$-1\r\n").await;
}

/// Every command that `MULTI` takes also runs in `EXEC`.
#[tokio::test(start_paused = true)]
async fn what_is_queued_can_run() {
    let (_cluster, door) = start(RespOptions::default()).await;
    for spec in super::command::all() {
        let mut connection = Connection::open(&door);
        connection.call("MULTI", "+OK\r\n").await;
        let count = spec.arity.unsigned_abs().try_into().unwrap_or(1_usize);
        connection.send(&format!("{}{}\r\nEXEC\r\n", spec.name, " 0".repeat(count - 1))).await;
        connection.send("QUIT\r\n").await;
        let mut found = String::new();
        timeout(LIMIT, connection.stream.read_to_string(&mut found)).await.unwrap().unwrap();
        assert!(!found.contains("possible here"), "{}: {found}", spec.name);
        if spec.name == "unwatch" {
            assert!(found.starts_with("+QUEUED\r\n*1\r\n+OK\r\n"), "{found}");
        }
    }
}

/// A host whose clock is wrong ends no key early, nor late.
#[tokio::test(start_paused = true)]
async fn a_wrong_clock_does_not_change_times_to_live() {
    let (cluster, writer) = start(RespOptions::default()).await;
    for (number, skew) in [-200_000_i64, 200_000].into_iter().enumerate() {
        for command in [
            "APPEND k x",
            "SET k v KEEPTTL",
            "RENAME other k",
            "EXPIRE k 100 LT",
            "GETEX k PXAT",
            "SET k v PXAT",
        ] {
            let mut connection = Connection::open(&writer);
            connection.call("SET k 1 PX 60000", "+OK\r\n").await;
            connection.call("SET other 1 PX 60000", "+OK\r\n").await;
            let start = tokio::time::Instant::now();
            let now = i64::try_from(writer.clock.now()).unwrap();
            // The first command of a door.
            let mut door = Door::new(cluster.client().await, RespOptions::default());
            door.clock = super::clock::ClusterClock::new(now + skew);
            let door = Arc::new(door);
            let mut connection = Connection::open(&door);
            let at = if command.ends_with("PXAT") { format!(" {}", now + 60_000) } else { String::new() };
            connection.send(&format!("{command}{at}\r\nPTTL k\r\n")).await;
            let reply = connection.line().await;
            assert!(!reply.starts_with('-'), "{command}: {reply}");
            // `GETEX` replies with two lines.
            let mut left = connection.line().await;
            while !left.starts_with(':') {
                left = connection.line().await;
            }
            let left: u128 = left[1..].trim().parse().unwrap();
            let passed = start.elapsed().as_millis();
            assert!(left + passed >= 60_000 && left <= 60_500, "{number} {command}: {left} {passed}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn counters_keep_their_time_to_live_in_transactions() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.call("SET n 1 PX 60000", "+OK\r\n").await;
    let before = door.client.get("n").await.unwrap().unwrap().expires;
    connection.send("MULTI\r\nINCR n\r\nEXPIRE n 60 NX\r\nINCRBY n 5\r\nAPPEND other x\r\nEXEC\r\n").await;
    connection.expect(&format!("+OK\r\n{}*4\r\n:2\r\n:0\r\n:7\r\n:1\r\n", "+QUEUED\r\n".repeat(4))).await;
    assert_eq!(door.client.get("n").await.unwrap().unwrap().expires, before);
    connection.send("SET n +5\r\nMULTI\r\nINCR n\r\nAPPEND other x\r\nEXEC\r\n").await;
    connection.expect("+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:6\r\n:2\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_itself_has_its_replies() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.send("SET a 1\r\nCLIENT KILL ID 1\r\nCLIENT KILL ID 1 SKIPME no\r\nPING\r\nSET a 2\r\n").await;
    connection.expect("+OK\r\n:0\r\n:1\r\n").await;
    let mut rest = Vec::new();
    timeout(LIMIT, connection.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
}

/// A member that hangs does not make clients of Sentinel wait.
#[tokio::test(start_paused = true)]
async fn the_primary_is_found_while_a_member_hangs() {
    let (cluster, door) = start(RespOptions::default()).await;
    let primary = cluster.primary().await;
    assert_eq!(door.members().await.primary, Some(primary));
    cluster.faults_of((primary + 1) % 3).cut(kv_core::transport::Scope::all());
    let mut connection = Connection::open(&door);
    let begin = tokio::time::Instant::now();
    connection.call("SENTINEL GET-MASTER-ADDR-BY-NAME kv", "*2\r\n$9\r\n127.0.0.1\r\n$1\r\n1\r\n").await;
    let members = door.members().await;
    assert_eq!((members.primary, members.answering), (Some(primary), 2));
    connection.call("WAIT 1 0", ":1\r\n").await;
    let passed = begin.elapsed();
    assert!(passed < Duration::from_secs(1), "{passed:?}");
    connection.send(&format!("COMMAND INFO{}\r\n", " get".repeat(1000))).await;
    connection.expect("-ERR more names than there are commands\r\n").await;
    connection.send(&format!("CONFIG {}\r\n", "x".repeat(1000))).await;
    connection.expect(&format!("-ERR unknown subcommand '{}'. ", "x".repeat(128))).await;
}

#[tokio::test(start_paused = true)]
async fn a_web_page_cannot_send_commands() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let mut connection = Connection::open(&door);
    connection.send("POST / HTTP/1.1\r\nHost: localhost\r\n\r\nSET a 1\r\n").await;
    connection.expect_end().await;
    Connection::open(&door).call("GET a", "$-1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn clients_introduce_themselves_and_can_be_killed() {
    let (_cluster, door) = start(RespOptions::default()).await;
    let (mut one, mut other) = (Connection::open(&door), Connection::open(&door));
    one.send("HELLO 3 SETNAME worker\r\n").await;
    one.expect("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n").await;
    one.send("CLIENT GETNAME\r\n").await;
    let mut found = Vec::new();
    while !found.ends_with(b"$6\r\nworker\r\n") {
        found.push(timeout(LIMIT, one.stream.read_u8()).await.unwrap().unwrap());
    }
    one.call("GET a", "_\r\n").await;
    other.call("HELLO 4", "-NOPROTO unsupported protocol version\r\n").await;
    other.send("AUTH secret\r\n").await;
    other.expect("-ERR AUTH <password> called without any password configured").await;
    let mut other = Connection::open(&door);
    other.call("CLIENT KILL ID 1", ":1\r\n").await;
    one.expect_end().await;
    other.call("QUIT", "+OK\r\n").await;
    other.expect_end().await;
}
