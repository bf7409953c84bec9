//! The member list changes while clients write.

use super::harness::{Harness, Net, eventually, id, options};
use kv_core::client::{Client, MemberChange};
use kv_core::config::{Cluster, Role};
use kv_core::error::{MembershipError, RefusalKind};
use kv_core::ids::Epoch;
use kv_core::message::MembersAnswer;
use kv_core::node::{MemberState, Node};
use std::time::Duration;

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

/// Changes the list. Returns what the members say of it then.
async fn change(harness: &Harness, client: &Client, change: MemberChange) -> MembersAnswer {
    let before = newest(harness).await.configuration.epoch;
    eventually("the newcomer has caught up, and the change is done", async || {
        match client.change_members(change.clone()).await {
            Ok(list) => {
                assert!(list.settled);
                true
            }
            Err(MembershipError::Refused { kind: RefusalKind::NotReady, .. }) => false,
            Err(error) => panic!("{error}"),
        }
    })
    .await;
    let list = newest(harness).await;
    assert_eq!(list.configuration.epoch, before.next());
    list
}

/// Starts a new member as a standby.
async fn join(harness: &mut Harness, list: &MembersAnswer) {
    let member = harness.nodes.len();
    let cluster = list.configuration.cluster("test").expect("a valid list");
    let address = cluster.member(id(member)).expect("it is listed").address.clone();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let others: Vec<_> = cluster.peers(id(member)).map(|peer| peer.address.clone()).collect();
    let node = Node::added("test", id(member).get())
        .transport(harness.net.transport(&address))
        .options(harness.options.clone())
        .data_dir(dir.path())
        .join(others)
        .start()
        .await
        .expect("it starts");
    harness.dirs.push(dir);
    harness.nodes.push(Some(node));
}

/// Each member is replaced by a new one with an empty disk, the primary too. Nothing is lost, and who was removed says
/// so.
pub(crate) async fn each_of_three_members_is_replaced(net: Net) {
    let mut options = options();
    options.client_idle_timeout = Duration::from_secs(1);
    let mut harness = Harness::with(net, &[Role::Data; 3], options).await;
    // One client for all: in the end it knows none of the members of which it was told first.
    let client = harness.client().await;
    // This one makes no call in between.
    let idle = harness.client().await;
    write(&client, 0).await;
    for old in 0..3 {
        let new = harness.nodes.len();
        let number = u8::try_from(new).expect("few");
        let address = harness.net.address();
        harness.net.name_member(&address, number);
        let list =
            change(&harness, &client, MemberChange::Add { id: id(new), address, role: Role::Data }).await;
        join(&mut harness, &list).await;
        eventually("it follows the primary", async || harness.status(new).state == MemberState::Backup).await;
        let list = change(&harness, &client, MemberChange::Replace { old: id(old), new: id(new) }).await;
        assert!(!list.configuration.members.contains_key(&id(old)));
        assert_eq!(list.configuration.epoch, Epoch::new(2 * (u32::try_from(old).expect("few") + 1)));
        let removed = harness.nodes[old].take().expect("it runs");
        let why = removed.stopped().await;
        assert!(why.to_string().contains("was removed"), "{why}");
        write(&client, new).await;
        let list = client.known_ids();
        eventually("an idle client learns of the list", async || idle.known_ids() == list).await;
    }
    idle.put("idle", "value").await.expect("the cluster serves");
    let members: Vec<_> = client.members().await.expect("a member answers").members;
    assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [id(3), id(4), id(5)]);
}

/// A member is started at another address, and then the list says so. Nobody can be sent to where nobody is.
pub(crate) async fn a_member_moves_to_another_address(net: Net) {
    let mut harness = Harness::three(net).await;
    let client = harness.client().await;
    let address = harness.net.address();
    harness.net.name_member(&address, 2);
    let moved = MemberChange::Address { id: id(2), address: address.clone() };
    let refused = client.change_members(moved.clone()).await;
    assert!(
        matches!(&refused, Err(MembershipError::Refused { kind: RefusalKind::NotReady, reason }) if reason.contains(&address)),
        "{refused:?}"
    );
    harness.kill(2);
    let mut cluster = Cluster::builder("test");
    for member in 0..3 {
        let there = if member == 2 { address.clone() } else { harness.address(member) };
        cluster = cluster.with(id(member).get(), there, Role::Data);
    }
    harness.cluster = cluster.build().expect("a valid list");
    harness.start(2).await;
    let list = change(&harness, &client, moved).await;
    assert_eq!(list.configuration.members[&id(2)].address, address);
    // The others call it there, and so does the client.
    let primary = harness.primary().await;
    harness.kill((0..2).find(|member| *member != primary).expect("one of two"));
    write(&client, 0).await;
    assert!(client.get("0/1").local().member(id(2)).await.is_ok());
}

/// Writes some keys, and reads all that were written before.
async fn write(client: &Client, stage: usize) {
    for key in 0..50 {
        client.put(format!("{stage}/{key}"), "value").await.expect("the cluster serves");
    }
    for stage in (0..=stage).filter(|stage| *stage == 0 || *stage > 2) {
        assert_eq!(client.scan(format!("{stage}/")).await.expect("the cluster serves").len(), 50);
    }
}
