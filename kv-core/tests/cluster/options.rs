//! Options that differ between members, and between two lives of one: refused by name, or harmless.

use super::harness::{Harness, Net, eventually, options};
use kv_core::config::{Cluster, Options, Role};
use std::time::Duration;

type Change = fn(&mut Options);

/// Every option that is fixed when the cluster forms, lowered and raised.
const CHANGES: &[(&str, Change)] = &[
    ("max_value_bytes", |options| options.max_value_bytes = 16 << 10),
    ("max_value_bytes", |options| options.max_value_bytes += 1),
    ("max_key_bytes", |options| options.max_key_bytes = 1),
    ("max_key_bytes", |options| options.max_key_bytes += 1),
    ("max_sessions", |options| options.max_sessions = 1),
    ("max_sessions", |options| options.max_sessions += 1),
    ("session_ttl", |options| options.session_ttl = Duration::from_secs(1)),
    ("session_ttl", |options| options.session_ttl += Duration::from_secs(1)),
    ("max_in_flight_per_session", |options| options.max_in_flight_per_session = 1),
    ("max_in_flight_per_session", |options| options.max_in_flight_per_session += 1),
    ("max_leases", |options| options.max_leases = 0),
    ("max_leases", |options| options.max_leases += 1),
    ("history_revisions", |options| options.history_revisions = 0),
    ("history_revisions", |options| options.history_revisions += 1),
    ("history_bytes", |options| options.history_bytes = 0),
    ("history_bytes", |options| options.history_bytes += 1),
    ("pipeline_depth", |options| options.pipeline_depth -= 1),
    ("pipeline_depth", |options| options.pipeline_depth += 1),
    ("read_lease", |options| options.read_lease = options.failure_timeout_max),
];

async fn refused_by_name(harness: &mut Harness) {
    let formed_with = harness.options.clone();
    for (name, change) in CHANGES {
        harness.options = formed_with.clone();
        change(&mut harness.options);
        for member in 0..harness.nodes.len() {
            let started = harness.try_start(member).await;
            let error =
                started.expect_err(&format!("member {member} started with another {name}")).to_string();
            assert!(error.contains(name) && error.contains("set it back"), "{error}");
        }
    }
    harness.options = formed_with;
}

/// A lowered limit would make acknowledged requests invalid when the log is applied again; a raised one would run
/// refused requests.
pub(crate) async fn f6_fixed_options_do_not_change_between_restarts(net: Net) {
    let value = "v".repeat(32 << 10);
    let mut options = options();
    options.checkpoint_bytes = 128 << 10;
    let mut harness = Harness::with(net, &[Role::Data, Role::Data, Role::Witness], options).await;
    harness.client().await.put("precious", value.clone()).await.expect("a put");
    for member in 0..3 {
        harness.kill(member);
    }
    refused_by_name(&mut harness).await;

    harness.start_all().await;
    let client = harness.client().await;
    let found = client.get("precious").await.expect("a read").expect("it was acknowledged");
    assert_eq!(found.value, value.as_bytes());
    eventually("a checkpoint", async || {
        client.put("filler", value.clone()).await.expect("a put");
        harness.status(0).checkpoint.get() > 0 && harness.status(1).checkpoint.get() > 0
    })
    .await;
    drop(client);
    for member in 0..3 {
        harness.kill(member);
    }
    refused_by_name(&mut harness).await;
    harness.start_all().await;
    let found = harness.client().await.get("precious").await.expect("a read").expect("it was acknowledged");
    assert_eq!(found.value, value.as_bytes());
}

/// Batches of the primary are larger than the journal files of the others.
pub(crate) async fn d9_an_entry_larger_than_a_journal_file_is_stored(net: Net) {
    let mut harness = Harness::new(net, &[Role::Data, Role::Data, Role::Witness], options());
    let mut shared = options();
    (shared.max_value_bytes, shared.pipeline_depth) = (64 << 10, 1);
    for member in 0..3 {
        harness.options = shared.clone();
        if member == 0 {
            (harness.options.max_batch_bytes, harness.options.segment_bytes) = (8 << 20, 16 << 20);
        } else {
            (harness.options.max_batch_bytes, harness.options.segment_bytes) = (64 << 10, 220 << 10);
        }
        harness.start(member).await;
    }
    harness.start_all().await;
    assert_eq!(harness.primary().await, 0, "it makes the first entries");
    let client = harness.client().await;
    let puts = (0..40).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { client.put(format!("key{n}"), "v".repeat(60 << 10)).await.expect("a put") })
    });
    for put in puts.collect::<Vec<_>>() {
        put.await.expect("no panic");
    }
    assert!(harness.status(0).head.get() < 20, "entries of several puts: {:?}", harness.status(0));
    harness.level().await;

    // They are read again, whatever size journal files have from now on.
    for member in 0..3 {
        harness.kill(member);
    }
    harness.options = shared;
    harness.start_all().await;
    for n in 0..40 {
        let found = harness.client().await.get(format!("key{n}")).await.expect("a read");
        assert_eq!(found.expect("it was acknowledged").value.len(), 60 << 10);
    }
}

/// The same members, the last of them at another address.
fn moved(net: &Net, cluster: &Cluster) -> Cluster {
    let last = cluster.members().last().expect("there are members").id;
    let mut builder = Cluster::builder(cluster.name());
    for member in cluster.members() {
        let address = if member.id == last { net.address() } else { member.address.clone() };
        net.name_member(&address, member.id.get());
        builder = builder.with(member.id.get(), address, member.role);
    }
    builder.build().expect("the configuration is valid")
}

/// Addresses are not identity: after one changes in the configurations of all members, or of some, all start, and
/// members that see a difference log it.
pub(crate) async fn f_conf_10_a_member_whose_address_has_changed_starts(net: Net) {
    #[cfg(feature = "certs")]
    super::logs::keep();
    let mut harness = Harness::three(net).await;
    harness.client().await.put("precious", "data").await.expect("a put");
    for everywhere in [true, false] {
        for member in 0..3 {
            harness.kill(member);
        }
        let (before, after) = (harness.cluster.clone(), moved(&harness.net, &harness.cluster));
        for member in 0..3 {
            harness.cluster = if everywhere || member == 2 { after.clone() } else { before.clone() };
            harness.start(member).await;
        }
        harness.cluster = after;
        if everywhere {
            harness.level_enough().await;
        } else {
            // The others cannot reach it, but they serve.
            harness.primary().await;
        }
        let found = harness.client().await.get("precious").await.expect("a read").expect("it is there");
        assert_eq!(&found.value[..], b"data");
    }
    #[cfg(feature = "certs")]
    eventually("the log contains both addresses", async || {
        super::logs::contain(&["WARN", "a peer has another address for a member", &harness.address(2)])
    })
    .await;
}
