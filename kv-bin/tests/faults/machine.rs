//! The machine's capabilities, and the operations that need root: mounts, network namespaces, tracing.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What a drill needs of the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// Mounting, which takes root.
    Mount,
    /// ext4 images on loop devices, and Python to send the ioctl that cuts their power.
    Ext4,
    /// Network namespaces.
    Netns,
    /// Tracing, to make system calls fail.
    Strace,
    /// The program as an earlier commit builds it.
    EarlierBuild,
}

/// Where the program of an earlier commit is. `.ci/run upgrade` builds it.
pub(crate) fn earlier_build() -> Option<PathBuf> {
    std::env::var_os("KV_EARLIER_BUILD").map(PathBuf::from)
}

/// What is missing, in one line; nothing where nothing is.
pub(crate) fn lacks(need: Need) -> Option<String> {
    let root = rustix::process::geteuid().is_root();
    match need {
        Need::Mount if !root => Some("mounting takes root".to_owned()),
        Need::Mount => program("mount"),
        Need::Ext4 => program("mkfs.ext4").or_else(|| program("python3")).or_else(|| {
            (!Path::new("/dev/loop-control").exists())
                .then(|| "this machine has no loop devices (/dev/loop-control)".to_owned())
        }),
        Need::Netns if !root => Some("network namespaces take root".to_owned()),
        Need::Netns => program("ip").or_else(|| {
            let name = format!("kvrig-probe-{}", std::process::id());
            let made = attempt("ip", &["netns", "add", &name]).err();
            let _ = attempt("ip", &["netns", "del", &name]);
            made.map(|error| format!("this machine has no network namespaces ({error})"))
        }),
        Need::EarlierBuild => earlier_build().is_none().then(|| {
            "KV_EARLIER_BUILD names no program: .ci/run upgrade builds one, and runs this".to_owned()
        }),
        Need::Strace => program("strace").or_else(|| {
            let traced = attempt("strace", &["-f", "-o", "/dev/null", "true"]).err();
            traced.map(|error| format!("this machine lets nobody trace ({error})"))
        }),
    }
}

fn program(name: &str) -> Option<String> {
    let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|folder| folder.join(name).exists());
    (!found).then(|| format!("this machine lacks the program {name}"))
}

/// Runs a command, and returns its complaint.
pub(crate) fn attempt(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; "))
}

/// The same, where it must work.
#[track_caller]
pub(crate) fn must(program: &str, arguments: &[&str]) {
    attempt(program, arguments).unwrap_or_else(|error| panic!("{program} {arguments:?}: {error}"));
}

/// A mounted file system; unmounted when dropped.
pub(crate) struct Mounted {
    pub(crate) at: PathBuf,
}

impl Mounted {
    pub(crate) fn new(at: &Path, arguments: &[&str]) -> Self {
        std::fs::create_dir_all(at).unwrap();
        let mut all = arguments.to_vec();
        let path = at.to_str().expect("our own path").to_owned();
        all.push(&path);
        must("mount", &all);
        Self { at: at.to_owned() }
    }

    /// Unmounts, as soon as nobody uses it any more.
    pub(crate) fn unmount(&self) {
        let path = self.at.to_str().expect("our own path");
        let start = Instant::now();
        while let Err(error) = attempt("umount", &[path]) {
            assert!(start.elapsed() < Duration::from_secs(30), "cannot unmount {path}: {error}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Processes that still use it keep it until they end.
        let _ = attempt("umount", &["--lazy", self.at.to_str().expect("our own path")]);
    }
}

/// What a member is run by so that its system calls do something else from the beginning, as strace's `inject` takes
/// it. No other call is held up, unlike with [`Injection::into`].
pub(crate) fn strace(what: &str) -> Vec<String> {
    let calls = what.split(':').next().unwrap_or(what);
    let (trace, inject) = (format!("trace={calls}"), format!("inject={what}"));
    let arguments = ["-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    std::iter::once("strace").chain(arguments).map(str::to_owned).collect()
}

/// Makes system calls of a running process do something else, until it is dropped.
pub(crate) struct Injection(Child);

impl Injection {
    /// `what` as strace's `inject` takes it: `fdatasync:error=EIO`.
    pub(crate) fn into(pid: u32, what: &str) -> Self {
        let calls = what.split(':').next().unwrap_or(what);
        let child = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={calls}")])
            .args(["-e", &format!("inject={what}"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("strace starts");
        Self(child)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // Asked first, so that a call that it is changing is changed to the end. It does not listen while it holds one
        // back.
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // The kernel releases the traced processes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Network namespaces on one bridge, one for each member. Gone when dropped.
pub(crate) struct Namespaces {
    name: String,
    subnet: String,
    count: usize,
}

impl Namespaces {
    pub(crate) fn new(count: usize) -> Self {
        let name = format!("kvr{:x}", fastrand::u32(..0xff_ffff));
        let subnet = format!("10.{}.{}", fastrand::u8(200..250), fastrand::u8(1..250));
        let spaces = Self { name, subnet, count };
        let bridge = spaces.bridge();
        must("ip", &["link", "add", &bridge, "type", "bridge"]);
        must("ip", &["addr", "add", &format!("{}.1/24", spaces.subnet), "dev", &bridge]);
        must("ip", &["link", "set", &bridge, "up"]);
        for id in 0..count {
            let (space, outer) = (spaces.space(id), spaces.outer(id));
            must("ip", &["netns", "add", &space]);
            must("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &space]);
            must("ip", &["link", "set", &outer, "master", &bridge]);
            must("ip", &["link", "set", &outer, "up"]);
            let address = format!("{}/24", spaces.address(id));
            must("ip", &["-n", &space, "addr", "add", &address, "dev", "eth0"]);
            must("ip", &["-n", &space, "link", "set", "eth0", "up"]);
            must("ip", &["-n", &space, "link", "set", "lo", "up"]);
        }
        spaces
    }

    fn bridge(&self) -> String {
        format!("{}b", self.name)
    }

    fn outer(&self, id: usize) -> String {
        format!("{}v{id}", self.name)
    }

    pub(crate) fn space(&self, id: usize) -> String {
        format!("{}n{id}", self.name)
    }

    pub(crate) fn address(&self, id: usize) -> String {
        format!("{}.{}", self.subnet, 11 + id)
    }

    /// Pulls a member's cable, or puts it back.
    pub(crate) fn cable(&self, id: usize, plugged: bool) {
        must("ip", &["link", "set", &self.outer(id), if plugged { "up" } else { "down" }]);
    }

    /// Nothing that `from` sends reaches `to` any more, or all of it does again.
    pub(crate) fn blackhole(&self, from: usize, to: usize, there: bool) {
        let target = format!("{}/32", self.address(to));
        let verb = if there { "add" } else { "del" };
        must("ip", &["-n", &self.space(from), "route", verb, "blackhole", &target]);
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for id in 0..self.count {
            let _ = attempt("ip", &["netns", "del", &self.space(id)]);
            let _ = attempt("ip", &["link", "del", &self.outer(id)]);
        }
        let _ = attempt("ip", &["link", "del", &self.bridge()]);
    }
}
