//! A configuration that all processes share and follow live: each reads it once, and then watches it. Changes arrive in
//! order, none is missed and none arrives twice, even if the member that delivers them dies.

use kv_core::client::Update;
use kv_core::{Client, tokio};
use kv_examples::{Failure, Three};
use std::collections::BTreeMap;

/// A process of the application: keeps a copy until it is stopped.
async fn follow(client: Client) -> Result<(BTreeMap<String, String>, usize), Failure> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut config = BTreeMap::new();
    let mut changes = 0;
    let mut updates = client.watch("config/").follow();
    while let Some(update) = updates.next().await {
        match update? {
            Update::Present { key, record } => _ = config.insert(text(&key), text(&record.value)),
            Update::UpToDate { revision } => println!("the configuration as of {revision}: {config:?}"),
            Update::Event(event) => {
                changes += 1;
                match event.record {
                    Some(record) => config.insert(text(&event.key), text(&record.value)),
                    None => config.remove(&text(&event.key)),
                };
            }
            _ => {}
        }
        if config.contains_key("config/stop") {
            break;
        }
    }
    Ok((config, changes))
}

#[tokio::main(crate = "kv_core::tokio")]
async fn main() -> Result<(), Failure> {
    let mut three = Three::start("live-config").await?;
    let client = three.client();
    client.put("config/colour", "blue").await?;
    let follower = tokio::spawn(follow(client.clone()));
    for level in 0..20 {
        client.put("config/level", level.to_string()).await?;
        if level == 10 {
            three.kill_one();
        }
    }
    client.delete("config/colour").await?;
    client.put("config/stop", "now").await?;
    let (config, changes) = follower.await??;
    println!("after {changes} changes: {config:?}");
    assert_eq!(config.get("config/level").map(String::as_str), Some("19"));
    assert!(!config.contains_key("config/colour"));
    Ok(())
}
