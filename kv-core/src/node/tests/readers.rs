//! Readers that hold memory of a running member.

use super::*;
use crate::error::WriteError;
use crate::node::Node;

/// A checkpoint waits for readers that hold the memory of earlier checkpoints. Meanwhile, entries that take little memory
/// are applied, also once a checkpoint is due because of the bytes that were applied.
#[tokio::test]
async fn readers_that_hold_memory_do_not_stop_small_entries() {
    const MIB: usize = 1 << 20;
    const MOST: Duration = Duration::from_secs(60);
    let dir = tempfile::tempdir().unwrap();
    let options = Options { checkpoint_bytes: 4 * MIB, ..Options::default() };
    let node = Node::builder(Cluster::builder("test").member(0, "a:1").build().unwrap(), 0)
        .transport(Memory::new())
        .data_dir(dir.path())
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
        for part in 0..5_u8 {
            client.put([large, part], vec![part; MIB]).deadline(MOST).await.unwrap();
            views.push(node.shared.state().unwrap().newest());
        }
        moved(before).await;
    }
    let before = checkpoint();
    for _ in 0..40 {
        let refused = client.put([0, 0], vec![0; MIB]).if_absent().deadline(MOST).await;
        assert!(matches!(refused, Err(WriteError::ConditionFailed { .. })), "{refused:?}");
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
