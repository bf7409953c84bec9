//! Redis: `SET` followed by `WAIT 1` in one write, and `GET`.

use crate::load::Store;
use kv_peers::Result;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::sleep;

#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
    request: Vec<u8>,
}

fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend(format!("*{}\r\n", words.len()).into_bytes());
    for word in words {
        out.extend(format!("${}\r\n", word.len()).into_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), line: Vec::new(), request: Vec::new() })
    }

    async fn send(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.request).await?;
        self.request.clear();
        Ok(())
    }

    /// Reads a reply, and returns its first line without the end.
    async fn reply(&mut self) -> Result<String> {
        self.line.clear();
        self.stream.read_until(b'\n', &mut self.line).await?;
        let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
        if let Some(length) = line.strip_prefix('$')
            && let Ok(length) = length.parse::<usize>()
        {
            let mut body = vec![0; length + 2];
            self.stream.read_exact(&mut body).await?;
            return Ok(String::from_utf8_lossy(&body[..length]).into_owned());
        }
        if line.is_empty() || line.starts_with('-') {
            Err(format!("Redis replied {line:?}").into())
        } else {
            Ok(line)
        }
    }
}

impl Store for Connection {
    async fn put(&mut self, key: &str, value: &[u8]) -> Result<()> {
        command(&mut self.request, &[b"SET", key.as_bytes(), value]);
        command(&mut self.request, &[b"WAIT", b"1", b"0"]);
        self.send().await?;
        self.reply().await?;
        match self.reply().await?.as_str() {
            ":1" | ":2" => Ok(()),
            other => Err(format!("WAIT returned {other}").into()),
        }
    }

    async fn get(&mut self, key: &str) -> Result<()> {
        command(&mut self.request, &[b"GET", key.as_bytes()]);
        self.send().await?;
        match self.reply().await?.as_str() {
            "$-1" => Err(format!("{key} does not exist").into()),
            _ => Ok(()),
        }
    }
}

/// Waits until both replicas are connected.
pub(crate) async fn wait_for_replicas(primary: SocketAddr) -> Result<()> {
    for _ in 0..300 {
        if let Ok(mut connection) = Connection::open(primary).await {
            command(&mut connection.request, &[b"INFO", b"replication"]);
            connection.send().await?;
            let info = connection.reply().await?;
            if info.matches("state=online").count() == 2 {
                return Ok(());
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    Err("the replicas do not connect".into())
}
