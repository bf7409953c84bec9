//! State transfer: members that were away for long, and members whose state was damaged (rules T1 to T9).

use super::harness::{Harness, Net, eventually, id, options, within};
use super::load::Load;
use super::storage::Work;
use kv_core::config::Role;
use kv_core::ids::Op;
use kv_core::transport::Scope;
use kv_core::{Client, Options};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Small files and no budget: a short absence counts as a long one.
fn tight() -> Options {
    let mut options = options();
    options.max_batch_bytes = 64 << 10;
    options.max_key_bytes = 1 << 10;
    options.max_value_bytes = 64 << 10;
    options.segment_bytes = 256 << 10;
    options.checkpoint_bytes = 256 << 10;
    options.journal_retention_bytes = 0;
    options
}

/// Writes `count` values of `bytes` each, some at a time.
async fn fill(client: &Client, count: usize, bytes: usize) {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(64) {
        let puts =
            some.iter().map(|n| client.put(format!("fill/{n}"), vec![filling(*n); bytes]).into_future());
        for put in futures::future::join_all(puts).await {
            put.expect("the cluster serves");
        }
    }
}

/// Bytes of the files of a directory whose names begin so.
fn bytes_of(dir: &Path, prefix: &str) -> u64 {
    let entries = std::fs::read_dir(dir).expect("it is there").filter_map(Result::ok);
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Waits until a member has applied about as much as the primary has committed.
async fn caught_up(harness: &Harness, member: usize) {
    // On a busy machine a state may take many seconds.
    within(Duration::from_secs(60), "caught up", async || {
        let commit = harness.status(harness.primary().await).commit;
        let status = harness.status(member);
        status.primary.is_some() && status.applied.get() > 0 && status.applied.get() + 64 >= commit.get()
    })
    .await;
}

/// T1, T5, T8: the journals no longer contain the entries that the member needs. It receives the state while writes
/// continue, and counts for the quorum afterwards. The history is part of the state (rule R3).
pub(crate) async fn t8_a_member_that_was_away_for_long_receives_the_state_while_writes_go_on(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data; 3], tight()).await;
    let client = harness.client().await;
    let load = Load::start(&client, 2);
    load.progress(20).await;
    let away = harness.backup().await;
    harness.kill(away);
    let old = client.put("past", "old").await.expect("the cluster serves").revision;
    client.put("past", "new").await.expect("the cluster serves");
    fill(&client, 1000, 8 << 10).await;
    let primary = harness.primary().await;
    let journal = bytes_of(harness.dirs[primary].path(), "journal-");
    assert!(journal < 4 << 20, "the journal still holds {journal} bytes of 8 MB");
    harness.start(away).await;
    load.progress(50).await;
    caught_up(&harness, away).await;
    assert!(bytes_of(harness.dirs[away].path(), "state") > 4 << 20);
    let (received, sent) = (harness.node(away).metrics(), harness.node(primary).metrics());
    assert_eq!((received.state_transfers > 0, sent.state_transfers), (true, 0));
    assert_eq!((received.repairs, sent.repairs), (0, 0), "nothing was damaged");
    assert!(received.state_bytes > 4 << 20, "{} bytes", received.state_bytes);
    assert!(sent.checkpoints.latencies().count() > 0, "there were many bytes to write");
    // Of pieces that were not needed in the end nothing stays, once the own checkpoint has come as far.
    fill(&client, 200, 8 << 10).await;
    let pieces = async || bytes_of(harness.dirs[away].path(), "state.transfer");
    eventually("nothing is left of pieces", async || pieces().await == 0).await;
    let past = harness.node(away).client().get("past").at(old).at_least(old).await;
    assert_eq!(past.expect("it is kept").expect("it was there").value, "old");
    // It is a full member: with it, the cluster continues without the one that stayed.
    let other = (0..3).find(|member| *member != away && *member != primary).expect("there are three");
    harness.kill(other);
    load.progress(50).await;
    harness.start(other).await;
    load.check(&harness).await;
}

/// T6: the receiver is killed again and again in the middle.
pub(crate) async fn t6_a_member_killed_during_a_transfer_still_receives_the_state(net: Net) {
    let mut slow = tight();
    slow.transfer_bytes_per_second = 4 << 20;
    let mut harness = Harness::with(net, &[Role::Data; 3], slow).await;
    let client = harness.client().await;
    let load = Load::start(&client, 2);
    load.progress(20).await;
    let away = harness.backup().await;
    harness.kill(away);
    fill(&client, 1000, 8 << 10).await;
    for _ in 0..4 {
        harness.start(away).await;
        load.progress(30).await;
        harness.kill(away);
    }
    harness.start(away).await;
    caught_up(&harness, away).await;
    load.check(&harness).await;
}

/// A member that was away gets the state from sources, and verifies it on a disk, that take so long for each read.
/// Returns how long it took.
async fn slow_transfer(net: Net, by: Duration) -> Duration {
    let mut impatient = tight();
    impatient.failure_timeout_max = Duration::from_secs(1);
    impatient.cache_bytes = 1 << 20;
    let mut harness = Harness::ailing(net, impatient).await;
    let client = harness.client().await;
    let load = Load::start(&client, 2);
    load.progress(20).await;
    let away = harness.backup().await;
    harness.kill(away);
    // More than the receiver keeps in memory.
    fill(&client, 1000, 8 << 10).await;
    let sources = || (0..3).filter(|member| *member != away);
    sources().for_each(|source| harness.ailment(source).slow(Work::Read, "state", by));
    harness.ailment(away).slow(Work::Read, "state-", by);
    let began = Instant::now();
    harness.start(away).await;
    let path = harness.dirs[away].path().join("state");
    within(Duration::from_secs(600), "the state is in place", async || path.exists()).await;
    let took = began.elapsed();
    assert!(harness.ailment(away).struck() > 20, "it is read back");
    assert!(sources().any(|source| harness.ailment(source).struck() > 20), "it is read for it");
    // Every piece of 256 KiB makes a file, which the next manifest names.
    let pieces = harness.ailment(away).created("state.transfer.new");
    assert!(pieces < 50, "begun once, and not given up: {pieces} pieces for 8 MB");
    (0..3).for_each(|member| harness.ailment(member).heal());
    load.progress(50).await;
    caught_up(&harness, away).await;
    load.check(&harness).await;
    took
}

/// T2, T6, F-disk-22: to read, and to read back, takes longer than every time-out.
pub(crate) async fn t6_a_state_that_is_read_and_verified_slowly_arrives_at_the_first_try(net: Net) {
    slow_transfer(net, Duration::from_millis(1)).await;
}

/// The same, where it takes minutes. `cargo test -p kv-core --test cluster -- --ignored --nocapture takes_minutes_to`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn t6_a_state_that_takes_minutes_to_read_and_verify_arrives_at_the_first_try() {
    let took = slow_transfer(Net::memory(), Duration::from_millis(60)).await;
    println!("it took {took:?}");
}

/// The files of the state of a member, except the manifest.
fn state_files(harness: &Harness, member: usize) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(harness.dirs[member].path()).expect("it is there").filter_map(Result::ok);
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("state-"));
    named.map(|entry| entry.path()).collect()
}

/// Flips a bit in every block of the state of a member that is down.
fn damage_state(harness: &Harness, member: usize) {
    let files = state_files(harness, member);
    assert!(!files.is_empty(), "it has made a checkpoint");
    for file in files {
        let mut bytes = std::fs::read(&file).expect("it is there");
        bytes.chunks_mut(512).for_each(|part| part[part.len() / 2] ^= 4);
        std::fs::write(&file, bytes).expect("it is writable");
    }
}

/// T9: a state whose blocks do not verify is set aside and another one fetched; nothing is answered from it.
pub(crate) async fn t9_a_damaged_state_is_replaced_from_a_peer(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data; 3], tight()).await;
    let client = harness.client().await;
    fill(&client, 300, 8 << 10).await;
    let load = Load::start(&client, 2);
    load.progress(20).await;
    let damaged = harness.backup().await;
    harness.kill(damaged);
    damage_state(&harness, damaged);
    harness.start(damaged).await;
    load.progress(50).await;
    caught_up(&harness, damaged).await;
    assert!(harness.node(damaged).metrics().repairs > 0);
    load.check(&harness).await;
}

/// A journal that is damaged when its member starts is repaired from the others, which the metrics show.
pub(crate) async fn a_journal_damaged_at_the_start_counts_as_repaired(net: Net) {
    /// The journal is written in blocks of this many bytes.
    const BLOCK: usize = 4096;
    let mut harness = Harness::with(net, &[Role::Data; 3], options()).await;
    let client = harness.client().await;
    fill(&client, 256, 8 << 10).await;
    // What was written last and is unreadable would count as never written.
    harness.level().await;
    let damaged = harness.backup().await;
    harness.kill(damaged);
    // One block in the middle: the intact ones after it show that it was there.
    let files = std::fs::read_dir(harness.dirs[damaged].path()).expect("it is there").filter_map(Result::ok);
    let journals = files.filter(|entry| entry.file_name().to_string_lossy().starts_with("journal-"));
    let journals = journals.map(|entry| (std::fs::read(entry.path()).expect("it is there"), entry.path()));
    let used = |bytes: &[u8]| bytes.chunks(BLOCK).filter(|block| block.iter().any(|byte| *byte > 0)).count();
    let (mut bytes, path) = journals.max_by_key(|(bytes, _)| used(bytes)).expect("it has a journal");
    let at = used(&bytes) / 2 * BLOCK + 100;
    bytes[at] ^= 4;
    std::fs::write(path, bytes).expect("it is writable");
    harness.start(damaged).await;
    eventually("a repair in the metrics", async || harness.node(damaged).metrics().repairs > 0).await;
    caught_up(&harness, damaged).await;
    assert_eq!(harness.node(damaged).metrics().state_transfers, 0);
}

/// T9: nobody writes, so nobody would make a checkpoint by himself; and the last ones may lie before the damaged
/// member's log.
pub(crate) async fn t9_a_damaged_state_is_replaced_in_a_quiet_cluster(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data; 3], tight()).await;
    let client = harness.client().await;
    fill(&client, 300, 8 << 10).await;
    harness.level().await;
    let damaged = harness.backup().await;
    harness.kill(damaged);
    damage_state(&harness, damaged);
    // While it can get no other, it does not claim to have applied anything.
    harness.faults[damaged].cut(Scope::all());
    harness.start(damaged).await;
    eventually("it reports how far its log goes", async || harness.status(damaged).head > Op::ZERO).await;
    let status = harness.status(damaged);
    assert_eq!((status.applied, status.checkpoint), (Op::ZERO, Op::ZERO), "{status:?}");
    harness.faults[damaged].heal();
    // The damaged one was set aside when it was opened.
    let manifest = harness.dirs[damaged].path().join("state");
    eventually("another state", async || manifest.exists()).await;
    harness.level().await;
}

/// T9: the file is damaged while the member runs. The member detects it at the next access, and continues with another
/// state.
#[cfg(unix)]
pub(crate) async fn t9_a_state_damaged_during_use_is_replaced(net: Net) {
    use std::os::unix::fs::FileExt;

    let mut small = tight();
    small.cache_bytes = 1 << 20;
    let harness = Harness::with(net, &[Role::Data; 3], small).await;
    let client = harness.client().await;
    fill(&client, 600, 8 << 10).await;
    let damaged = harness.backup().await;
    eventually("a checkpoint", async || bytes_of(harness.dirs[damaged].path(), "state-") > 2 << 20).await;
    let files = state_files(&harness, damaged);
    for path in &files {
        // A merge may have removed it.
        let Ok(file) = std::fs::OpenOptions::new().read(true).write(true).open(path) else { continue };
        for block in 0..file.metadata().expect("it is open").len() / 4096 {
            file.write_all_at(&[0xA5; 64], block * 4096 + 100).expect("it is writable");
        }
    }
    // What a merge was about to replace is not damaged, and what is left may not be merged for long.
    for n in 0..600 {
        let read = client.get(format!("fill/{n}")).local().member(id(damaged)).await;
        if read.is_err() {
            break;
        }
    }
    within(Duration::from_secs(90), "other files", async || {
        fill(&client, 600, 8 << 10).await;
        files.iter().all(|path| !path.exists())
    })
    .await;
    caught_up(&harness, damaged).await;
}

/// Whether a member has set a damaged state aside.
fn is_set_aside(harness: &Harness, member: usize) -> bool {
    harness.dirs[member].path().join("state.damaged").exists()
}

/// T9: no other member has a state. The member reports that and stops; its files are unchanged.
pub(crate) async fn t9_the_only_data_member_stops_at_a_bad_block_and_keeps_everything(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data, Role::Witness], tight()).await;
    let client = harness.client().await;
    fill(&client, 300, 8 << 10).await;
    harness.kill(0);
    damage_state(&harness, 0);
    let mut before = None;
    for _ in 0..2 {
        let refused = harness.try_start(0).await.expect_err("it cannot serve");
        assert!(refused.to_string().contains("the state is damaged"), "{refused}");
        assert!(refused.to_string().contains("It was not deleted"), "{refused}");
        let kept = state_files(&harness, 0).into_iter().map(|file| std::fs::read(file).expect("it is kept"));
        let kept = Some(kept.collect::<Vec<_>>());
        assert!(before.is_none() || before == kept, "it has been changed");
        before = kept;
        assert!(!is_set_aside(&harness, 0));
    }
}

/// The byte that fills the values under `fill/N`.
fn filling(n: usize) -> u8 {
    u8::try_from(n % 251).expect("below 251")
}

/// Flips a bit of the value under `fill/N`, wherever the state of a member that is down has it.
fn damage_value(harness: &Harness, member: usize, n: usize) {
    let mut found = 0;
    for file in state_files(harness, member) {
        let mut bytes = std::fs::read(&file).expect("it is there");
        for block in bytes.chunks_mut(4096) {
            if block.windows(2000).any(|some| some.iter().all(|byte| *byte == filling(n))) {
                block[2048] ^= 4;
                found += 1;
            }
        }
        std::fs::write(&file, bytes).expect("it is writable");
    }
    assert!(found > 0, "the value is in the state");
}

/// Every member returns every value as it was written.
async fn all_is_there(harness: &Harness) {
    within(Duration::from_secs(60), "every value on every member", async || {
        for member in 0..3 {
            for n in 0..300 {
                let Ok(found) = harness.node(member).client().get(format!("fill/{n}")).local().await else {
                    return false;
                };
                let value = found.unwrap_or_else(|| panic!("fill/{n} is lost")).value;
                assert!(value.len() == 8 << 10 && value.iter().all(|byte| *byte == filling(n)), "fill/{n}");
            }
        }
        true
    })
    .await;
    // What is bad may also be of the past, which only a transfer reads.
    eventually("no damaged state is left", async || (0..3).all(|member| !is_set_aside(harness, member)))
        .await;
}

/// T9b: each of three members has a bad block, each another one: they complete each other, and nothing is lost. Found
/// out while they run, and then known to all of them when they start.
pub(crate) async fn t9b_states_with_a_bad_block_each_complete_each_other(net: Net) {
    let mut harness = Harness::with(net, &[Role::Data; 3], tight()).await;
    let client = harness.client().await;
    fill(&client, 300, 8 << 10).await;
    for is_known in [false, true] {
        // The journals no longer contain the damaged entries.
        fill(&client, 80, 8 << 10).await;
        harness.level().await;
        (0..3).for_each(|member| harness.kill(member));
        for member in 0..3 {
            damage_value(&harness, member, 100 + 50 * member);
            let dir = harness.dirs[member].path();
            if is_known {
                std::fs::rename(dir.join("state"), dir.join("state.damaged")).expect("it is there");
            }
        }
        for member in 0..3 {
            harness.start(member).await;
        }
        all_is_there(&harness).await;
    }
}

fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let found =
        status.lines().find_map(|found| found.strip_prefix(line)?.split_whitespace().next()?.parse().ok());
    found.unwrap_or(0)
}

/// How long a member takes that was away while much was written, and how much memory it takes: all three members and
/// the clients are in this process. `KV_AWAY_MIB` is how much (1024 by default), `KV_AWAY_WRITES` how many writes per
/// second go on meanwhile (1000).
///
/// `KV_AWAY_MIB=1024 cargo test --release -p kv-core --features tcp --test cluster -- --ignored --nocapture away_for`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement: takes minutes and some GB of disk"]
async fn a_member_that_was_away_for_a_gibibyte_catches_up() {
    let number = |name: &str, usual: usize| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let (mib, rate) = (number("KV_AWAY_MIB", 1024), number("KV_AWAY_WRITES", 1000));
    let mut options = Options::default();
    options.journal_retention_bytes = 64 << 20;
    let mut harness = Harness::with(Net::memory(), &[Role::Data; 3], options).await;
    let client = harness.client().await;
    let away = harness.backup().await;
    harness.kill(away);
    let began = Instant::now();
    fill(&client, mib * 64, 16 << 10).await;
    println!("wrote {mib} MiB in {:?}; resident {} MiB", began.elapsed(), memory("VmRSS:") >> 10);
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            let mut tick = tokio::time::interval(Duration::from_millis(10));
            for n in 0_usize.. {
                tick.tick().await;
                let puts = (0..rate / 100).map(|k| {
                    client.put(format!("live/{}", (n * 10 + k) % 10_000), vec![1; 256]).into_future()
                });
                for put in futures::future::join_all(puts).await {
                    put.expect("the cluster serves");
                }
            }
        }
    });
    let before = memory("VmRSS:");
    let began = Instant::now();
    harness.start(away).await;
    let mut most = before;
    loop {
        most = most.max(memory("VmRSS:"));
        let (primary, behind) = (harness.primary().await, harness.status(away));
        if behind.applied.get() + 1000 > harness.status(primary).commit.get() && behind.applied.get() > 0 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(900), "it does not catch up: {behind:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!(
        "caught up in {:?}; resident {} MiB before, {} MiB at most (the member's own share is at most the difference)",
        began.elapsed(),
        before >> 10,
        most >> 10
    );
    writer.abort();
    eventually("level", async || {
        harness.status(away).applied == harness.status(harness.primary().await).applied
    })
    .await;
}
