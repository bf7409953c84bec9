//! A replicated store inside an application: three members in one process, over TCP, or over QUIC with the argument
//! `quic`. An application depends only on `kv-core` with the feature `tcp` or `quic`. Run the example twice: the second
//! run finds the data of the first.

use kv_core::transport::Transport;
use kv_core::transport::quic::Quic;
use kv_core::transport::tcp::Tcp;
use kv_core::{Cluster, Node, tokio};
use std::{env, error::Error, fs, sync::Arc};

#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Box<dyn Error>> {
    let addresses = ["127.0.0.1:7400", "127.0.0.1:7401", "127.0.0.1:7402"];
    let cluster =
        (0..).zip(addresses).fold(Cluster::builder("embed"), |it, (id, at)| it.member(id, at)).build()?;
    let transport: Arc<dyn Transport> = match env::args().nth(1).as_deref() {
        None | Some("tcp") => Arc::new(Tcp::new()),
        Some("quic") => Arc::new(Quic::insecure()), // encrypted, but nobody proves who he is: see Quic::new
        Some(other) => return Err(format!("{other}: tcp or quic").into()),
    };
    let folder = env::temp_dir().join("kv-embed");
    fs::create_dir_all(&folder)?;
    let mut nodes = Vec::new();
    for id in 0..3 {
        let node = Node::builder(cluster.clone(), id).transport(transport.clone());
        nodes.push(node.data_dir(folder.join(format!("member-{id}"))).start().await?);
    }
    let client = nodes[2].client(); // works whichever member is primary
    println!("before: {:?}", client.get("greeting").await?);
    let written = client.put("greeting", "hello").await?;
    drop(nodes.remove(0)); // as kill -9 would: a backup takes over
    println!("written at revision {}, read back: {:?}", written.revision, client.get("greeting").await?);
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}
