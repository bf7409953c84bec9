//! `kv serve --resp`: clients of Redis.

use crate::harness::{self, Cluster, LIMIT, free_port, until};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// A connection of a client of Redis, that sends lines and reads replies of one line.
struct Redis(TcpStream);

impl Redis {
    fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self(stream))
    }

    fn send(&mut self, line: &str) -> std::io::Result<()> {
        self.0.write_all(format!("{line}\r\n").as_bytes())
    }

    fn line(&mut self) -> std::io::Result<String> {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while !line.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        line.truncate(line.len() - 2);
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn call(&mut self, line: &str) -> std::io::Result<String> {
        self.send(line)?;
        self.line()
    }

    /// A reply that is a string.
    fn get(&mut self, key: &str) -> String {
        assert_ne!(self.call(&format!("GET {key}")).unwrap(), "$-1", "{key} does not exist");
        self.line().unwrap()
    }
}

/// Three members, each with a door of its own.
fn start() -> (Cluster, Vec<u16>) {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let doors: Vec<_> = ports.iter().enumerate().map(|(id, port)| format!("{id}=127.0.0.1:{port}")).collect();
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &["--resp-doors", &doors.join(",")]);
    for (id, port) in ports.iter().enumerate() {
        cluster.under[id] = vec!["env".to_owned(), format!("KV_RESP=127.0.0.1:{port}")];
    }
    (0..3).for_each(|id| cluster.restart(id));
    (cluster, ports)
}

/// The member that is the primary now.
fn find_primary(cluster: &Cluster) -> usize {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { harness::primary(&cluster.client().await).await })
}

#[test]
fn every_member_serves_redis_clients_also_while_the_primary_is_killed() {
    let (mut cluster, ports) = start();
    let mut clients: Vec<_> = ports.iter().map(|port| Redis::connect(*port).unwrap()).collect();
    for (round, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.call("INCR n").unwrap(), format!(":{}", round + 1));
        assert_eq!(client.call(&format!("SET k{round} v{round}")).unwrap(), "+OK");
    }
    for client in &mut clients {
        assert_eq!([client.get("k0"), client.get("k2"), client.get("n")], ["v0", "v2", "3"]);
    }
    let primary = find_primary(&cluster);
    let sentinel = &mut clients[(primary + 1) % 3];
    assert_eq!(sentinel.call("SENTINEL GET-MASTER-ADDR-BY-NAME any").unwrap(), "*2");
    let lines: Vec<_> = (0..4).map(|_| sentinel.line().unwrap()).collect();
    assert_eq!(lines[1..4], ["127.0.0.1".to_owned(), "$5".to_owned(), ports[primary].to_string()]);
    cluster.kill(primary);
    for id in (0..3).filter(|id| *id != primary) {
        // No error and no new connection: the door finds the next primary.
        let reply = clients[id].call("INCR n").unwrap();
        assert!(reply == ":4" || reply == ":5", "{reply}");
    }
    assert_eq!(clients[(primary + 1) % 3].get("n"), "5");
    cluster.restart(primary);
    until("the door opens again", || {
        Redis::connect(ports[primary]).is_ok_and(|mut client| client.get("n") == "5")
    });
}

#[test]
fn subscribers_learn_of_a_new_primary() {
    let (mut cluster, ports) = start();
    let primary = find_primary(&cluster);
    let mut client = Redis::connect(ports[(primary + 1) % 3]).unwrap();
    client.send("PSUBSCRIBE *").unwrap();
    let confirmation: Vec<_> = (0..6).map(|_| client.line().unwrap()).collect();
    assert_eq!(confirmation, ["*3", "$10", "psubscribe", "$1", "*", ":1"]);
    cluster.kill(primary);
    let message: Vec<_> = (0..9).map(|_| client.line().unwrap()).collect();
    assert_eq!(message[6], "+switch-master", "{message:?}");
    let words: Vec<_> = message[8].split(' ').collect();
    assert_eq!(words[..3], ["kv", "127.0.0.1", &ports[primary].to_string()]);
    assert_eq!(words[4], ports[find_primary(&cluster)].to_string());
}

#[test]
fn a_taken_port_is_reported() {
    let cluster = Cluster::prepare(&["data"], &[]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = harness::run(cluster.command(0).args(["--resp", &address]));
    harness::refused(&output, 1, &["cannot serve clients of Redis on", &address, "--resp"]);
}
