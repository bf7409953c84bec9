//! Server processes: their ports, and what they use.

use crate::Result;
use std::fs;
use std::net::{TcpListener, UdpSocket};

/// Linux reports processor times in hundredths of a second.
const TICKS: f64 = 100.0;

/// Free ports, all different. They are outside the range that the system uses for outgoing connections, which could
/// otherwise take the port of a server that is down for a moment.
pub fn ports<const N: usize>() -> Result<[u16; N]> {
    let hold = |port| {
        Some((port, TcpListener::bind(("127.0.0.1", port)).ok()?, UdpSocket::bind(("127.0.0.1", port)).ok()?))
    };
    let candidates = std::iter::repeat_with(|| fastrand::u16(10_000..30_000)).take(1000);
    let held: Vec<_> = candidates.filter_map(hold).take(N).collect();
    let ports: Vec<u16> = held.iter().map(|(port, ..)| *port).collect();
    ports.try_into().map_err(|_| "cannot find free ports on 127.0.0.1".into())
}

/// A process, by its id.
#[derive(Clone, Copy, Debug)]
pub struct Process(pub u32);

impl Process {
    /// The processor time that it has used.
    pub fn cpu_seconds(self) -> Result<f64> {
        let stat = self.read("stat")?;
        // The name may contain anything. It is followed by fixed fields, two of which are times.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        Ok(fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS)
    }

    /// The memory that it uses, in bytes.
    pub fn memory(self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most memory that it has used so far, in bytes.
    pub fn peak_memory(self) -> Result<u64> {
        self.status("VmHWM:")
    }

    fn status(self, name: &str) -> Result<u64> {
        let text = self.read("status")?;
        let kib =
            text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
        let kib: u64 = kib.ok_or_else(|| format!("/proc/{}/status has no {name}", self.0))?;
        Ok(kib << 10)
    }

    fn read(self, what: &str) -> Result<String> {
        fs::read_to_string(format!("/proc/{}/{what}", self.0)).map_err(|error| {
            format!("cannot see what process {} uses (this needs Linux): {error}", self.0).into()
        })
    }
}
