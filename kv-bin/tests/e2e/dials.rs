//! `kv serve --http`: the pages about the member.

use crate::harness::{Cluster, LIMIT, free_port, stdout, until};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// The status and the body of a page; `None` if nobody answers.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(LIMIT)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// What two statuses of the same cluster have in common: the names of all fields, and the values that stay the same.
fn shape(text: &str) -> Vec<(Value, Vec<String>)> {
    let status: Value = serde_json::from_str(text).unwrap();
    assert_eq!(status.as_object().unwrap().len(), 1, "{text}");
    let members = status["members"].as_array().unwrap().iter();
    members
        .map(|member| {
            let fields = member.as_object().unwrap();
            let same = ["id", "address", "role", "state", "view", "version", "error"]
                .map(|name| member[name].clone());
            let mut names: Vec<String> = fields.keys().cloned().collect();
            let peers = member["peers"].as_array().into_iter().flatten().filter_map(Value::as_object);
            names.extend(peers.flat_map(|peer| peer.keys().map(|name| format!("peers.{name}"))));
            (Value::from_iter(same), names)
        })
        .collect()
}

#[test]
fn a_member_shows_the_same_status_as_the_command() {
    let mut cluster = Cluster::prepare(&["data", "data", "witness"], &[]);
    let ports = [free_port(), free_port(), free_port()];
    for (id, port) in ports.iter().enumerate() {
        cluster.under[id] = vec!["env".to_owned(), format!("KV_HTTP=127.0.0.1:{port}")];
    }
    (0..ports.len()).for_each(|id| cluster.restart(id));
    until("all members are ready", || {
        ports.iter().all(|port| get(*port, "/readyz").is_some_and(|(status, _)| status == 200))
    });
    let primaries =
        ports.iter().filter(|port| get(**port, "/primary").is_some_and(|(status, _)| status == 200));
    assert_eq!(primaries.count(), 1);
    // The page may be a second older than the answer to the command.
    let is_same = |cluster: &Cluster| {
        let (_, page) = get(ports[2], "/status").unwrap();
        let (page, command) = (shape(&page), shape(&stdout(&cluster.run(&["status", "--json"]))));
        assert_eq!(page.len(), 3);
        page == command
    };
    until("the same status", || is_same(&cluster));
    cluster.kill(1);
    until("the same status without a member", || is_same(&cluster));
    assert!(get(ports[2], "/status").unwrap().1.contains("it cannot be reached"));
    let (status, text) = get(ports[2], "/metrics").unwrap();
    assert!(status == 200 && text.contains("kv_info{cluster=\"kv\",member=\"2\",role=\"witness\""), "{text}");
}
