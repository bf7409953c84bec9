//! What a member reports to the program that supervises it, such as systemd, by systemd's protocol `sd_notify`.

use kv_core::Node;
use kv_core::node::{MemberState, MemberStatus};
use socket::Address;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How often the status is compared with the status that was last reported.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// How soon a member that did not respond is looked at again. It may just have had too little CPU time.
const TRY_AGAIN: Duration = Duration::from_millis(100);
/// How long a message may wait for a supervisor that does not read.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// The supervisor of this process. Without one, nothing is reported.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    address: Option<Address>,
    /// The supervisor restarts this process if it hears nothing for this long.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The supervisor that the variables `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` describe.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let address = socket::address(&name).inspect_err(|error| {
            tracing::warn!(NOTIFY_SOCKET = ?name, %error, "cannot notify the supervisor of this process");
        });
        let variable = |name| std::env::var(name).ok();
        let watchdog = watchdog(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref());
        Self { address: address.ok(), watchdog }
    }

    /// The member starts. To open its data may take long.
    pub(crate) async fn starting(&self) {
        self.send("STATUS=opening the data directory").await;
    }

    /// The member listens. That is enough to be ready: the first start of a cluster needs all members, and later
    /// starts need a majority. Suppose that a member was ready only when it has a primary. Then a script that starts
    /// one member after the other would wait for the first one forever, and a supervisor with a time limit for the
    /// start would kill the members of a minority again and again, although they work.
    pub(crate) async fn ready(&self, node: &Node) {
        self.send(&format!("READY=1\nSTATUS={}", describe(&node.status()))).await;
    }

    /// Reports the status whenever it has changed.
    pub(crate) async fn report(&self, node: &Node) -> Infallible {
        if self.address.is_none() {
            return pending().await;
        }
        let mut reported = String::new();
        loop {
            let status = describe(&node.status());
            if status != reported {
                self.send(&format!("STATUS={status}")).await;
                reported = status;
            }
            sleep(STATUS_EVERY).await;
        }
    }

    /// Reports that the member is alive, twice in the time that the watchdog allows, for as long as the task that runs
    /// the protocol responds. If it does not, nothing is sent, and the supervisor restarts this process.
    pub(crate) async fn feed_watchdog(&self, node: &Node) -> Infallible {
        let Some(limit) = self.watchdog else { return pending().await };
        loop {
            while !node.is_responsive().await {
                sleep(TRY_AGAIN).await;
            }
            self.send("WATCHDOG=1").await;
            sleep(limit / 2).await;
        }
    }

    /// The member stops because of a signal.
    pub(crate) async fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping").await;
    }

    async fn send(&self, message: &str) {
        let Some(address) = &self.address else { return };
        let sent = timeout(SEND_WITHIN, socket::send(address, message)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            tracing::warn!(%error, message, "cannot notify the supervisor of this process");
        }
    }
}

/// The time after which a watchdog restarts this process, if there is one and it is meant for this process.
fn watchdog(microseconds: Option<&str>, process: Option<&str>) -> Option<Duration> {
    let is_other = process.is_some_and(|process| process != std::process::id().to_string());
    let limit = microseconds?.parse().ok().filter(|limit| *limit > 0 && !is_other)?;
    Some(Duration::from_micros(limit))
}

/// The status in one line, for people.
fn describe(status: &MemberStatus) -> String {
    let view = status.view;
    match (status.state, status.primary) {
        (MemberState::Forming, _) => "forming: waiting for all members of the cluster".to_owned(),
        (MemberState::Primary, _) => format!("primary in view {view}"),
        (MemberState::Backup, Some(primary)) => format!("following member {primary} in view {view}"),
        (MemberState::CatchingUp, _) => format!("catching up in view {view}"),
        (MemberState::Damaged, _) => format!("waiting for an intact log in view {view}"),
        _ => format!("waiting for a primary in view {view}"),
    }
}

/// The socket of the supervisor.
#[cfg(target_os = "linux")]
mod socket {
    use super::{OsStr, io};
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net;

    pub(super) type Address = net::SocketAddr;

    /// The address with this name: a path, or `@` and the name of an abstract socket.
    pub(super) fn address(name: &OsStr) -> io::Result<Address> {
        match name.as_bytes() {
            [b'/', ..] => Address::from_pathname(name),
            [b'@', name @ ..] => Address::from_abstract_name(name),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it must begin with / or @")),
        }
    }

    /// Sends a message. Each message has a socket of its own, because the supervisor may open its socket anew at any
    /// time.
    pub(super) async fn send(address: &Address, message: &str) -> io::Result<()> {
        let socket = net::UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(address)?;
        tokio::net::UnixDatagram::from_std(socket)?.send(message.as_bytes()).await.map(drop)
    }
}

/// Other systems have no supervisors with this protocol.
#[cfg(not(target_os = "linux"))]
mod socket {
    use super::{OsStr, io};

    #[derive(Debug)]
    pub(super) enum Address {}

    pub(super) fn address(_: &OsStr) -> io::Result<Address> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) async fn send(address: &Address, _: &str) -> io::Result<()> {
        match *address {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_counts_only_if_it_is_meant_for_this_process() {
        let own = std::process::id().to_string();
        let half_a_second = Some(Duration::from_millis(500));
        assert_eq!(watchdog(Some("500000"), None), half_a_second);
        assert_eq!(watchdog(Some("500000"), Some(&own)), half_a_second);
        assert_eq!(watchdog(Some("500000"), Some(&format!("{own}0"))), None);
        for none in [None, Some("0"), Some(""), Some("-1"), Some("soon")] {
            assert_eq!(watchdog(none, None), None, "{none:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sockets_have_paths_or_abstract_names() {
        use std::os::linux::net::SocketAddrExt as _;
        let path = socket::address(OsStr::new("/run/systemd/notify")).unwrap();
        assert_eq!(path.as_pathname(), Some("/run/systemd/notify".as_ref()));
        let name = socket::address(OsStr::new("@kv")).unwrap();
        assert_eq!(name.as_abstract_name(), Some(&b"kv"[..]));
        for other in ["notify", "vsock:2:1234", ""] {
            assert!(socket::address(OsStr::new(other)).is_err(), "{other}");
        }
    }
}
