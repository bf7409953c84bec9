//! Your own transport: Unix sockets, for members on one machine. A transport opens and accepts byte streams, one for
//! each lane. The library does everything else: identities, frames, checksums, limits. The conformance suite at the end
//! checks that the transport does what every transport must do: `cargo test -p kv-examples --example custom_transport`.

use async_trait::async_trait;
use kv_core::transport::{Connection, Lane, Listener, Peer, Transport, TransportError, preface};
use kv_core::{Cluster, Node, tokio};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{env, fs, io};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// The most streams that have not sent their lane yet. More wait in the system's queue.
const HALF_OPEN: usize = 128;

/// An address is the path of a socket. A `*` in it is replaced, so that the path is new.
#[derive(Clone, Copy, Debug)]
struct Unix;

#[async_trait]
impl Transport for Unix {
    fn check_address(&self, address: &str) -> Result<(), TransportError> {
        let reason = "expected the path of a socket";
        if address.is_empty() { Err(TransportError::address(address, reason)) } else { Ok(()) }
    }

    async fn bind(&self, address: &str) -> Result<Box<dyn Listener>, TransportError> {
        self.check_address(address)?;
        match listen(address).await {
            Ok(sockets) => Ok(Box::new(sockets)),
            Err(error) => Err(TransportError::bind(address, error)),
        }
    }

    async fn connect(&self, address: &str, lane: Lane) -> Result<Connection, TransportError> {
        self.check_address(address)?;
        let open = async {
            let mut stream = UnixStream::connect(address).await?;
            stream.write_all(&preface::encode(lane)).await?;
            Ok(connection(stream, lane, address))
        };
        open.await.map_err(|error| TransportError::connect(address, error))
    }
}

async fn listen(address: &str) -> io::Result<Sockets> {
    static FRESH: AtomicUsize = AtomicUsize::new(0);
    let fresh = format!("{}-{}", std::process::id(), FRESH.fetch_add(1, Ordering::Relaxed));
    let path = PathBuf::from(address.replace('*', &fresh));
    if path.exists() && UnixStream::connect(&path).await.is_err() {
        // Left behind by a process that was killed.
        fs::remove_file(&path)?;
    }
    Ok(Sockets { listener: UnixListener::bind(&path)?, path, opening: JoinSet::new() })
}

fn connection(stream: UnixStream, lane: Lane, remote: &str) -> Connection {
    let (reader, writer) = stream.into_split();
    let remote = remote.to_owned();
    // The file system decides who may open the socket. A peer is not authenticated.
    Connection {
        lane,
        peer: Peer::Unauthenticated,
        remote,
        reader: Box::new(reader),
        writer: Box::new(writer),
    }
}

#[derive(Debug)]
struct Sockets {
    listener: UnixListener,
    path: PathBuf,
    /// Reads the preface on a task, so that other callers do not wait for it.
    opening: JoinSet<io::Result<Connection>>,
}

#[async_trait]
impl Listener for Sockets {
    async fn accept(&mut self) -> Result<Connection, TransportError> {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.opening.len() < HALF_OPEN => {
                    // A failure concerns one caller's socket, or is a temporary shortage.
                    let Ok((stream, _)) = accepted else { continue };
                    self.opening.spawn(async { timeout(Duration::from_secs(3), greet(stream)).await? });
                }
                Some(opened) = self.opening.join_next() => {
                    if let Ok(Ok(connection)) = opened {
                        return Ok(connection);
                    }
                }
            }
        }
    }

    fn local_address(&self) -> String {
        self.path.display().to_string()
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        // The next listener removes it too.
        let _ = fs::remove_file(&self.path);
    }
}

/// Reads the lane that the other end requests.
async fn greet(mut stream: UnixStream) -> io::Result<Connection> {
    let mut bytes = [0; preface::BYTES];
    stream.read_exact(&mut bytes).await?;
    let lane = preface::decode(bytes).map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
    Ok(connection(stream, lane, "a process on this machine"))
}

/// Three members of a cluster. Using the new transport takes one value.
#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::temp_dir().join("kv-custom-transport");
    fs::create_dir_all(&folder)?;
    let path = |id: u8| folder.join(format!("member-{id}.socket")).display().to_string();
    let cluster =
        Cluster::builder("unix").member(0, path(0)).member(1, path(1)).member(2, path(2)).build()?;
    let mut nodes = Vec::new();
    for id in 0..3 {
        nodes.push(start(&cluster, id, &folder).await?);
    }
    let client = nodes[2].client();
    client.put("greeting", "hello").await?;
    drop(nodes.remove(0)); // as kill -9 would
    println!("over Unix sockets, after a failover: {:?}", client.get("greeting").await?);
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}

async fn start(cluster: &Cluster, id: u8, folder: &Path) -> Result<Node, Box<dyn Error>> {
    let data = folder.join(format!("data-{id}"));
    Ok(Node::builder(cluster.clone(), id).transport(Unix).data_dir(data).start().await?)
}

#[cfg(test)]
fn subject() -> kv_transport::conformance::Subject {
    kv_transport::conformance::Subject::new(Unix, &env::temp_dir().join("kv-*.socket").display().to_string())
}

#[cfg(test)]
kv_transport::conformance!(subject());
