//! The members of the demo: real processes in a folder that is deleted with them.

use crate::config::{TlsFiles, TransportKind};
use crate::failure::Failure;
use crate::folders;
use kv_core::transport::Transport;
use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// The name of the demo's clusters.
pub(crate) const CLUSTER: &str = "demo";
/// The number of members of the demo.
pub(crate) const COUNT: u8 = 3;
/// How long a member may take from its start until it prints that it serves.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How many lines of each member's log are kept, to be shown after a failure.
const LOG_LINES: usize = 30;
/// How often a start is retried on other ports: another process may take a port between its choice and its use.
const ATTEMPTS: usize = 5;

/// Member processes. Dropping this kills them and deletes their data.
///
/// Each member holds the reading end of a pipe whose writing end only this process has. When this process is gone, even
/// by SIGKILL, the members stop and delete the folder. The first member creates the folder for that reason.
#[derive(Debug)]
pub(crate) struct Members {
    folder: PathBuf,
    ports: Vec<u16>,
    processes: Vec<Option<Process>>,
    logs: Vec<Log>,
    plan: DemoPlan,
}

/// The arguments that all members get.
#[derive(Clone, Debug)]
pub(crate) struct DemoPlan {
    /// The number of members.
    pub(crate) members: u8,
    /// How members and clients reach each other.
    pub(crate) transport: TransportKind,
    /// Whether all have certificates.
    pub(crate) tls: bool,
    /// The seed that decides which messages are lost.
    pub(crate) seed: u64,
    /// The share of the messages between members that is lost, in percent.
    pub(crate) loss: u8,
    /// The log level of the members, if the log is to be shown.
    pub(crate) log: Option<String>,
}

/// The last lines of a member's log.
type Log = Arc<Mutex<VecDeque<String>>>;

#[derive(Debug)]
struct Process {
    child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already. Waiting removes it from the process table in any case.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Members {
    /// Starts the members with empty folders.
    pub(crate) async fn start(plan: &DemoPlan) -> Result<Self, Failure> {
        for _ in 1..ATTEMPTS {
            if let Ok(members) = Self::try_start(plan).await {
                return Ok(members);
            }
        }
        Self::try_start(plan).await
    }

    async fn try_start(plan: &DemoPlan) -> Result<Self, Failure> {
        let folder =
            std::env::temp_dir().join(format!("kv-demo-{}-{:016x}", std::process::id(), fastrand::u64(..)));
        let ports = free_ports(plan.members.into())?;
        let processes = (0..plan.members).map(|_| None).collect();
        let logs = (0..plan.members).map(|_| Log::default()).collect();
        let mut members = Self { folder, ports, processes, logs, plan: plan.clone() };
        #[cfg(feature = "tls")]
        if plan.tls {
            members.make_certificates()?;
        }
        for id in 0..plan.members {
            members.start_member(id).await?;
        }
        Ok(members)
    }

    /// The addresses of the members, in id order.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect()
    }

    /// The network as the demo's client sees it.
    pub(crate) fn transport(&self) -> Result<Arc<dyn Transport>, Failure> {
        let files = self.plan.tls.then(|| TlsFiles::of(&self.certificates(), "client-demo"));
        self.plan.transport.transport(files.as_ref())
    }

    fn certificates(&self) -> PathBuf {
        self.folder.join("certs")
    }

    #[cfg(feature = "tls")]
    fn make_certificates(&self) -> Result<(), Failure> {
        crate::certs::make(&crate::cli::CertsArgs {
            cluster: Some(CLUSTER.to_owned()),
            members: (0..self.plan.members).collect(),
            clients: vec!["demo".to_owned()],
            out: self.certificates(),
            days: 1,
            renew: false,
        })
        .map(drop)
    }

    /// The process id of a running member.
    pub(crate) fn pid(&self, id: u8) -> Option<u32> {
        self.processes.get(usize::from(id))?.as_ref().map(|process| process.child.id())
    }

    /// Kills a member with SIGKILL.
    pub(crate) fn kill(&mut self, id: u8) {
        if let Some(process) = self.processes.get_mut(usize::from(id)) {
            *process = None;
        }
    }

    /// Starts a member, or restarts it on its old data, and waits until it reports that it serves.
    pub(crate) async fn start_member(&mut self, id: u8) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::failed(format!("cannot find the program to start members with: {error}"))
        })?;
        let mut command = Command::new(program);
        // A variable that is meant for the user's own cluster must not affect these members.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV_")) {
            command.env_remove(name);
        }
        // A supervisor of this process must not take a member's messages for this process's.
        command.env_remove("NOTIFY_SOCKET");
        let members: Vec<String> =
            self.addresses().iter().enumerate().map(|(id, address)| format!("{id}={address}")).collect();
        command
            .args([
                "serve",
                "--json",
                "--cluster",
                CLUSTER,
                "--id",
                &id.to_string(),
                "--members",
                &members.join(","),
                "--transport",
                self.plan.transport.name(),
            ])
            .arg("--data")
            .arg(self.folder.join(id.to_string()))
            .arg("--exit-with-parent")
            .arg(&self.folder)
            .args(["--lose", &self.plan.loss.to_string()])
            .args(["--lose-seed", &(self.plan.seed.wrapping_add(id.into())).to_string()])
            .args(["--log", self.plan.log.as_deref().unwrap_or("info")])
            .env("NO_COLOR", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.plan.tls {
            command.arg("--tls-dir").arg(self.certificates());
        }
        own_group(&mut command);
        let child = command
            .spawn()
            .map_err(|error| Failure::failed(format!("cannot start a member process: {error}")))?;
        let mut process = Process { child };
        let serving = watch(&mut process, id, self.logs[usize::from(id)].clone(), self.plan.log.is_some());
        self.processes[usize::from(id)] = Some(process);
        match timeout(START_LIMIT, serving).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => {
                Err(Failure::failed(format!("member {id} ended before it served{}", self.last_log_line(id))))
            }
            Err(_) => Err(Failure::failed(format!(
                "member {id} did not start within {START_LIMIT:?}{}",
                self.last_log_line(id)
            ))),
        }
    }

    /// The last log lines of each member, for the report of a failure.
    pub(crate) fn last_logs(&self) -> Vec<(u8, Vec<String>)> {
        let lines = |log: &Log| log.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        (0..).zip(self.logs.iter().map(lines)).collect()
    }

    fn last_log_line(&self, id: u8) -> String {
        let log = self.logs[usize::from(id)].lock().unwrap_or_else(PoisonError::into_inner);
        log.back().map(|line| format!(": {line}")).unwrap_or_default()
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        self.processes.clear();
        folders::sweep(&self.folder);
    }
}

/// Ctrl-C in a terminal is sent to a whole process group. This way the demo receives it, and ends its members itself.
#[cfg(unix)]
fn own_group(command: &mut Command) {
    std::os::unix::process::CommandExt::process_group(command, 0);
}

#[cfg(not(unix))]
fn own_group(_: &mut Command) {}

/// Reads the output of a member on threads that end with it. The receiver is notified when the member serves; the
/// channel closes if it ends before.
fn watch(process: &mut Process, id: u8, log: Log, shown: bool) -> oneshot::Receiver<()> {
    let (served, serving) = oneshot::channel();
    if let Some(stderr) = process.child.stderr.take() {
        std::thread::spawn(move || {
            for line in lines(stderr) {
                if shown {
                    // If stderr is closed, the line cannot be shown.
                    let _ = writeln!(std::io::stderr().lock(), "member {id}: {line}");
                }
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                if log.len() == LOG_LINES {
                    log.pop_front();
                }
                log.push_back(line);
            }
        });
    }
    if let Some(stdout) = process.child.stdout.take() {
        std::thread::spawn(move || {
            let mut served = Some(served);
            // Read to the end, so that the member never waits for a reader.
            for line in lines(stdout) {
                if let Some(served) = served.take_if(|_| line.contains("\"serving\"")) {
                    // The waiting task may have given up.
                    let _ = served.send(());
                }
            }
        });
    }
    serving
}

fn lines(stream: impl Read) -> impl Iterator<Item = String> {
    BufReader::new(stream)
        .split(b'\n')
        .map_while(Result::ok)
        .map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// Unused ports outside the range that the system uses for outgoing connections. Otherwise an outgoing connection could
/// take the port of a member that is down for a moment.
fn free_ports(count: usize) -> Result<Vec<u16>, Failure> {
    let hold = |port| {
        Some((port, TcpListener::bind(("127.0.0.1", port)).ok()?, UdpSocket::bind(("127.0.0.1", port)).ok()?))
    };
    let candidates = std::iter::repeat_with(|| fastrand::u16(10_000..30_000)).take(1000);
    let held: Vec<_> = candidates.filter_map(hold).take(count).collect();
    let ports: Vec<u16> = held.iter().map(|(port, ..)| *port).collect();
    if ports.len() == count { Ok(ports) } else { Err(Failure::failed("cannot find free ports on 127.0.0.1")) }
}
