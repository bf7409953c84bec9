//! A cluster that is upgraded while it runs, and taken back.

use crate::bench::{Bench, FLAGS, Row};
use crate::harness::{self, Cluster};
use crate::machine;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

/// Every member writes its state to the disk again and again, so that the next build reads what this one wrote.
const CHECKPOINT: [&str; 2] = ["--checkpoint-bytes", "1MiB"];
/// So much is put before each restart: some checkpoints of it.
const FILL: usize = 96;
const VALUE: usize = 32 << 10;

/// Members of an earlier build are replaced by members of this one, one after the other, and then the other way round.
/// All that time the two run beside each other, in each role, and each reads the files of the other. No call fails.
pub(crate) async fn roll(rounds: u32) -> Row {
    let earlier = machine::earlier_build().expect("the drill needs it");
    let current = PathBuf::from(env!("CARGO_BIN_EXE_kv"));
    assert_ne!(version(&earlier), "", "the earlier build runs");
    let mut cluster = Cluster::prepare(&["data", "data", "data"], &[&FLAGS[..], &CHECKPOINT].concat());
    cluster.builds.fill(earlier.clone());
    for id in 0..3 {
        cluster.restart(id);
    }
    let mut bench = Bench::on(cluster).await;
    for round in 1..=rounds {
        for (name, build) in [("up", &current), ("back", &earlier)] {
            let chief = bench.primary().await;
            for id in [1, 2, 3].map(|next| (chief + next) % 3) {
                fill(&bench, round).await;
                let blow = Instant::now();
                let ended = bench.cluster.terminate(id);
                assert_eq!(ended.code(), Some(0), "who was asked to stop has not failed");
                bench.cluster.builds[id].clone_from(build);
                bench.cluster.restart(id);
                bench.progress().await;
                bench.level().await;
                bench.survived(blow);
                for command in [&current, &earlier] {
                    serves(command, &bench.cluster);
                }
                let [p99, worst] = bench.gaps_since(blow).map(|gap| gap.as_millis());
                println!(
                    "  round {round}, {name}: member {id}: gaps between writes: p99 {p99} ms, longest {worst} ms"
                );
            }
        }
    }
    // The reckoning knows what the writers wrote, and nothing else.
    for key in (0..FILL).map(|number| format!("fill/{number}")).chain(["command".to_owned()]) {
        bench.client.delete(key).await.expect("the cluster serves");
    }
    let row = bench.end("each member up and back; no call failed").await;
    assert_eq!(row.verdict.acknowledged, row.verdict.writes, "no client sees an error");
    row
}

async fn fill(bench: &Bench, round: u32) {
    let value = vec![u8::try_from(round % 256).expect("below 256"); VALUE];
    for number in 0..FILL {
        bench.client.put(format!("fill/{number}"), value.clone()).await.expect("the cluster serves");
    }
}

/// The commands of either build are answered by the members of both.
fn serves(build: &Path, cluster: &Cluster) {
    let number = std::process::id().to_string();
    let kv = |arguments: &[&str]| {
        let output = harness::run(&mut cluster.kv_of(build, arguments));
        assert!(output.status.success(), "{build:?} {arguments:?}: {}", harness::stderr(&output));
        harness::stdout(&output)
    };
    kv(&["put", "command", &number]);
    assert_eq!(kv(&["get", "command"]).trim(), number);
    kv(&["status"]);
}

fn version(build: &Path) -> String {
    harness::stdout(&harness::run(Command::new(build).arg("--version")))
}
