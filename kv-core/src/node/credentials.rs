//! Certificates and the list of clients: what may change while the node runs.

use super::StartError;
use super::shared::Shared;
use kv_transport::{Peer, Transport, TransportError};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// No list of clients is longer, in bytes.
const LARGEST_LIST: u64 = 16 << 20;

/// The clients that are let in: a file with a name on each line. Empty lines and those that begin with `#` say nothing.
#[derive(Debug)]
pub(super) struct ClientList {
    file: PathBuf,
    names: watch::Sender<Arc<BTreeSet<String>>>,
}

impl ClientList {
    /// Reads the file.
    pub(super) fn open(file: PathBuf) -> Result<Self, StartError> {
        match read(&file) {
            Ok(names) => Ok(Self { file, names: watch::Sender::new(Arc::new(names)) }),
            Err(source) => Err(StartError::ClientList { file, source }),
        }
    }

    /// Reads it again; says whether anything has changed. If it cannot be read, the names that were in it go on being let in.
    fn refresh(&self) -> io::Result<bool> {
        let names = read(&self.file)?;
        Ok(self.names.send_if_modified(|old| {
            let changed = **old != names;
            if changed {
                *old = Arc::new(names);
            }
            changed
        }))
    }

    /// Whether the peer is let in as a client. Members are not on the list.
    pub(super) fn has(&self, peer: &Peer) -> bool {
        is_on(&self.names.borrow(), peer)
    }

    /// Waits until the peer is not let in any more.
    pub(super) async fn removed(&self, peer: &Peer) {
        let mut names = self.names.subscribe();
        // An error would say that the list is gone, and with it the node.
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
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(lines.map(str::to_owned).collect())
}

/// Looks at the files, for as long as the node runs.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut told = (String::new(), String::new());
    loop {
        sleep(LOOK_EVERY).await;
        let looking = shared.clone();
        let looked = tokio::task::spawn_blocking(move || {
            (looking.transport.refresh(), looking.clients.as_ref().map(ClientList::refresh))
        });
        let Ok((certificates, clients)) = looked.await else { continue };
        tell_certificates(certificates, &mut told.0);
        if let Some(clients) = clients {
            tell_clients(clients, shared.clients.as_ref().map(|list| &*list.file), &mut told.1);
        }
    }
}

/// Tells of a failure once, or twice: while files are being replaced they may not fit one another for a moment.
fn tell_certificates(refreshed: Result<bool, TransportError>, told: &mut String) {
    match refreshed {
        Ok(changed) => {
            if changed {
                tracing::info!("new certificates: they are used from now on");
            }
            told.clear();
        }
        Err(error) => {
            let text = error.to_string();
            if *told != text {
                tracing::warn!(%error, "the new certificates cannot be used: the old ones still are");
                *told = text;
            }
        }
    }
}

fn tell_clients(refreshed: io::Result<bool>, file: Option<&Path>, told: &mut String) {
    let file = file.unwrap_or(Path::new("")).display();
    match refreshed {
        Ok(changed) => {
            if changed {
                tracing::info!(%file, "a new list of clients: it counts from now on");
            }
            told.clear();
        }
        Err(error) => {
            let text = error.to_string();
            if *told != text {
                tracing::warn!(%file, %error, "the list of clients cannot be read: the old one still counts");
                *told = text;
            }
        }
    }
}

/// Whether the transport's certificate is this member's: found out here, not by all the others.
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
    async fn a_list_lets_in_whom_it_names_and_is_read_again() {
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

        assert!(!list.refresh().expect("it can be read"));
        std::fs::write(&file, "backup job\nops").expect("it can be written");
        let app = client("app");
        let removed = list.removed(&app);
        assert!(list.refresh().expect("it can be read"));
        removed.await;
        assert!(list.has(&client("ops")) && list.has(&client("backup job")));

        std::fs::remove_file(&file).expect("it is there");
        assert!(list.refresh().is_err());
        assert!(list.has(&client("ops")), "the old list still counts");
        std::fs::write(&file, [0xff]).expect("it can be written");
        assert!(list.refresh().is_err());
        std::fs::write(&file, "").expect("it can be written");
        assert!(list.refresh().expect("it can be read"));
        assert!(!list.has(&client("ops")), "an empty list lets nobody in");
    }
}
