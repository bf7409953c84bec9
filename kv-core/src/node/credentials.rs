//! Certificates and the list of clients, which may change while the node runs.

use super::StartError;
use super::rate::LogThrottle;
use super::shared::Shared;
use super::sync::lock;
use crate::detached;
use crate::ids::Instant;
use kv_transport::{Peer, Transport, TransportError};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often the files are checked.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A changed list takes effect once it has been the same at this many checks in a row.
const LOOKS: u32 = 3;
/// The largest list of clients, in bytes.
const LARGEST_LIST: u64 = 16 << 20;

/// The clients that may connect: a file with one name per line. Empty lines and lines that begin with `#` are
/// ignored.
#[derive(Debug)]
pub(super) struct ClientList {
    file: PathBuf,
    names: watch::Sender<Arc<BTreeSet<String>>>,
    /// The changed content, and at how many checks it has been the same. A program that rewrites the file in place
    /// leaves an incomplete file for a moment, and the clients in the missing part must not be disconnected.
    next: Mutex<Option<(BTreeSet<String>, u32)>>,
}

impl ClientList {
    /// Reads the file.
    pub(super) fn open(file: PathBuf) -> Result<Self, StartError> {
        match read(&file) {
            Ok(names) => {
                Ok(Self { file, names: watch::Sender::new(Arc::new(names)), next: Mutex::default() })
            }
            Err(source) => Err(StartError::ClientList { file, source }),
        }
    }

    /// Reads the file again, and returns whether a new list takes effect. If the file cannot be read, or has only
    /// just changed, the old names stay valid.
    fn refresh(&self) -> io::Result<bool> {
        let mut next = lock(&self.next);
        let before = next.take();
        let names = read(&self.file)?;
        if **self.names.borrow() == names {
            return Ok(false);
        }
        let looks = match before {
            Some((same, looks)) if same == names => looks + 1,
            _ => 1,
        };
        if looks < LOOKS {
            *next = Some((names, looks));
            return Ok(false);
        }
        self.names.send_replace(Arc::new(names));
        Ok(true)
    }

    /// Returns whether the peer may connect as a client. Members are not on the list.
    pub(super) fn has(&self, peer: &Peer) -> bool {
        is_on(&self.names.borrow(), peer)
    }

    /// Waits until the peer may no longer connect.
    pub(super) async fn removed(&self, peer: &Peer) {
        let mut names = self.names.subscribe();
        // An error means that the list, and with it the node, is gone.
        let _ = names.wait_for(|names| !is_on(names, peer)).await;
    }
}

fn is_on(names: &BTreeSet<String>, peer: &Peer) -> bool {
    match peer {
        Peer::Member { .. } => true,
        Peer::Client { name, .. } => names.contains(name),
        _ => false,
    }
}

fn read(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST_LIST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST_LIST {
        return Err(io::Error::other("it is too long for a list of clients"));
    }
    // Some editors write a byte order mark at the beginning of a file.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Checks the files regularly, for as long as the node runs.
pub(super) async fn run(shared: Arc<Shared>) {
    let logged = LogThrottle::default();
    loop {
        sleep(LOOK_EVERY).await;
        let looking = shared.clone();
        let looked = detached::run("kv-credentials", move || {
            (looking.transport.refresh(), looking.clients.as_ref().map(ClientList::refresh))
        });
        let Ok((certificates, clients)) = looked.await else { continue };
        let now = shared.clock.monotonic();
        log_certificates(certificates, now, &logged);
        if let (Some(list), Some(refreshed)) = (&shared.clients, clients) {
            log_clients(refreshed, &list.file, now, &logged);
        }
    }
}

/// Logs a failure at most once a minute. While files are being replaced, they may not match for a moment.
fn log_certificates(refreshed: Result<bool, TransportError>, now: Instant, logged: &LogThrottle) {
    match refreshed {
        Ok(true) => tracing::info!("reloaded the certificates"),
        Err(error) if logged.is_due(now, &error.to_string()) => {
            tracing::warn!(%error, "cannot use the new certificates: the old ones stay in use");
        }
        Ok(false) | Err(_) => {}
    }
}

fn log_clients(refreshed: io::Result<bool>, file: &Path, now: Instant, logged: &LogThrottle) {
    let file = file.display();
    match refreshed {
        Ok(true) => tracing::info!(%file, "reloaded the client list"),
        Err(error) if logged.is_due(now, &error.to_string()) => {
            tracing::warn!(%file, %error, "cannot read the client list: the old one stays in use");
        }
        Ok(false) | Err(_) => {}
    }
}

/// Checks that the transport's certificate belongs to this member, before all the others find out.
pub(super) fn check(
    transport: &dyn Transport,
    cluster: &str,
    me: crate::ids::MemberId,
    has_list: bool,
) -> Result<(), StartError> {
    match transport.identity() {
        Peer::Unauthenticated if has_list => Err(StartError::ListWithoutCertificates),
        Peer::Unauthenticated => Ok(()),
        Peer::Member { cluster: theirs, id } if theirs == cluster && id == me.get() => Ok(()),
        other => Err(StartError::OtherIdentity {
            found: crate::wire::describe(&other),
            me,
            cluster: cluster.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(name: &str) -> Peer {
        Peer::Client { cluster: "test".into(), name: name.into() }
    }

    #[tokio::test]
    async fn a_client_list_admits_its_names_and_is_reloaded() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("clients");
        std::fs::write(&file, "# who may come in\n\n  app \nbackup job\n#ops\n").expect("it can be written");
        let list = ClientList::open(file.clone()).expect("it can be read");
        assert!(list.has(&client("app")) && list.has(&client("backup job")));
        for other in ["", "ops", "#ops", "App", "app "] {
            assert!(!list.has(&client(other)), "{other:?}");
        }
        assert!(!list.has(&Peer::Unauthenticated));
        assert!(list.has(&Peer::Member { cluster: "test".into(), id: 0 }));

        let refresh = || list.refresh().expect("it can be read");
        let settled = || (1..LOOKS).all(|_| !refresh()) && refresh();
        assert!(!refresh());
        std::fs::write(&file, "backup job\nops").expect("it can be written");
        let app = client("app");
        let removed = list.removed(&app);
        assert!(settled());
        removed.await;
        assert!(list.has(&client("ops")) && list.has(&client("backup job")));

        std::fs::remove_file(&file).expect("it is there");
        assert!(list.refresh().is_err());
        assert!(list.has(&client("ops")), "the old list still counts");
        std::fs::write(&file, "\u{feff}app\r\nops\r\n").expect("it can be written");
        assert!(settled());
        assert!(
            list.has(&app) && list.has(&client("ops")),
            "a byte order mark and line ends as Windows has them"
        );
        std::fs::write(&file, [0xff]).expect("it can be written");
        assert!(list.refresh().is_err());
        std::fs::write(&file, "").expect("it can be written");
        assert!(settled());
        assert!(!list.has(&client("ops")), "an empty list lets nobody in");
    }

    /// Rewriting the file in place, however slowly, disconnects no client that is on the list before and after.
    #[test]
    fn a_half_written_client_list_is_not_applied() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let file = folder.path().join("clients");
        let write = |text: &str| std::fs::write(&file, text).expect("it can be written");
        write("app\njob\n");
        let list = ClientList::open(file.clone()).expect("it can be read");
        let refresh = || list.refresh().expect("it can be read");
        for part in ["", "ap", "app\n", "app\njo", "app\njob\nop"] {
            write(part);
            for _ in 1..LOOKS {
                assert!(!refresh(), "{part:?}");
                assert!(list.has(&client("app")) && list.has(&client("job")), "{part:?}");
            }
        }
        write("app\njob\nops\n");
        let looks = (1..=10).find(|_| refresh()).expect("it counts");
        assert_eq!(looks, LOOKS);
        assert!(["app", "job", "ops"].iter().all(|name| list.has(&client(name))));
        // An incomplete file in between restarts the count.
        write("app\n");
        assert!((1..LOOKS).all(|_| !refresh()));
        write("app\njob\nops\n");
        assert!(!refresh());
        write("app\n");
        assert!((1..LOOKS).all(|_| !refresh()) && refresh());
        assert!(!list.has(&client("job")));
    }
}
