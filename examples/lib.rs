//! Examples of `kv-core`, one file each. Run one with `cargo run -p kv-examples --example NAME`. Some take the network
//! of their cluster as an argument: `memory` (the default), `tcp` or `quic`.

use kv_core::transport::quic::Quic;
use kv_core::transport::tcp::Tcp;
use kv_core::transport::{Memory, Transport};
use kv_core::{Client, Cluster, Node};
use std::error::Error;
use std::net::{TcpListener, UdpSocket};
use std::sync::Arc;
use std::{env, fs, process};

/// The error of an example.
pub type Failure = Box<dyn Error + Send + Sync>;

/// Three members in this process, in a temporary folder that is deleted with them. An application would run one member
/// in each process: see `embed`.
#[derive(Debug)]
pub struct Three {
    nodes: Vec<Node>,
    folder: std::path::PathBuf,
}

impl Three {
    /// Starts the members on the network that the argument names.
    ///
    /// # Errors
    /// If a member cannot start.
    pub async fn start(name: &str) -> Result<Self, Failure> {
        let wish = env::args().nth(1).unwrap_or_else(|| "memory".to_owned());
        let transport: Arc<dyn Transport> = match wish.as_str() {
            "memory" => Arc::new(Memory::new()),
            "tcp" => Arc::new(Tcp::new()),
            "quic" => Arc::new(Quic::insecure()), // encrypted, but nobody proves who he is: see Quic::new
            other => return Err(format!("{other}: memory, tcp or quic").into()),
        };
        let mut cluster = Cluster::builder(name);
        for id in 0..3 {
            cluster = cluster.member(id, free_address()?);
        }
        let cluster = cluster.build()?;
        let folder = env::temp_dir().join(format!("kv-{name}-{}", process::id()));
        fs::create_dir_all(&folder)?;
        let mut three = Self { nodes: Vec::new(), folder };
        for id in 0..3 {
            let data = three.folder.join(id.to_string());
            let node = Node::builder(cluster.clone(), id).transport(transport.clone()).data_dir(data);
            three.nodes.push(node.start().await?);
        }
        for node in &three.nodes {
            node.wait_formed().await?;
        }
        Ok(three)
    }

    /// A client of the first running member.
    ///
    /// # Panics
    /// If all have been killed.
    #[must_use]
    pub fn client(&self) -> Client {
        self.nodes.last().expect("a member runs").client()
    }

    /// Kills the first member, as `kill -9` would.
    pub fn kill_one(&mut self) {
        drop(self.nodes.remove(0));
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        self.nodes.clear();
        // If this fails, the remains are in the system's temporary folder.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A local address on which nothing listens at the moment.
fn free_address() -> Result<String, Failure> {
    loop {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        if UdpSocket::bind(address).is_ok() {
            return Ok(address.to_string());
        }
    }
}
