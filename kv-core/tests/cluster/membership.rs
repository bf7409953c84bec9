//! The member list changes while clients write.

use super::harness::{Harness, Net, eventually, id};
use kv_core::client::Client;
use kv_core::config::{Change, DiskId, Role};
use kv_core::ids::Epoch;
use kv_core::message::{ChangeCall, MembersAnswer};
use kv_core::node::{MemberState, Node};

/// What the members of the newest epoch say of it.
async fn newest(harness: &Harness) -> MembersAnswer {
    let mut found: Option<MembersAnswer> = None;
    for member in (0..harness.nodes.len()).filter(|member| harness.nodes[*member].is_some()) {
        // Each is asked by a client of its own, which knows it.
        let client = harness.node(member).client();
        if let Ok(answer) = client.members_at(id(member)).await {
            let age = |answer: &MembersAnswer| (answer.configuration.epoch, answer.settled);
            if found.as_ref().is_none_or(|known| age(known) < age(&answer)) {
                found = Some(answer);
            }
        }
    }
    found.expect("a member answers")
}

/// Changes the list, and waits until that is done. Returns the list.
async fn change(harness: &Harness, change: Change) -> MembersAnswer {
    let ends = newest(harness).await.configuration.epoch;
    let nonce = u128::from(ends.get()) + 77;
    eventually("the change is ordered", async || {
        let primary = harness.primary().await;
        let client: Client = harness.node(primary).client();
        let call = ChangeCall { ends, nonce, change: change.clone() };
        match client.change_at(id(primary), call).await {
            Ok(Ok(())) => true,
            // The newcomer may not have caught up.
            Ok(Err(_)) | Err(_) => false,
        }
    })
    .await;
    eventually("the change is done", async || {
        let list = newest(harness).await;
        list.configuration.epoch == ends.next() && list.settled
    })
    .await;
    let list = newest(harness).await;
    assert_eq!(list.configuration.nonce, nonce);
    list
}

/// Starts a new member as a standby.
async fn join(harness: &mut Harness, list: &MembersAnswer) {
    let member = harness.nodes.len();
    let cluster = list.configuration.cluster("test").expect("a valid list");
    let address = cluster.member(id(member)).expect("it is listed").address.clone();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let node = Node::builder(cluster, id(member).get())
        .transport(harness.net.transport(&address))
        .options(harness.options.clone())
        .data_dir(dir.path())
        .join(list.clone())
        .start()
        .await
        .expect("it starts");
    harness.dirs.push(dir);
    harness.nodes.push(Some(node));
}

/// Each member is replaced by a new one with an empty disk, the primary too. Nothing is lost, and who was removed says
/// so.
pub(crate) async fn each_of_three_members_is_replaced(net: Net) {
    let mut harness = Harness::three(net).await;
    write(&harness, 0).await;
    for old in 0..3 {
        let new = harness.nodes.len();
        let number = u8::try_from(new).expect("few");
        let address = harness.net.address();
        harness.net.name_member(&address, number);
        let list = change(&harness, Change::Add { id: id(new), address, role: Role::Data }).await;
        join(&mut harness, &list).await;
        eventually("it follows the primary", async || harness.status(new).state == MemberState::Backup).await;
        let list = change(&harness, Change::Replace { old: id(old), new: id(new), disk: DiskId(0) }).await;
        assert!(!list.configuration.members.contains_key(&id(old)));
        assert_eq!(list.configuration.epoch, Epoch::new(2 * (u32::try_from(old).expect("few") + 1)));
        let removed = harness.nodes[old].take().expect("it runs");
        let why = removed.stopped().await;
        assert!(why.to_string().contains("was removed"), "{why}");
        write(&harness, new).await;
    }
}

/// Writes some keys, and reads all that were written before.
async fn write(harness: &Harness, stage: usize) {
    let primary = harness.primary().await;
    let client = harness.node(primary).client();
    for key in 0..50 {
        client.put(format!("{stage}/{key}"), "value").await.expect("the cluster serves");
    }
    for stage in (0..=stage).filter(|stage| *stage == 0 || *stage > 2) {
        assert_eq!(client.scan(format!("{stage}/")).await.expect("the cluster serves").len(), 50);
    }
}
