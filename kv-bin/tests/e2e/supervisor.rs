//! What a member reports to its supervisor, over sockets of the tests' own, and what its exit code tells it.

use crate::harness::{Cluster, LIMIT, until, wait};
use rustix::process::{Pid, Signal, kill_process};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Stdio};

/// A supervisor with one member.
struct Supervisor {
    socket: UnixDatagram,
    received: Vec<String>,
    member: Child,
    _cluster: Cluster,
}

impl Supervisor {
    /// Starts member 0, and no other, with these variables. `name`: that of the socket; by default, the socket has a
    /// path.
    fn start(roles: &[&str], name: Option<&str>, variables: &[(&str, &str)]) -> Self {
        Self::of(Cluster::prepare(roles, &[]), name, variables)
    }

    /// Starts member 0 of this cluster.
    fn of(cluster: Cluster, name: Option<&str>, variables: &[(&str, &str)]) -> Self {
        let path = cluster.folder.path().join("notify");
        let (address, name) = match name {
            Some(name) => (SocketAddr::from_abstract_name(name), format!("@{name}").into()),
            None => (SocketAddr::from_pathname(&path), path.into_os_string()),
        };
        let socket = UnixDatagram::bind_addr(&address.unwrap()).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        let mut command = cluster.command(0);
        command.env("NOTIFY_SOCKET", name).envs(variables.iter().copied());
        let member = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { socket, received: Vec::new(), member, _cluster: cluster }
    }

    /// Waits for a message that contains this.
    fn expect(&mut self, part: &str) {
        while !self.received.iter().any(|message| message.contains(part)) {
            self.receive()
                .unwrap_or_else(|error| panic!("{part}: {error}; {:?} were received", self.received));
        }
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut message = [0; 4096];
        let length = self.socket.recv(&mut message)?;
        self.received.push(String::from_utf8(message[..length].to_vec()).unwrap());
        Ok(())
    }

    /// Stops the member, and returns everything that it has reported.
    fn stop(mut self) -> Vec<String> {
        kill_process(Pid::from_child(&self.member), Signal::TERM).unwrap();
        assert_eq!(wait(&mut self.member).code(), Some(0));
        self.socket.set_nonblocking(true).unwrap();
        while self.receive().is_ok() {}
        std::mem::take(&mut self.received)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.member.kill();
        let _ = self.member.wait();
    }
}

/// The others may be started only once this one is ready.
#[test]
fn a_member_is_ready_before_the_cluster_has_formed() {
    let mut supervisor = Supervisor::start(&["data", "data", "data"], None, &[("WATCHDOG_USEC", "20000")]);
    supervisor.expect("STATUS=opening");
    supervisor.expect("READY=1");
    supervisor.expect("STATUS=forming");
    supervisor.received.clear();
    supervisor.expect("WATCHDOG=1");
    supervisor.received.clear();
    supervisor.expect("WATCHDOG=1");
    let last = supervisor.stop();
    assert!(last.iter().any(|message| message.contains("STOPPING=1")), "{last:?}");
    assert!(!last.iter().any(|message| message.contains("READY=1")), "{last:?}");
}

#[test]
fn a_socket_may_have_an_abstract_name() {
    let name = format!("kv-test-{}-{:x}", std::process::id(), fastrand::u64(..));
    let mut supervisor = Supervisor::start(&["data"], Some(&name), &[]);
    supervisor.expect("READY=1");
    supervisor.expect("STATUS=primary");
    let all = supervisor.stop();
    assert!(!all.iter().any(|message| message.contains("WATCHDOG")), "there is no watchdog: {all:?}");
}

/// A command that a supervised shell runs has the variables of that shell.
#[test]
fn the_watchdog_of_another_process_is_not_fed() {
    let variables = [("WATCHDOG_USEC", "2000"), ("WATCHDOG_PID", "1")];
    let mut supervisor = Supervisor::start(&["data"], None, &variables);
    supervisor.expect("STATUS=primary");
    let all = supervisor.stop();
    assert!(!all.iter().any(|message| message.contains("WATCHDOG")), "{all:?}");
}

#[test]
fn a_member_serves_although_its_supervisor_cannot_be_notified() {
    for socket in ["/nowhere/notify", "vsock:2:1234"] {
        let cluster = Cluster::prepare(&["data"], &[]);
        let log = cluster.folder.path().join("log");
        let mut command = cluster.command(0);
        command.env("NOTIFY_SOCKET", socket).stdout(Stdio::null());
        let mut member = command.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap();
        until("a client is served", || cluster.run(&["put", "k", "v"]).status.success());
        let log = std::fs::read_to_string(log).unwrap();
        assert!(log.contains("cannot notify the supervisor"), "{log}");
        member.kill().unwrap();
        member.wait().unwrap();
    }
}

/// The file of the lock is a pipe that nobody reads, so the member opens its data until it is stopped.
#[test]
fn a_member_that_opens_its_data_stops_when_it_is_asked_to() {
    let cluster = Cluster::prepare(&["data"], &[]);
    let data = cluster.data(0);
    std::fs::create_dir_all(&data).unwrap();
    let made = std::process::Command::new("mkfifo").arg(data.join("LOCK")).status().unwrap();
    assert!(made.success());
    let mut supervisor = Supervisor::of(cluster, None, &[]);
    supervisor.expect("STATUS=opening");
    let last = supervisor.stop();
    assert!(last.iter().any(|message| message.contains("STOPPING=1")), "{last:?}");
    assert!(!last.iter().any(|message| message.contains("READY=1")), "{last:?}");
}
