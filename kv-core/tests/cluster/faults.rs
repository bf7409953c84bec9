//! Networks that lose, cut and stall.

use super::harness::{Harness, Net, eventually, patient_options};
use super::load::Load;
use kv_core::config::Role;
use kv_core::node::MemberState;
use kv_core::transport::{Direction, Fault, Faults, Faulty, Lane, Scope};
use kv_core::wire;
use std::sync::Arc;
use std::time::Duration;

const WRITERS: usize = 4;

/// F-net-7, F-net-8: omission faults between client and members. The client retries, and nothing runs twice.
pub(crate) async fn a_lossy_network_to_clients_neither_loses_nor_duplicates(net: Net) {
    let harness = Harness::three(net).await;
    let faults = Faults::new(7);
    faults.set(Scope::all().lane(Lane::Client), Fault::new().loss(0.2).duplication(0.1));
    let transport =
        Faulty::new(harness.net.transport("client"), faults.clone(), wire::framing()).spare_first();
    let client = harness.client_over(Arc::new(transport)).await;
    let load = Load::start(&client, WRITERS);
    load.progress(60).await;
    faults.heal();
    load.progress(20).await;
    let lost = [Direction::Outgoing, Direction::Incoming].map(|to| faults.counts(Lane::Client, to).lost);
    assert!(lost.iter().all(|lost| *lost > 0), "requests and replies were lost: {lost:?}");
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
}

/// F-net-8.
pub(crate) async fn a_lossy_network_between_members_is_survived(net: Net) {
    let harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    for faults in &harness.faults {
        for lane in [Lane::Control, Lane::Log, Lane::Bulk] {
            let fault = Fault::new().loss(0.1).duplication(0.1).reordering(0.1, Duration::from_millis(5));
            faults.set(Scope::all().lane(lane).outgoing(), fault);
        }
    }
    load.progress(200).await;
    harness.faults.iter().for_each(Faults::heal);
    load.progress(50).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-net-2, F-net-5: the isolated primary stops serving, another member serves, and the old primary returns as a
/// backup.
pub(crate) async fn an_isolated_primary_is_replaced_and_acknowledges_nothing(net: Net) {
    let harness = Harness::three(net).await;
    let load = Load::start(&harness.client().await, WRITERS);
    load.progress(50).await;
    let old = harness.primary().await;
    harness.faults[old].cut(Scope::all());
    eventually("another primary", async || {
        (0..3).any(|member| member != old && harness.status(member).state == MemberState::Primary)
    })
    .await;
    eventually("the old one gives up", async || harness.status(old).state != MemberState::Primary).await;
    load.progress(50).await;
    harness.faults[old].heal();
    harness.level_again(old).await;
    assert_eq!(load.check(&harness).await, 0, "within the deadline every outcome is known");
    harness.level().await;
}

/// F-net-1, F-net-5: no view changes while a backup is away, nor when it returns.
pub(crate) async fn an_isolated_backup_disturbs_nobody(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], patient_options()).await;
    let load = Load::start(&harness.client().await, WRITERS);
    load.progress(50).await;
    let (primary, backup) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    harness.faults[backup].cut(Scope::all());
    eventually("the backup misses its primary", async || harness.status(backup).primary.is_none()).await;
    load.progress(50).await;
    harness.faults[backup].heal();
    harness.level_again(backup).await;
    assert_eq!(harness.status(primary).view, view);
    assert_eq!(harness.status(backup).view, view);
    load.check(&harness).await;
}

/// A peer stops reading its Log lane. The others continue, and the peer recovers.
pub(crate) async fn f_net_15_a_peer_that_does_not_read_affects_only_itself(net: Net) {
    let harness = Harness::with(net, &[Role::Data; 3], patient_options()).await;
    let load = Load::start(&harness.client().await, WRITERS);
    load.progress(50).await;
    let (primary, backup) = (harness.primary().await, harness.backup().await);
    let view = harness.status(primary).view;
    let clogged = [Lane::Log, Lane::Bulk].map(|lane| Scope::all().lane(lane).incoming());
    for scope in &clogged {
        harness.faults[backup].set(scope.clone(), Fault::new().clog());
    }
    load.progress(300).await;
    assert_eq!(harness.status(primary).view, view, "signs of life are on a lane of their own");
    clogged.iter().for_each(|scope| harness.faults[backup].clear(scope));
    load.check(&harness).await;
    harness.level().await;
}

impl Harness {
    /// Waits until a member that was away is a backup again.
    async fn level_again(&self, member: usize) {
        eventually("it is a backup again", async || {
            let status = self.status(member);
            status.state == MemberState::Backup && status.primary.is_some()
        })
        .await;
    }
}
