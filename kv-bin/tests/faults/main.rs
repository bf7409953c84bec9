//! The fault drills: real processes, real kernels, real faults. Members are killed, frozen, starved of descriptors, cut
//! off in network namespaces; their system calls fail, their disks fill up and lose power, their files are damaged.
//! Every acknowledged write must be there afterwards, once.
//!
//! ```text
//! cargo test -p kv-bin --test faults -- --ignored              all drills at full length: two hours, one of which is a soak
//! cargo test -p kv-bin --test faults -- --short                all drills, shortened: what the gate runs
//! cargo test -p kv-bin --test faults -- power --rounds 20      the drills whose names start with "power", 20 rounds each
//! ```
//! It prints one table. A drill is skipped if this machine lacks something that it needs, and the table contains the
//! reason. Without arguments nothing runs, so that a plain `cargo test` stays quick.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod attacks;
mod bench;
mod datagrams;
mod delays;
mod disks;
mod flips;
mod hostile;
mod links;
mod machine;
mod membership;
mod memory;
mod network;
mod overload;
mod power;
mod processes;
mod siege;
mod soak;
mod states;
mod syscalls;
mod upgrade;
mod watchers;

/// Clusters of real processes are those of the other tests.
#[path = "../e2e/harness.rs"]
#[allow(dead_code, reason = "shared with the other tests, which use the rest")]
mod harness;
#[path = "../../src/demo/ledger.rs"]
#[allow(dead_code, reason = "shared with the demo, which uses the rest")]
mod ledger;
#[path = "../../src/demo/writers.rs"]
mod writers;

/// QUIC spoken by hand.
#[path = "../../../kv-transport-quic/tests/raw/mod.rs"]
mod raw;

/// What the load's modules know of the program.
#[path = "../../src/failure.rs"]
#[expect(dead_code, reason = "the drills need no exit codes")]
mod failure;

use bench::Row;
use futures::future::BoxFuture;
use machine::Need;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// One kind of fault, again and again.
struct Drill {
    name: &'static str,
    /// The ids of the faults that it covers.
    faults: &'static str,
    needs: &'static [Need],
    /// How many rounds at full length, and in the short form.
    rounds: (u32, u32),
    run: fn(u32) -> BoxFuture<'static, Row>,
}

/// Makes a drill of an async function.
macro_rules! drill {
    ($name:literal, $faults:literal, $needs:expr, $rounds:expr, $run:path) => {
        Drill {
            name: $name,
            faults: $faults,
            needs: &$needs,
            rounds: $rounds,
            run: |rounds| Box::pin($run(rounds)),
        }
    };
}

const DRILLS: &[Drill] = &[
    drill!("kill the primary", "F-proc-1", [], (200, 5), processes::kill),
    drill!("watch while primaries are killed", "F-proc-1", [], (20, 2), watchers::kill),
    drill!("freeze the primary", "F-proc-5", [], (20, 2), processes::freeze),
    drill!("freeze backups in turn", "F-proc-6", [], (20, 2), processes::freeze_backups),
    drill!("stop the primary gracefully", "F-proc-11", [], (20, 2), processes::terminate),
    drill!("restart every member in turn", "F-proc-11", [], (20, 1), processes::roll),
    drill!(
        "upgrade from an earlier build and back",
        "F-conf-12",
        [Need::EarlierBuild],
        (5, 1),
        upgrade::roll
    ),
    drill!("replace every member in turn", "F-conf-13 F-conf-14 F-disk-23", [], (8, 1), membership::replace),
    drill!("add and remove members", "F-conf-13", [], (5, 1), membership::resize),
    drill!("move every member in turn", "F-conf-15", [], (10, 1), membership::move_each),
    drill!("run out of descriptors", "F-proc-9", [], (3, 1), processes::descriptors),
    drill!("storm a member with connections", "F-load-4 F-proc-9", [], (5, 1), hostile::storm),
    drill!("flood a member with garbage", "F-input-1 F-input-2", [], (5, 1), hostile::garbage),
    drill!("over QUIC: kill the primary", "F-proc-1 F-proc-2", [], (20, 2), datagrams::kill),
    drill!("over QUIC: storm a member with connections", "F-load-4 F-proc-9", [], (3, 1), datagrams::storm),
    drill!(
        "over QUIC: flood a member with garbage",
        "F-input-1 F-input-2 F-input-6",
        [],
        (3, 1),
        datagrams::garbage
    ),
    drill!("crowd out a client", "F-load-4 F-load-9 F-input-2", [], (20, 1), overload::tcp),
    drill!("over QUIC: crowd out a client", "F-load-4 F-load-9 F-input-2", [], (20, 1), overload::quic),
    drill!("go on for long", "F-load-8", [], (120, 3), soak::long),
    drill!("slow one journal for long", "F-disk-14", [Need::Strace], (20, 2), soak::slow_journal),
    drill!("isolate the primary", "F-net-2 F-net-11", [Need::Netns], (10, 1), network::isolate),
    drill!("cut a backup off", "F-net-1 F-net-5", [Need::Netns], (10, 1), network::cut_backup),
    drill!("cut the primary off one way", "F-net-3 F-net-4", [Need::Netns], (10, 1), network::one_way),
    drill!("cut the primary from one backup", "F-net-6", [Need::Netns], (5, 1), network::partial),
    drill!("let delays jump one way", "F-clock-8 F-net-9", [], (120, 2), delays::jump),
    drill!("fail a system call", "F-disk-10 F-disk-11 F-disk-13", [Need::Strace], (12, 2), syscalls::fail),
    drill!("slow the primary's fsync", "F-disk-14", [Need::Strace], (5, 1), syscalls::slow),
    drill!("slow a backup's fsync", "F-disk-14", [Need::Strace], (5, 1), syscalls::slow_backup),
    drill!("stall the primary's fsync", "F-disk-15", [Need::Strace], (5, 1), syscalls::stall),
    drill!("fill the disk", "F-disk-11", [Need::Mount], (5, 1), disks::full),
    drill!("power cut of one", "F-disk-1", [Need::Mount, Need::Ext4], (20, 1), power::one),
    drill!(
        "power cut of one while another is frozen",
        "F-disk-21",
        [Need::Mount, Need::Ext4],
        (20, 1),
        power::paused
    ),
    drill!("power cut of all", "F-disk-1 F-disk-2", [Need::Mount, Need::Ext4], (100, 3), power::all),
    drill!(
        "control: the same without fsync",
        "-",
        [Need::Mount, Need::Ext4, Need::Strace],
        (3, 1),
        power::control
    ),
    drill!("flip bits", "F-disk-4 F-disk-5", [], (102, 3), flips::flip),
    drill!("damage every journal", "F-disk-6", [], (20, 1), flips::everywhere),
    drill!("be away while much is written", "F-load-2 F-disk-20", [], (16, 1), memory::away),
    drill!("transfer a large state", "F-disk-22", [], (64, 1), states::large),
    drill!("kill a data member beside a witness", "F-proc-1", [], (60, 6), memory::witness),
];

/// What is asked for.
#[derive(Default)]
struct Wish {
    full: bool,
    short: bool,
    rounds: Option<u32>,
    names: Vec<String>,
}

impl Wish {
    fn of(mut arguments: impl Iterator<Item = String>) -> Self {
        let mut wish = Self::default();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--ignored" | "--include-ignored" => wish.full = true,
                "--short" => wish.short = true,
                "--rounds" => wish.rounds = arguments.next().and_then(|number| number.parse().ok()),
                // What other test programs understand.
                flag if flag.starts_with('-') => {}
                name => wish.names.push(name.to_owned()),
            }
        }
        wish
    }

    fn is_none(&self) -> bool {
        // A name alone may select the other tests of a run.
        !(self.full || self.short || self.rounds.is_some())
    }

    fn wants(&self, drill: &Drill) -> bool {
        self.names.is_empty() || self.names.iter().any(|name| drill.name.starts_with(name.as_str()))
    }

    fn rounds(&self, drill: &Drill) -> u32 {
        let (full, short) = drill.rounds;
        self.rounds.unwrap_or(if self.short { short } else { full })
    }
}

fn main() -> ExitCode {
    let wish = Wish::of(std::env::args().skip(1));
    if wish.is_none() {
        println!("the drills run with --ignored (all of it), --short, or --rounds N");
        return ExitCode::SUCCESS;
    }
    let start = Instant::now();
    let mut rows = Vec::new();
    for drill in DRILLS.iter().filter(|drill| wish.wants(drill)) {
        let row = run(drill, wish.rounds(drill));
        println!("{row}");
        rows.push(row);
    }
    println!("\n{}", bench::table(&rows));
    let failed: Vec<_> = rows.iter().filter(|row| !row.is_good()).map(|row| row.drill).collect();
    println!("{} drills in {} s", rows.len(), start.elapsed().as_secs());
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("FAILED: {}", failed.join(", "));
    ExitCode::FAILURE
}

/// Longer than any drill at full length takes.
const DRILL_LIMIT: Duration = Duration::from_secs(2 * 3600);

fn run(drill: &Drill, rounds: u32) -> Row {
    let lacking = drill.needs.iter().find_map(|need| machine::lacks(*need));
    let start = Instant::now();
    let mut row = match lacking {
        Some(lacking) => Row::skipped(format!("skipped: {lacking}")),
        None => {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let run = drill.run;
            let work = runtime.spawn(async move { tokio::time::timeout(DRILL_LIMIT, run(rounds)).await });
            match runtime.block_on(work) {
                Ok(Ok(row)) => row,
                Ok(Err(_)) => Row::failed("it does not come to an end"),
                // Printed already, with the last lines of the members.
                Err(_) => Row::failed("it failed: see above"),
            }
        }
    };
    (row.drill, row.faults, row.took) = (drill.name, drill.faults, start.elapsed());
    row
}
