//! Prints what a load has measured.

use super::target::Cost;
use crate::commands::print_line;
use crate::failure::Failure;
use crate::output::{self, Cell};
use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// The result of a load.
#[derive(Debug)]
pub(super) struct Summary {
    pub(super) op: &'static str,
    pub(super) clients: u32,
    pub(super) connections: u32,
    pub(super) in_flight: u32,
    pub(super) rate: Option<u32>,
    pub(super) seconds: f64,
    pub(super) value_bytes: u64,
    pub(super) keys: u64,
    /// In microseconds.
    pub(super) latencies: Histogram<u64>,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// What each member of a spawned cluster used per operation; and the CPU time of this process, in microseconds.
    pub(super) usage: Option<(Vec<Cost>, Option<f64>)>,
}

impl Summary {
    /// Operations per second.
    fn throughput(&self) -> f64 {
        self.latencies.len() as f64 / self.seconds
    }

    fn at(&self, quantile: f64) -> u64 {
        self.latencies.value_at_quantile(quantile)
    }

    pub(super) fn json(&self) -> Value {
        let mut line = json!({
            "op": self.op,
            "clients": self.clients,
            "connections": self.connections,
            "in_flight": self.in_flight,
            "rate": self.rate,
            "seconds": self.seconds,
            "value_bytes": self.value_bytes,
            "keys": self.keys,
            "throughput": (self.throughput() * 10.0).round() / 10.0,
            "p50_us": self.at(0.5),
            "p99_us": self.at(0.99),
            "p999_us": self.at(0.999),
            "max_us": self.latencies.max(),
            "errors": self.errors,
        });
        if let Some((members, own)) = &self.usage {
            let members = members.iter().map(|cost| {
                json!({ "id": cost.member, "cpu_us_per_op": cost.cpu_us, "written_bytes_per_op": cost.written })
            });
            line["members"] = members.collect();
            line["bench_cpu_us_per_op"] = (*own).into();
        }
        line
    }

    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        if json {
            return print_line(&self.json().to_string());
        }
        let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1e3);
        let header = ["op", "clients", "connections", "per second", "p50", "p99", "p99.9", "max", "errors"];
        let row = vec![
            Cell::text(self.op),
            Cell::number(self.clients),
            Cell::number(self.connections),
            Cell::number(format!("{:.0}", self.throughput())),
            Cell::number(ms(self.at(0.5))),
            Cell::number(ms(self.at(0.99))),
            Cell::number(ms(self.at(0.999))),
            Cell::number(ms(self.latencies.max())),
            Cell::number(self.errors),
        ];
        print_line(output::table(&header, &[row]).trim_end())?;
        if let Some((members, own)) = &self.usage {
            let rows = members.iter().map(|cost| {
                vec![
                    Cell::text(format!("member {}", cost.member)),
                    Cell::number(format!("{:.0} us", cost.cpu_us)),
                    Cell::number(format!("{:.0} B", cost.written)),
                ]
            });
            let own = own.map(|own| {
                vec![Cell::text("kv bench"), Cell::number(format!("{own:.0} us")), Cell::number("-")]
            });
            let rows: Vec<_> = rows.chain(own).collect();
            print_line("")?;
            print_line(output::table(&["per operation", "CPU time", "written"], &rows).trim_end())?;
        }
        Ok(())
    }
}

/// One second of a load, as a line of JSON.
pub(super) fn print_second(second: usize, operations: u64) -> Result<(), Failure> {
    print_line(&json!({ "second": second, "operations": operations }).to_string())
}

/// Shows how far the load is, on a line that is written again and again.
pub(super) fn show_progress(second: usize, seconds: usize, operations: u64) {
    const WIDTH: usize = 30;
    let done = WIDTH * second / seconds.max(1);
    let bar: String = (0..WIDTH).map(|at| if at < done { '#' } else { '.' }).collect();
    anstream::eprint!("\r[{bar}] {second} of {seconds} s, {operations}/s\x1b[K");
}

/// Removes the line.
pub(super) fn end_progress() {
    anstream::eprint!("\r\x1b[K");
}
