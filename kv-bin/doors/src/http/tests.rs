//! Connections to a door of a cluster in memory.

mod etcd;
mod limits;
mod locks;
mod model;
mod transactions;
mod watches;

use super::HttpOptions;
use super::door::Door;
use super::server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kv_core::testing::TestCluster;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream, duplex,
};
use tokio::time::timeout;

/// Longer than anything here may take. The time is simulated, and a call of the cluster's client ends after 120 s.
const LIMIT: Duration = Duration::from_secs(600);

/// A cluster of three, and a door with these options.
async fn start(options: HttpOptions) -> (TestCluster, Arc<Door>) {
    let cluster = TestCluster::in_memory(3).start().await;
    let client = cluster.client().await;
    (cluster, Arc::new(Door::new(client, None, options)))
}

fn b64(text: impl AsRef<[u8]>) -> String {
    STANDARD.encode(text)
}

#[track_caller]
fn number(value: &Value) -> u64 {
    value.as_str().unwrap_or_else(|| panic!("{value} is no string")).parse().unwrap()
}

/// The keys of an answer, decoded.
fn keys(answer: &Value) -> Vec<String> {
    let records = answer["kvs"].as_array().cloned().unwrap_or_default();
    records.iter().map(|record| decode(&record["key"])).collect()
}

#[track_caller]
fn decode(value: &Value) -> String {
    String::from_utf8(STANDARD.decode(value.as_str().unwrap()).unwrap()).unwrap()
}

fn range(from: &str, to: &str, more: Value) -> Value {
    let mut range = json!({"key": b64(from), "range_end": b64(to)});
    range.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    range
}

/// An answer.
#[derive(Clone, PartialEq, Debug)]
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The client's end of a connection.
struct Connection {
    stream: BufReader<DuplexStream>,
}

impl Connection {
    fn open(door: &Arc<Door>) -> Self {
        Self::with_capacity(door, 16 << 10)
    }

    /// A connection on which up to this many bytes are under way.
    fn with_capacity(door: &Arc<Door>, bytes: usize) -> Self {
        let (stream, server) = duplex(bytes);
        let door = door.clone();
        tokio::spawn(async move { server::run(&door, server, false).await });
        Self { stream: BufReader::new(stream) }
    }

    async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(LIMIT, self.stream.read_line(&mut line)).await.expect("a line in time").unwrap();
        line
    }

    /// The status and the headers of an answer; `None` at the end of the connection.
    async fn head(&mut self) -> Option<Answer> {
        let first = self.line().await;
        let status = first.split(' ').nth(1)?.parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.push((name.to_owned(), value.to_owned()));
        }
        Some(Answer { status, headers, body: Vec::new() })
    }

    /// The next part of an answer that is sent in parts; empty at the end.
    async fn chunk(&mut self) -> Vec<u8> {
        let line = self.line().await;
        let length = usize::from_str_radix(line.trim_end(), 16).unwrap_or_else(|_| panic!("{line:?}"));
        let mut chunk = vec![0; length + 2];
        timeout(LIMIT, self.stream.read_exact(&mut chunk)).await.expect("a part in time").unwrap();
        chunk.truncate(length);
        chunk
    }

    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await.expect("an answer");
        if answer.header("transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    break;
                }
                answer.body.extend(chunk);
            }
        } else {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            answer.body = vec![0; length];
            timeout(LIMIT, self.stream.read_exact(&mut answer.body)).await.expect("a body in time").unwrap();
        }
        answer
    }

    async fn post_text(&mut self, path: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
        self.answer().await
    }

    async fn try_post(&mut self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string()).await
    }

    /// Expects success.
    #[track_caller]
    fn post(&mut self, path: &str, body: Value) -> impl Future<Output = Value> {
        let (caller, path) = (std::panic::Location::caller(), path.to_owned());
        async move {
            let answer = self.try_post(&path, &body).await;
            assert_eq!(answer.status, 200, "{caller}: {}", String::from_utf8_lossy(&answer.body));
            answer.json()
        }
    }

    /// Expects a failure with this code and this part of the message.
    #[track_caller]
    fn refused(&mut self, path: &str, body: Value, code: u64, part: &str) -> impl Future<Output = Answer> {
        let (caller, path, part) = (std::panic::Location::caller(), path.to_owned(), part.to_owned());
        async move {
            let answer = self.try_post(&path, &body).await;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(answer.status >= 400, "{caller}: {text}");
            assert_eq!(answer.json()["code"], code, "{caller}: {text}");
            assert!(answer.json()["message"].as_str().unwrap().contains(&part), "{caller}: {text}");
            assert_eq!(answer.json()["message"], answer.json()["error"]);
            answer
        }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        self.answer().await
    }

    async fn put(&mut self, key: &str, value: &str) -> Value {
        self.post("/v3/kv/put", json!({"key": b64(key), "value": b64(value)})).await
    }

    async fn expect_end(&mut self) {
        let mut rest = Vec::new();
        timeout(LIMIT, self.stream.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest.escape_ascii().to_string(), "");
    }
}

#[tokio::test(start_paused = true)]
async fn paths_and_methods_are_explained() {
    let (_cluster, door) = start(HttpOptions::default()).await;
    let mut connection = Connection::open(&door);
    assert_eq!(connection.get("/version").await.json()["etcdserver"], "3.5.0");
    assert_eq!(connection.get("/health").await.json()["health"], "true");
    assert_eq!(connection.get("/health?serializable=true").await.json()["health"], "true");
    assert_eq!(connection.get("/livez").await.status, 200);
    let unknown = connection.get("/v3/kv/nothing").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.json()["message"].as_str().unwrap().contains("/v3/kv/nothing"));
    for (method, path, allowed) in
        [("GET", "/v3/kv/range", "POST"), ("DELETE", "/v3/watch", "POST"), ("POST", "/version", "GET, HEAD")]
    {
        connection.send(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
        let answer = connection.answer().await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
    }
    connection.send("HEAD /health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let head = connection.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, Some("29")));
    assert_eq!(connection.get("/livez").await.body, b"ok\n", "the connection goes on");
}

/// Whoever may look at the state of a member need not be allowed to see its data.
#[tokio::test(start_paused = true)]
async fn a_door_for_pages_refuses_every_call() {
    let (cluster, door) = start(HttpOptions { pages_only: true, ..HttpOptions::default() }).await;
    let mut connection = Connection::open(&door);
    for path in ["/livez", "/version", "/health", "/"] {
        assert_eq!(connection.get(path).await.status, 200, "{path}");
    }
    for path in
        ["/v3/kv/range", "/v3/kv/put", "/v3/kv/txn", "/v3/watch", "/v3/lease/grant", "/v3/maintenance/status"]
    {
        let mut connection = Connection::open(&door);
        let body = json!({"key": b64("a"), "value": b64("x")}).to_string();
        let answer = connection.post_text(path, &body).await;
        assert_eq!(answer.status, 403, "{path}");
        assert!(answer.json()["message"].as_str().unwrap().contains("--http-pages-only"), "{path}");
    }
    let client = cluster.client().await;
    assert_eq!(client.get("a").await.unwrap(), None, "nothing was written");
}

#[tokio::test(start_paused = true)]
async fn web_pages_of_other_sites_are_refused() {
    let (_cluster, door) =
        start(HttpOptions { hosts: vec!["kv.example".to_owned()], ..HttpOptions::default() }).await;
    let put = json!({"key": b64("a"), "value": b64("x")}).to_string();
    for (host, origin, status) in [
        ("127.0.0.1:2379", "", 200),
        ("kv.example:2379", "", 200),
        ("127.0.0.1:2379", "origin: http://127.0.0.1:2379\r\n", 200),
        ("127.0.0.1:2379", "origin: http://evil.example\r\n", 403),
        ("127.0.0.1:2379", "origin: null\r\n", 403),
        ("evil.example", "origin: http://evil.example\r\n", 403),
        ("evil.example", "", 403),
    ] {
        let mut connection = Connection::open(&door);
        let length = put.len();
        let request = format!(
            "POST /v3/kv/put HTTP/1.1\r\nhost: {host}\r\n{origin}content-type: text/plain\r\ncontent-length: {length}\r\n\r\n{put}"
        );
        connection.send(request).await;
        let answer = connection.answer().await;
        assert_eq!(answer.status, status, "{host} {origin}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}
