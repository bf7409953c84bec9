//! The server: it accepts connections.

use super::RespOptions;
use super::door::Door;
use super::primary;
use super::session::Session;
use kv_core::Client;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// How long the server waits after it could not accept a connection, for example because too many files are open.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves clients of Redis on `listener`, with calls of `client`. Runs until the future is dropped, which also closes
/// all connections. Anyone who can reach the listener can read and write everything.
///
/// # Errors
/// If the address of the listener cannot be determined. Errors of single connections are logged at the level `debug`.
///
/// # Cancel safety
/// Dropping the future closes the connections. A command that runs at this time may have been applied, or may still be
/// applied.
pub async fn serve(listener: TcpListener, client: Client, options: RespOptions) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "serving clients of Redis");
    let door = Arc::new(Door::new(client, options));
    let mut sessions = JoinSet::new();
    let watcher = primary::follow(&door);
    tokio::pin!(watcher);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => accept(&door, stream, &mut sessions),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(PAUSE).await;
                }
            },
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection of a client has ended by a fault of this program");
                }
            }
            () = &mut watcher => {}
        }
    }
}

fn accept(door: &Arc<Door>, mut stream: TcpStream, sessions: &mut JoinSet<()>) {
    let (Ok(peer), Ok(local)) = (stream.peer_addr(), stream.local_addr()) else { return };
    if door.registry.len() >= door.options.max_connections {
        // The socket's buffer is empty, so this does not wait; the client is not owed more than an attempt.
        sessions.spawn(async move {
            let message = b"-ERR max number of clients reached\r\n";
            let _ = tokio::time::timeout(PAUSE, stream.write_all(message)).await;
        });
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let entry = door.registry.add(peer, local);
    let door = door.clone();
    sessions.spawn(async move {
        let id = entry.id;
        // Also if the task is cancelled or panics.
        let _guard = Removal { door: door.clone(), id };
        if let Err(error) = Session::new(door, entry).run(stream).await {
            tracing::debug!(%peer, %error, "the connection of a client has failed");
        }
    });
}

/// Removes a connection from the registry when it ends.
struct Removal {
    door: Arc<Door>,
    id: u64,
}

impl Drop for Removal {
    fn drop(&mut self) {
        self.door.registry.remove(self.id);
    }
}
