//! Clusters of real processes, and commands run to their end.

use crate::ledger::{self, Ledger, LedgerReport};
use crate::writers::Writers;
use futures::future::join_all;
use kv_core::Client;
use kv_core::client::Record;
use kv_core::config::{MemberId, Role};
use kv_core::node::{MemberState, MemberStatus};
use kv_core::transport::tls::{Files, Identity};
use kv_core::transport::{Transport, quic::Quic, tcp::Tcp};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex, mpsc};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::timeout;

/// Longer than anything here may take on a busy machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Small journal files: more of them, and less to write before the first entry. And patience: where many tests share
/// few processors, a member that is not heard for half a second is not dead.
const DEFAULTS: &[(&str, &str)] =
    &[("--segment-bytes", "3MiB"), ("--failure-timeout-min", "400ms"), ("--failure-timeout-max", "5s")];

/// How long a member may take to report its status.
const PATIENCE: Duration = Duration::from_millis(300);

/// More than any cluster here gives to its members.
const MOST_IDS: u8 = 32;

/// The program under test, without the variables of the user who runs the tests.
pub(crate) fn kv() -> Command {
    under(&[])
}

/// The same, run by another program: its name and its first arguments.
fn under(program: &[String]) -> Command {
    build_under(Path::new(env!("CARGO_BIN_EXE_kv")), program)
}

/// The same for any build of the program.
fn build_under(kv: &Path, program: &[String]) -> Command {
    let program = [default_signals(), program].concat();
    let mut command = match program.split_first() {
        None => Command::new(kv),
        Some((program, arguments)) => {
            let mut command = Command::new(program);
            command.args(arguments).arg(kv);
            command
        }
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV_")) {
        command.env_remove(name);
    }
    command.env("NO_COLOR", "1");
    command
}

/// Runs a program with the default reaction to signals. Otherwise it would inherit the signals that are ignored where
/// the tests run (`nohup`, or `&` in a script).
fn default_signals() -> &'static [String] {
    const HUP_INT_QUIT: u64 = 0b111;
    static PREFIX: LazyLock<Vec<String>> = LazyLock::new(|| {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let ignored = ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0);
        let needed: &[&str] =
            if ignored & HUP_INT_QUIT == 0 { &[] } else { &["env", "--default-signal=HUP,INT,QUIT"] };
        needed.iter().map(|word| (*word).to_owned()).collect()
    });
    &PREFIX
}

/// Runs a command to its end, which must come in time.
pub(crate) fn run(command: &mut Command) -> Output {
    run_on(Stdio::null(), command)
}

/// The same, with something on its standard input.
pub(crate) fn run_on(input: impl Into<Stdio>, command: &mut Command) -> Output {
    command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| bytes)
    });
    let err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).map(|_| bytes)
    });
    let status = wait(&mut child);
    Output { status, stdout: out.join().unwrap().unwrap(), stderr: err.join().unwrap().unwrap() }
}

/// Waits for a process to end; kills it and panics when that takes too long.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            return status;
        }
        if start.elapsed() > LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            panic!("process {} did not end within {LIMIT:?}", child.id());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Checks until it is so.
pub(crate) fn until(what: &str, mut check: impl FnMut() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a command printed on stderr.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a command printed on stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Checks that a command failed with this code and one line on stderr that contains all fragments.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32, fragments: &[&str]) {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("kv: ")).collect();
    assert_eq!(lines.len(), 1, "one line, not {text:?}");
    for fragment in fragments {
        assert!(lines[0].contains(fragment), "{text:?} does not contain {fragment:?}");
    }
}

/// All files below a folder with their content: to see that nothing has changed.
pub(crate) fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// A port of 127.0.0.1 on which nobody listens, that no other test of this process got, and that the system does not
/// give to outgoing connections.
pub(crate) fn free_port() -> u16 {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    loop {
        let port = fastrand::u16(10_000..30_000);
        let fresh = TAKEN.lock().unwrap().get_or_insert_default().insert(port);
        let is_free =
            || TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
        if fresh && is_free() {
            return port;
        }
    }
}

/// The list of members, as `--members` takes it.
pub(crate) fn members(roles: &[&str], addresses: &[String]) -> String {
    let member = |(id, (address, role))| format!("{id}={address}:{role}");
    addresses.iter().zip(roles).enumerate().map(member).collect::<Vec<_>>().join(",")
}

/// A cluster of real processes in a temporary folder. Dropping it kills them by their ids and deletes the folder.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) folder: TempDir,
    pub(crate) members: String,
    pub(crate) addresses: Vec<String>,
    flags: Vec<String>,
    /// The list of members that each is given, where that is not `members`.
    pub(crate) lists: Vec<String>,
    /// The addresses at which members that were added find the cluster.
    joins: BTreeMap<usize, String>,
    /// Those that listen at an address which their list does not have.
    moved: HashSet<usize>,
    /// What each member is run by: nothing, or a program and its first arguments. It must become the member: same
    /// process.
    pub(crate) under: Vec<Vec<String>>,
    /// The build that runs each member: this one, or another.
    pub(crate) builds: Vec<PathBuf>,
    /// The members' data folders.
    pub(crate) folders: Vec<PathBuf>,
    running: Vec<Option<Child>>,
}

impl Cluster {
    /// Three data members, running.
    pub(crate) fn of_three() -> Self {
        Self::start(&["data", "data", "data"], &[])
    }

    /// Members with these roles and additional flags, running. Ports that somebody else takes meanwhile are given up.
    pub(crate) fn start(roles: &[&str], flags: &[&str]) -> Self {
        for _ in 0..5 {
            let mut cluster = Self::prepare(roles, flags);
            if (0..roles.len()).all(|id| cluster.try_restart(id).is_ok()) {
                return cluster;
            }
        }
        panic!("no cluster starts");
    }

    /// One member that the world reaches at `address`, which leads to where it listens.
    pub(crate) fn behind(address: &str, listen: &str) -> Self {
        let mut cluster = Self::prepare(&["data"], &["--listen", listen]);
        cluster.addresses = vec![address.to_owned()];
        cluster.members = format!("0={address}");
        cluster.restart(0);
        cluster
    }

    /// Members that do not run yet.
    pub(crate) fn prepare(roles: &[&str], flags: &[&str]) -> Self {
        let mut all: Vec<_> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        for (flag, value) in DEFAULTS {
            if !flags.contains(flag) {
                all.extend([(*flag).to_owned(), (*value).to_owned()]);
            }
        }
        let addresses: Vec<_> = roles.iter().map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let folder = tempfile::tempdir().unwrap();
        Self {
            members: members(roles, &addresses),
            addresses,
            flags: all,
            lists: Vec::new(),
            joins: BTreeMap::new(),
            moved: HashSet::new(),
            under: roles.iter().map(|_| Vec::new()).collect(),
            builds: roles.iter().map(|_| env!("CARGO_BIN_EXE_kv").into()).collect(),
            folders: (0..roles.len()).map(|id| folder.path().join(format!("data-{id}"))).collect(),
            folder,
            running: roles.iter().map(|_| None).collect(),
        }
    }

    /// A member's data folder.
    pub(crate) fn data(&self, id: usize) -> PathBuf {
        self.folders[id].clone()
    }

    /// A member's address.
    pub(crate) fn address(&self, id: usize) -> &str {
        &self.addresses[id]
    }

    /// The command that runs a member. It ends, and takes the folder with it, when its standard input ends: even a
    /// killed test leaves nothing behind.
    pub(crate) fn command(&self, id: usize) -> Command {
        let mut command = build_under(&self.builds[id], &self.under[id]);
        command.args(["serve", "--json", "--id", &id.to_string()]);
        match self.joins.get(&id) {
            Some(others) => command.args(["--listen", self.address(id), "--join", others]),
            None => match self.lists.get(id).unwrap_or(&self.members).as_str() {
                "" => &mut command,
                members => command.args(["--members", members]),
            },
        };
        if self.moved.contains(&id) {
            command.args(["--listen", self.address(id)]);
        }
        command.arg("--data").arg(self.data(id));
        command.args(&self.flags);
        command.stdin(Stdio::piped());
        command
    }

    /// A place for a member that is added to the running cluster, with the next id.
    pub(crate) fn newcomer(&mut self) -> usize {
        let id = self.addresses.len();
        self.joins.insert(id, self.addresses.join(","));
        self.addresses.push(format!("127.0.0.1:{}", free_port()));
        self.under.push(Vec::new());
        self.builds.push(env!("CARGO_BIN_EXE_kv").into());
        self.folders.push(self.folder.path().join(format!("data-{id}")));
        self.running.push(None);
        id
    }

    /// Lets a member that was added find the cluster at all addresses that there are now.
    pub(crate) fn update_join(&mut self, id: usize) {
        let others: Vec<_> =
            self.addresses.iter().filter(|address| **address != self.addresses[id]).collect();
        let others = others.into_iter().cloned().collect::<Vec<_>>().join(",");
        self.joins.entry(id).and_modify(|join| *join = others);
    }

    /// Gives a member that does not run another address, at which its next start listens. Its list keeps the old one.
    pub(crate) fn relocate(&mut self, id: usize) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        self.addresses[id].clone_from(&address);
        self.moved.insert(id);
        address
    }

    /// The member list has the new address: the next start finds it there.
    pub(crate) fn settle(&mut self, id: usize) {
        self.moved.remove(&id);
    }

    /// Restarts a member on its data, and waits until it serves.
    pub(crate) fn restart(&mut self, id: usize) {
        if let Err(problem) = self.try_restart(id) {
            panic!("member {id} does not start: {problem}");
        }
    }

    /// The same; returns the member's output if it stops instead.
    pub(crate) fn try_restart(&mut self, id: usize) -> Result<(), String> {
        let log = self.folder.path().join(format!("log-{id}"));
        let log = fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = self.command(id);
        command.arg("--exit-with-parent").arg(self.folder.path());
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("piped");
        let (served, serving) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if line.contains("\"serving\"") {
                    let _ = served.send(());
                }
            }
        });
        self.running[id] = Some(child);
        match serving.recv_timeout(LIMIT) {
            Ok(()) => Ok(()),
            Err(_) => {
                self.kill(id);
                Err(self.log(id).lines().last().unwrap_or_default().to_owned())
            }
        }
    }

    /// What a member has logged.
    pub(crate) fn log(&self, id: usize) -> String {
        fs::read_to_string(self.folder.path().join(format!("log-{id}"))).unwrap_or_default()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, id: usize) {
        if let Some(mut child) = self.running[id].take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; waits for the end.
    pub(crate) fn terminate(&mut self, id: usize) -> ExitStatus {
        self.signal(id, Signal::TERM);
        wait(&mut self.running[id].take().expect("it runs"))
    }

    /// The process of a member that runs.
    pub(crate) fn pid(&self, id: usize) -> u32 {
        self.running[id].as_ref().expect("it runs").id()
    }

    /// Whether a member has stopped, and the last lines of its log.
    pub(crate) fn has_ended(&mut self, id: usize) -> Option<String> {
        let child = self.running[id].as_mut()?;
        child.try_wait().expect("it is our child")?;
        Some(self.log(id).lines().last().unwrap_or_default().to_owned())
    }

    /// Waits until a member stops.
    pub(crate) fn ended(&mut self, id: usize) -> ExitStatus {
        wait(&mut self.running[id].take().expect("it runs"))
    }

    /// SIGSTOP: it freezes where it is. Waits until it has: on a busy machine some of its threads run for a while
    /// after.
    pub(crate) fn pause(&self, id: usize) {
        self.signal(id, Signal::STOP);
        let pid = Pid::from_child(self.running[id].as_ref().expect("it runs"));
        waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT).expect("it is our child");
    }

    /// SIGCONT: it continues as if nothing had happened.
    pub(crate) fn resume(&self, id: usize) {
        self.signal(id, Signal::CONT);
    }

    fn signal(&self, id: usize, signal: Signal) {
        let child = self.running[id].as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is our child");
    }

    /// A client that knows all addresses.
    pub(crate) async fn client(&self) -> Client {
        let mut builder = Client::builder("kv").transport(self.transport("app")).connect_timeout(LIMIT);
        for address in &self.addresses {
            builder = builder.address(address);
        }
        builder.deadline(LIMIT).connect().await.expect("a member answers")
    }

    /// A client's transport. The name counts where there are certificates.
    pub(crate) fn transport(&self, name: &str) -> Arc<dyn Transport> {
        let is_quic = self.flag("--transport") == Some("quic");
        match (self.identity(name), is_quic) {
            (None, true) => Arc::new(Quic::insecure()),
            (None, false) => Arc::new(Tcp::new()),
            (Some(identity), true) => Arc::new(Quic::new(identity)),
            (Some(identity), false) => Arc::new(Tcp::with_tls(identity)),
        }
    }

    /// A client's certificate, where the members have some.
    pub(crate) fn identity(&self, name: &str) -> Option<Identity> {
        let folder = Path::new(self.flag("--tls-dir")?);
        let path = |ending: &str| folder.join(format!("client-{name}.{ending}"));
        let files = Files::new(path("pem"), path("key"), folder.join("ca.pem"));
        Some(Identity::from_files(files).expect("the certificates are good"))
    }

    fn flag(&self, name: &str) -> Option<&str> {
        self.flags.windows(2).find(|pair| pair[0] == name).map(|pair| &*pair[1])
    }

    /// `kv ARGUMENTS`, for this cluster.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.kv(arguments))
    }

    /// The same, before it runs.
    pub(crate) fn kv(&self, arguments: &[&str]) -> Command {
        self.kv_under(&[], arguments)
    }

    /// The same, run by another program.
    pub(crate) fn kv_under(&self, program: &[String], arguments: &[&str]) -> Command {
        self.addressed(under(program), arguments)
    }

    /// The same, of another build.
    pub(crate) fn kv_of(&self, build: &Path, arguments: &[&str]) -> Command {
        self.addressed(build_under(build, &[]), arguments)
    }

    fn addressed(&self, mut command: Command, arguments: &[&str]) -> Command {
        command.args(arguments).env("KV_ADDRESS", self.addresses.join(","));
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for id in 0..self.addresses.len() {
            self.kill(id);
        }
        if std::thread::panicking() {
            for id in 0..self.addresses.len() {
                let log = self.log(id);
                let lines: Vec<_> = log.lines().collect();
                eprintln!(
                    "--- the last words of member {id}:\n{}",
                    lines[lines.len().saturating_sub(40)..].join("\n")
                );
            }
        }
    }
}

/// The status of the members that answer. A frozen member is not waited for.
pub(crate) async fn look(client: &Client) -> Vec<MemberStatus> {
    // An id that the cluster does not have is answered at once.
    let answers = (0..MOST_IDS).map(|id| timeout(PATIENCE, client.member_status(MemberId::new(id))));
    join_all(answers).await.into_iter().flatten().flatten().collect()
}

/// Waits until the status of the members that answer is as wished, and returns what `check` makes of it.
pub(crate) async fn see<T>(client: &Client, what: &str, check: impl Fn(&[MemberStatus]) -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        let seen = look(client).await;
        if let Some(found) = check(&seen) {
            return found;
        }
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}; seen last: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The member that serves as primary.
pub(crate) async fn primary(client: &Client) -> usize {
    see(client, "a primary", serving).await
}

/// Waits for a primary other than `old`.
pub(crate) async fn successor(client: &Client, old: usize) -> usize {
    see(client, "another primary", |seen| serving(seen).filter(|id| *id != old)).await
}

fn serving(seen: &[MemberStatus]) -> Option<usize> {
    let newest = seen.iter().map(|status| status.view).max()?;
    let status = seen.iter().find(|status| status.state == MemberState::Primary && status.view == newest)?;
    Some(status.id.get().into())
}

/// Waits until `members` (running data members) have converged: one is primary, the others follow it, and all have
/// applied everything that was committed when this was called.
pub(crate) async fn level(client: &Client, members: &[usize]) {
    let goal = see(client, "a primary", |seen| {
        seen.iter().find(|status| status.state == MemberState::Primary).map(|status| status.commit)
    })
    .await;
    see(client, "all level", |seen| {
        let level = |id: &usize| {
            let status = seen.iter().find(|status| status.id == member(*id))?;
            let settled = matches!(status.state, MemberState::Primary | MemberState::Backup);
            (settled && (status.applied >= goal || status.role == Role::Witness)).then_some(())
        };
        members.iter().all(|id| level(id).is_some()).then_some(())
    })
    .await;
}

fn member(id: usize) -> MemberId {
    MemberId::new(u8::try_from(id).expect("a small number"))
}

/// Waits until so many writes more have been acknowledged.
pub(crate) async fn progress(writers: &Writers, count: u64) {
    writers.work(count, count, LIMIT, LIMIT).await.expect("the cluster goes on");
}

/// Reads everything back and compares it with the outcomes that the writers received.
pub(crate) async fn verify(client: &Client, ledgers: &[Ledger]) -> LedgerReport {
    judge(client.scan("").await.expect("it can be read back"), ledgers)
}

/// Compares the store's contents with the outcomes that the writers received.
pub(crate) fn judge(records: Vec<(bytes::Bytes, Record)>, ledgers: &[Ledger]) -> LedgerReport {
    let store: BTreeMap<_, Record> = records.into_iter().collect();
    let verdict = ledger::compare(ledgers, &store);
    assert!(verdict.is_good(), "{verdict:#?}");
    verdict
}
