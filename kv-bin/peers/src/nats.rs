//! NATS JetStream: a key-value bucket with three replicas. A put is a message to the key's subject that the stream
//! acknowledges; a get asks the stream's leader for the last message of the subject.

use crate::load::Store;
use kv_peers::Result;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

const STREAM: &str = "KV_bench";
/// A server that is still starting does not answer.
const API_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    inbox: String,
    line: String,
    name: String,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let inbox = format!("_INBOX.{:x}", fastrand::u64(..));
        let mut connection =
            Self { stream: BufReader::new(stream), inbox, line: String::new(), name: String::new() };
        connection.stream.read_line(&mut connection.line).await?;
        let info = connection.line.strip_prefix("INFO ").ok_or("not a NATS server")?;
        let info: Value = serde_json::from_str(info)?;
        connection.name = info["server_name"].as_str().unwrap_or_default().to_owned();
        let hello = format!(
            "CONNECT {{\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB {} 1\r\n",
            connection.inbox
        );
        connection.stream.get_mut().write_all(hello.as_bytes()).await?;
        Ok(connection)
    }

    /// Sends a request, and returns the body of the reply.
    async fn request(&mut self, subject: &str, body: &[u8]) -> Result<Vec<u8>> {
        let mut request = format!("PUB {subject} {} {}\r\n", self.inbox, body.len()).into_bytes();
        request.extend_from_slice(body);
        request.extend_from_slice(b"\r\n");
        self.stream.get_mut().write_all(&request).await?;
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line).await? == 0 {
                return Err("NATS closed the connection".into());
            }
            if self.line.starts_with("PING") {
                self.stream.get_mut().write_all(b"PONG\r\n").await?;
            } else if self.line.starts_with("MSG") || self.line.starts_with("HMSG") {
                let headed = self.line.starts_with("HMSG");
                let length = self.line.split_whitespace().last().and_then(|word| word.parse::<usize>().ok());
                let mut body = vec![0; length.ok_or("a message without a length")? + 2];
                self.stream.read_exact(&mut body).await?;
                body.truncate(body.len() - 2);
                // Only "no responders" comes with headers here.
                return if headed { Err("nobody answers yet".into()) } else { Ok(body) };
            } else if self.line.starts_with("-ERR") {
                return Err(self.line.trim_end().into());
            }
        }
    }

    async fn api(&mut self, call: &str, body: &Value) -> Result<Value> {
        let (subject, body) = (format!("$JS.API.{call}"), body.to_string());
        let reply = timeout(API_WITHIN, self.request(&subject, body.as_bytes())).await??;
        let reply: Value = serde_json::from_slice(&reply)?;
        if reply["error"].is_object() { Err(reply["error"].to_string().into()) } else { Ok(reply) }
    }
}

impl Store for Connection {
    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        let reply = self.request(&format!("$KV.bench.{key}"), value).await?;
        // Parsing it would cost the client more than the other systems' replies do.
        if reply.windows(5).any(|window| window == b"\"seq\"") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&reply).into_owned().into())
        }
    }

    async fn get(&mut self, key: &str) -> Result<()> {
        let body = format!("{{\"last_by_subj\":\"$KV.bench.{key}\"}}");
        let reply = self.request(&format!("$JS.API.STREAM.MSG.GET.{STREAM}"), body.as_bytes()).await?;
        if reply.windows(6).any(|window| window == b"\"data\"") {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&reply).into_owned().into())
        }
    }
}

/// Creates the bucket, and returns the address of its leader.
pub(crate) async fn create_bucket(addresses: &[SocketAddr]) -> Result<SocketAddr> {
    let config = json!({
        "name": STREAM,
        "subjects": ["$KV.bench.>"],
        "max_msgs_per_subject": 1,
        "storage": "file",
        "num_replicas": 3,
        "discard": "new",
    });
    let mut last = String::new();
    for _ in 0..300 {
        match try_create(addresses, &config).await {
            Ok(leader) => return Ok(leader),
            Err(error) => last = error.to_string(),
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err(format!("NATS has no bucket: {last}").into())
}

async fn try_create(addresses: &[SocketAddr], config: &Value) -> Result<SocketAddr> {
    let mut first = Connection::open(addresses[0]).await?;
    let info = first.api(&format!("STREAM.CREATE.{STREAM}"), config).await?;
    let leader = info["cluster"]["leader"].as_str().ok_or("the stream has no leader yet")?.to_owned();
    for address in addresses {
        if Connection::open(*address).await?.name == leader {
            return Ok(*address);
        }
    }
    Err("the leader is none of the servers".into())
}
