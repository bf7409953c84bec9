//! `kv serve --http`: clients of etcd's gateway.

use crate::harness::{self, Cluster, LIMIT, free_port, until};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

/// A connection that sends requests and reads answers.
struct Http(BufReader<TcpStream>);

impl Http {
    fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(BufReader::new(stream)))
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    /// Sends a request, and reads the status and the length of the answer.
    fn send(&mut self, request: &str, body: &str) -> std::io::Result<(u16, usize)> {
        let head = format!("{request} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n", body.len());
        self.0.get_mut().write_all(format!("{head}{body}").as_bytes())?;
        let first = self.line()?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                let ended = || std::io::Error::other(format!("no answer, but {first:?}"));
                return Ok((status.ok_or_else(ended)?, length));
            }
            if let Some(("content-length", value)) = line.split_once(": ") {
                length = value.parse().unwrap();
            }
        }
    }

    fn call(&mut self, request: &str, body: &str) -> std::io::Result<(u16, Value)> {
        let (status, length) = self.send(request, body)?;
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok((status, serde_json::from_slice(&body).unwrap()))
    }

    #[track_caller]
    fn post(&mut self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call(&format!("POST {path}"), &body.to_string()).unwrap();
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// The next line of an answer that goes on.
    fn part(&mut self) -> Value {
        let length = usize::from_str_radix(&self.line().unwrap(), 16).unwrap();
        let mut part = vec![0; length + 2];
        self.0.read_exact(&mut part).unwrap();
        serde_json::from_slice(&part[..length]).unwrap()
    }
}

#[test]
fn every_member_serves_http_also_while_the_primary_is_killed() {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let doors: Vec<_> = ports.iter().enumerate().map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &["--http-doors", &doors.join(",")]);
    for (id, port) in ports.iter().enumerate() {
        cluster.under[id] = vec!["env".to_owned(), format!("KV_HTTP=127.0.0.1:{port}")];
    }
    (0..3).for_each(|id| cluster.restart(id));
    let mut clients: Vec<_> = ports.iter().map(|port| Http::connect(*port).unwrap()).collect();
    // "k0" and "v" in base64.
    let (key, value) = ("azA=", "dg==");
    clients[0].post("/v3/kv/put", &json!({"key": key, "value": value}));
    let mut ids = Vec::new();
    for client in &mut clients {
        let found = client.post("/v3/kv/range", &json!({"key": key}));
        assert_eq!((&found["kvs"][0]["value"], &found["count"]), (&json!(value), &json!("1")));
        ids.push(found["header"]["member_id"].clone());
    }
    let list = clients[1].post("/v3/cluster/member/list", &json!({}));
    let members = list["members"].as_array().unwrap();
    assert_eq!(members.iter().map(|member| member["ID"].clone()).collect::<Vec<_>>(), ids);
    assert_eq!(members[2]["clientURLs"], json!([format!("http://127.0.0.1:{}", ports[2])]));
    let leader = clients[0].post("/v3/maintenance/status", &json!({}))["leader"].clone();
    let primary = ids.iter().position(|id| *id == leader).expect("the primary is a member");
    let mut watcher = Http::connect(ports[(primary + 1) % 3]).unwrap();
    watcher.send("POST /v3/watch", &json!({"create_request": {"key": key}}).to_string()).unwrap();
    assert_eq!(watcher.part()["result"]["created"], true);
    cluster.kill(primary);
    for (id, client) in clients.iter_mut().enumerate().filter(|(id, _)| *id != primary) {
        // No error and no new connection: the door finds the next primary.
        client.post("/v3/kv/put", &json!({"key": key, "value": "dw=="}));
        let (status, health) = client.call("GET /health", "").unwrap();
        assert_eq!((status, &health["health"]), (200, &json!("true")), "{id}");
    }
    assert_eq!(watcher.part()["result"]["events"][0]["kv"]["value"], "dw==");
    cluster.restart(primary);
    until("the door opens again", || {
        let found = Http::connect(ports[primary])
            .and_then(|mut client| client.call("POST /v3/kv/range", &json!({"key": key}).to_string()));
        found.is_ok_and(|(status, found)| status == 200 && found["kvs"][0]["value"] == "dw==")
    });
}

#[test]
fn a_taken_port_for_http_is_reported() {
    let cluster = Cluster::prepare(&["data"], &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = harness::run(cluster.command(0).args(["--http", &address]));
    harness::refused(&output, 1, &["cannot serve clients of HTTP on", &address, "--http"]);
}
