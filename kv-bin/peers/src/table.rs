//! The table that is printed at the end.

use crate::load::{Measured, Op};
use crate::{Args, System};

type Case = (System, Op, u32, Measured);

/// Prints medians as Markdown.
pub(crate) fn print(args: &Args, measured: &[Case]) {
    let present: Vec<System> =
        System::ALL.into_iter().filter(|system| measured.iter().any(|case| case.0 == *system)).collect();
    println!("| operation, clients | {} |", header(&present));
    println!("|---|{}", "---|".repeat(present.len()));
    for op in Op::ALL {
        for clients in &args.clients {
            let cells: Vec<String> =
                present.iter().map(|system| cell(measured, *system, op, *clients)).collect();
            println!("| {}, {clients} | {} |", op.name(), cells.join(" | "));
        }
    }
    println!();
    println!(
        "Operations per second; median, 99th percentile and maximum of the latency; processor time of the three \
         servers per operation. Median of {} runs of {} s; {} keys, values of {} bytes.",
        args.runs, args.seconds, args.keys, args.value_bytes
    );
    println!();
    println!("| system | a write is acknowledged when it is | a get returns |");
    println!("|---|---|---|");
    for system in present {
        println!("| {} | {} | {} |", system.name(), system.durability(), system.reads());
    }
}

fn header(systems: &[System]) -> String {
    systems.iter().map(|system| system.name()).collect::<Vec<_>>().join(" | ")
}

fn cell(measured: &[Case], system: System, op: Op, clients: u32) -> String {
    let of = |case: &&Case| (case.0, case.1, case.2) == (system, op, clients);
    let median = |number: fn(&Measured) -> f64| {
        let mut numbers: Vec<f64> = measured.iter().filter(of).map(|case| number(&case.3)).collect();
        numbers.sort_by(f64::total_cmp);
        numbers.get(numbers.len() / 2).copied()
    };
    let Some(throughput) = median(|run| run.throughput) else { return "-".to_owned() };
    let of_latency = |number: fn(&Measured) -> f64| median(number).unwrap_or_default() / 1000.0;
    format!(
        "{throughput:.0}/s, {:.1} / {:.1} / {:.0} ms, {:.0} µs",
        of_latency(|run| run.p50_us as f64),
        of_latency(|run| run.p99_us as f64),
        of_latency(|run| run.max_us as f64),
        median(|run| run.cpu_us).unwrap_or_default(),
    )
}
