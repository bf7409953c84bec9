//! CPU time and memory of another process, read from Linux's `/proc`.

use crate::failure::Failure;
use std::fs;
use std::time::Instant;

/// Ticks per second, the unit of the CPU times that Linux reports to programs.
const TICKS: f64 = 100.0;

/// A process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process(pub(super) u32);

/// The CPU time that a process had used at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    seconds: f64,
    at: Instant,
}

impl Taken {
    /// The CPU time that was used since then, in seconds.
    pub(super) fn seconds_since(self, before: Self) -> f64 {
        self.seconds - before.seconds
    }
}

impl Process {
    /// The memory that it uses, in bytes.
    pub(super) fn memory(self) -> Result<u64, Failure> {
        let text = self.read("status")?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
        kib.map(|kib: u64| kib << 10).ok_or_else(|| self.unreadable("status"))
    }

    /// How many bytes it has written to files.
    pub(super) fn written(self) -> Result<u64, Failure> {
        let text = self.read("io")?;
        // What is sent to a socket is not counted there. `write_bytes` is no better: it counts a page, or with some
        // file systems many pages, each time that a part of them is changed.
        let bytes = text.lines().find_map(|line| line.strip_prefix("wchar:")?.trim().parse().ok());
        bytes.ok_or_else(|| self.unreadable("io"))
    }

    pub(super) fn taken(self) -> Result<Taken, Failure> {
        let text = self.read("stat")?;
        // The name may contain anything. It is followed by fixed fields, two of which are times.
        let fields = text.rsplit(')').next().map(|rest| rest.split_whitespace().skip(11).take(2));
        let ticks: Option<f64> =
            fields.and_then(|fields| fields.map(|field| field.parse::<f64>().ok()).sum());
        let seconds = ticks.ok_or_else(|| self.unreadable("stat"))? / TICKS;
        Ok(Taken { seconds, at: Instant::now() })
    }

    /// The share of one core that it has used since then.
    pub(super) fn share_since(self, before: Taken) -> Result<f64, Failure> {
        let now = self.taken()?;
        Ok(now.seconds_since(before) / (now.at - before.at).as_secs_f64())
    }

    fn read(self, what: &str) -> Result<String, Failure> {
        fs::read_to_string(format!("/proc/{}/{what}", self.0)).map_err(|error| {
            Failure::failed(format!(
                "cannot read the resource usage of process {} (this needs Linux): {error}",
                self.0
            ))
        })
    }

    fn unreadable(self, what: &str) -> Failure {
        Failure::failed(format!("/proc/{}/{what} has an unexpected format", self.0))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory_and_time() {
        let me = Process(std::process::id());
        assert!(me.memory().expect("Linux") > 1 << 20);
        let before = me.taken().expect("Linux");
        while me.taken().expect("Linux").seconds <= before.seconds {}
        assert!(me.share_since(before).expect("Linux") > 0.0);
        assert!(Process(u32::MAX).memory().is_err());
    }
}
