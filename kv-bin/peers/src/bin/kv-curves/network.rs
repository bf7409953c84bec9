//! Loss of packets, in a network namespace that nothing else uses.
//!
//! The program runs itself again within the namespace, which is gone with its last process. A classic BPF program drops
//! packets at random where they arrive. The sender does not notice, as with a real loss, and Linux can do that even
//! where it was built without `netem`.

use crate::Args;
use kv_peers::Result;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// Packets as on Ethernet: they are not put together to large ones.
const SETUP: &str = "ip link set dev lo mtu 1500 gso_max_segs 1 && tc qdisc add dev lo clsact";
/// A new namespace has a loopback device that is down.
const UP: &str = "ip link set lo up";
const FILTER: [&str; 8] = ["dev", "lo", "ingress", "pref", "1", "protocol", "all", "bpf"];

/// The means to lose packets.
#[derive(Debug)]
pub(crate) struct Loss(());

impl Loss {
    /// Whether packets can be lost here, or else why not.
    pub(crate) fn here(args: &Args) -> std::result::Result<Self, String> {
        if !args.inside {
            return Err(probe()
                .err()
                .unwrap_or_else(|| "this is no network namespace of its own".to_owned()));
        }
        run("sh", &["-c", SETUP]).map(|()| Self(()))
    }

    /// From now on, this share of the packets is lost, in percent.
    pub(crate) fn set(&self, percent: u32) -> Result<()> {
        // There is none at first.
        let _ = run("tc", &["filter", "del", "dev", "lo", "ingress"]);
        if percent > 0 {
            let program = program(percent);
            let arguments =
                [&["filter", "add"], &FILTER[..], &["direct-action", "bytecode", &program]].concat();
            run("tc", &arguments)?;
        }
        Ok(())
    }
}

impl Drop for Loss {
    fn drop(&mut self) {
        // What is measured afterwards gets the loopback device as it was. If that fails, it is only slower.
        let _ =
            run("sh", &["-c", "tc qdisc del dev lo clsact; ip link set dev lo mtu 65536 gso_max_segs 65535"]);
    }
}

/// Four instructions of classic BPF: load a random number, compare it, and return either that the packet is dropped (2)
/// or that it goes on (-1).
fn program(percent: u32) -> String {
    let below = u64::from(u32::MAX) * u64::from(percent) / 100;
    format!("4,32 0 0 4294963256,53 1 0 {below},6 0 0 2,6 0 0 4294967295")
}

/// Runs this program again, in a network namespace of its own. Returns only if that is not possible.
pub(crate) fn enter() {
    let Ok(program) = std::env::current_exe() else { return };
    let reason = match probe() {
        Ok(rights) => {
            let mut command = unshare(rights);
            command.args(["sh", "-c", &format!("{UP} && exec \"$0\" \"$@\"")]);
            command.arg(program).args(std::env::args_os().skip(1)).arg("--inside").exec().to_string()
        }
        Err(reason) => reason,
    };
    eprintln!("loss will not be measured: {reason}");
}

/// What `unshare` needs for the rights: root needs nothing, others a user namespace.
type Rights = &'static [&'static str];

fn unshare(rights: Rights) -> Command {
    let mut command = Command::new("unshare");
    command.args(rights).arg("--net");
    command
}

/// With which rights packets can be lost in a new namespace, or else why they cannot.
fn probe() -> std::result::Result<Rights, String> {
    let lose = format!("{} direct-action bytecode '{}'", FILTER.join(" "), program(1));
    let all = format!("{UP} && {SETUP} && tc filter add {lose}");
    let attempt = |rights: Rights| {
        let mut command = unshare(rights);
        command.args(["sh", "-c", &all]);
        finish(command).map(|()| rights)
    };
    attempt(&[]).or_else(|_| attempt(&["--user", "--map-root-user"])).map_err(|error| {
        format!("it needs `unshare`, `ip`, `tc` and the right to create a network namespace ({error})")
    })
}

fn run(program: &str, arguments: &[&str]) -> std::result::Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments);
    finish(command)
}

fn finish(mut command: Command) -> std::result::Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
}
