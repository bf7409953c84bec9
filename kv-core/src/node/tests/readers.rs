//! Readers that hold memory of a running member.

use super::*;
use crate::node::Node;
use crate::node::applier::ENTRIES_PER_CHECKPOINT;
use crate::storage::simulated::Disk;

/// A checkpoint waits for readers that hold the memory of earlier checkpoints. Meanwhile, small entries are applied,
/// also once there are so many of them that a checkpoint is due.
#[tokio::test]
async fn readers_that_hold_memory_do_not_stop_small_entries() {
    const MIB: usize = 1 << 20;
    const MOST: Duration = Duration::from_secs(60);
    let options = Options { checkpoint_bytes: 8 * MIB, ..Options::default() };
    let node = Node::builder(Cluster::builder("test").member(0, "a:1").build().unwrap(), 0)
        .transport(Memory::new())
        .storage(Arc::new(Disk::new()))
        .options(options)
        .start()
        .await
        .unwrap();
    let client = node.client();
    let checkpoint = || node.status().checkpoint;
    let moved = async |before: Op| {
        let moved = async {
            while checkpoint() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(MOST, moved).await.expect("a checkpoint is made");
    };
    let mut views = Vec::new();
    for large in 0..2 {
        let before = checkpoint();
        for part in 0..9_u8 {
            client.put([large, part], vec![part; MIB]).deadline(MOST).await.unwrap();
            views.push(node.shared.state().unwrap().newest());
        }
        moved(before).await;
    }
    let before = checkpoint();
    // One after the other: puts at the same time would share entries.
    for _ in 0..ENTRIES_PER_CHECKPOINT + 10 {
        client.put("small", "value").deadline(MOST).await.unwrap();
    }
    assert_eq!(checkpoint(), before, "the readers do not hold enough memory");
    drop(views);
    // Each entry frees a part of what the readers held.
    for _ in 0..5000 {
        if checkpoint() != before {
            break;
        }
        client.put("small", "value").deadline(MOST).await.unwrap();
    }
    moved(before).await;
    node.shutdown().await;
}
