//! Each member in a network namespace of its own: cables are pulled, packets vanish one way.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{Cluster, members};
use crate::machine::Namespaces;
use std::time::Instant;

const ROLES: [&str; 3] = ["data", "data", "data"];

/// For counting views: a member without processor time for half a second is not dead.
const PATIENT: [&str; 4] = ["--failure-timeout-min", "600ms", "--failure-timeout-max", "6s"];

/// A cluster under load, each member behind a cable.
async fn wired(flags: [&str; 4]) -> (Namespaces, Bench) {
    let spaces = Namespaces::new(3);
    let mut flags = flags.to_vec();
    flags.push("--insecure");
    let mut cluster = Cluster::prepare(&ROLES, &flags);
    cluster.addresses = (0..3).map(|id| format!("{}:7000", spaces.address(id))).collect();
    cluster.members = members(&ROLES, &cluster.addresses);
    for id in 0..3 {
        cluster.under[id] = ["ip", "netns", "exec", &spaces.space(id)].map(str::to_owned).to_vec();
        cluster.restart(id);
    }
    (spaces, Bench::on(cluster).await)
}

/// F-net-2, F-net-11: nothing but their silence shows that the connections of the old primary are dead.
pub(crate) async fn isolate(rounds: u32) -> Row {
    let (spaces, mut bench) = wired(FLAGS).await;
    for _ in 0..rounds {
        let old = bench.primary().await;
        let mark = bench.cluster.log(old).len();
        let blow = Instant::now();
        spaces.cable(old, false);
        bench.successor(old).await;
        bench.progress().await;
        bench.survived(blow);
        bench.logged(old, mark, "abdicating").await;
        spaces.cable(old, true);
        bench.level().await;
    }
    bench.end("cable pulled").await
}

/// F-net-1, F-net-5: no view changes for the sake of a backup, neither when it goes nor when it returns.
pub(crate) async fn cut_backup(rounds: u32) -> Row {
    let (spaces, mut bench) = wired(PATIENT).await;
    let mut changes = 0;
    for round in 0..rounds as usize {
        let chief = bench.primary().await;
        let view = bench.view().await;
        let backup = (chief + 1 + round % 2) % 3;
        let blow = Instant::now();
        spaces.cable(backup, false);
        bench.progress().await;
        bench.survived(blow);
        spaces.cable(backup, true);
        bench.level().await;
        changes += bench.view().await - view;
    }
    bench.end(format!("cable pulled; {changes} views changed")).await
}

/// F-net-3, F-net-4: by turns the primary hears nobody, and nobody hears the primary.
pub(crate) async fn one_way(rounds: u32) -> Row {
    let (spaces, mut bench) = wired(FLAGS).await;
    for round in 0..rounds {
        let old = bench.primary().await;
        let others = (0..3).filter(|id| *id != old);
        let links: Vec<_> =
            others.map(|id| if round.is_multiple_of(2) { (id, old) } else { (old, id) }).collect();
        let blow = Instant::now();
        links.iter().for_each(|(from, to)| spaces.blackhole(*from, *to, true));
        bench.successor(old).await;
        bench.progress().await;
        bench.survived(blow);
        links.iter().for_each(|(from, to)| spaces.blackhole(*from, *to, false));
        bench.level().await;
    }
    bench.end("blackhole routes").await
}

/// F-net-6: each of the two still hears the third. There is progress, and at most two views pass.
pub(crate) async fn partial(rounds: u32) -> Row {
    let (spaces, mut bench) = wired(PATIENT).await;
    let mut most = 0;
    for round in 0..rounds as usize {
        let chief = bench.primary().await;
        let view = bench.view().await;
        let backup = (chief + 1 + round % 2) % 3;
        let blow = Instant::now();
        spaces.blackhole(chief, backup, true);
        spaces.blackhole(backup, chief, true);
        for _ in 0..5 {
            bench.progress().await;
        }
        bench.survived(blow);
        most = most.max(bench.view().await - view);
        spaces.blackhole(chief, backup, false);
        spaces.blackhole(backup, chief, false);
        bench.level().await;
    }
    bench.end(format!("blackhole routes; at most {most} views changed")).await
}
