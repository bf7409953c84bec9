//! Members as real processes, with their data in a temporary folder.

use kv_peers::processes::{Process, ports};
use kv_peers::{Result, bench};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout};

/// Longer than anything here may take until the cluster is level.
const LIMIT: Duration = Duration::from_secs(300);
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look whether a condition holds.
const EVERY: Duration = Duration::from_millis(10);

/// A cluster. Dropping it kills the members and deletes their data. If this process is killed, the members see that
/// their standard input is closed, and end and delete the folder themselves.
#[derive(Debug)]
pub(crate) struct Cluster {
    kv: PathBuf,
    pub(crate) addresses: Vec<String>,
    /// What each member gets on its command line in addition.
    flags: Vec<String>,
    /// What each client gets on its command line in addition.
    client_flags: Vec<String>,
    running: Vec<Option<Child>>,
    folder: TempDir,
}

/// How members and clients reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Network {
    Tcp,
    Tls,
    Quic,
}

impl Network {
    pub(crate) const ALL: [Self; 3] = [Self::Tcp, Self::Tls, Self::Quic];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Tls => "TLS over TCP",
            Self::Quic => "QUIC with certificates",
        }
    }
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Cluster {
    /// Starts `N` members, and waits until they are level.
    pub(crate) async fn start<const N: usize>(kv: &Path, network: Network, flags: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("kv-curves-").tempdir()?;
        let mut client_flags = Vec::new();
        if network != Network::Tcp {
            let certificates = folder.path().join("certs").display().to_string();
            let ids: Vec<String> = (0..N).map(|id| id.to_string()).collect();
            let mut command = bench::kv(kv);
            command.args(["certs", "--members", &ids.join(","), "--out", &certificates]);
            let output = timeout(PATIENCE, command.output()).await??;
            if !output.status.success() {
                return Err(bench::complaint(&output.stderr).into());
            }
            client_flags = owned(&["--tls-dir", &certificates]);
        }
        if network == Network::Quic {
            client_flags.extend(owned(&["--transport", "quic"]));
        }
        let addresses = ports::<N>()?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let flags = [owned(flags), client_flags.clone()].concat();
        let running = (0..N).map(|_| None).collect();
        let mut cluster = Self { kv: kv.to_owned(), addresses, flags, client_flags, running, folder };
        for id in 0..N {
            cluster.start_member(id)?;
        }
        cluster.level().await?;
        Ok(cluster)
    }

    /// The list of members, as `kv serve --members` takes it.
    pub(crate) fn members(&self) -> String {
        let each = self.addresses.iter().enumerate().map(|(id, address)| format!("{id}={address}"));
        each.collect::<Vec<_>>().join(",")
    }

    /// The folder of a member's data.
    pub(crate) fn data(&self, id: usize) -> PathBuf {
        self.folder.path().join(id.to_string())
    }

    /// Starts a member, or restarts it on its old data.
    pub(crate) fn start_member(&mut self, id: usize) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log(id))?;
        let mut command = bench::kv(&self.kv);
        command.args(["serve", "--id", &id.to_string(), "--members", &self.members()]);
        command.arg("--data").arg(self.data(id)).arg("--exit-with-parent").arg(self.folder.path());
        command.args(&self.flags).stdin(Stdio::piped()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C in a terminal is sent to the whole group of processes. This program ends the members itself.
        command.process_group(0);
        self.running[id] = Some(command.spawn().map_err(|error| format!("cannot run kv serve: {error}"))?);
        Ok(())
    }

    fn log(&self, id: usize) -> PathBuf {
        self.folder.path().join(format!("log-{id}"))
    }

    /// Kills a member with SIGKILL, and waits for its end.
    pub(crate) async fn kill(&mut self, id: usize) -> Result<()> {
        if let Some(mut child) = self.running[id].take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// The process of a running member.
    pub(crate) fn process(&self, id: usize) -> Result<Process> {
        let pid = self.running[id].as_ref().and_then(Child::id);
        pid.map(Process).ok_or_else(|| format!("member {id} does not run").into())
    }

    /// The arguments with which a client finds this cluster.
    pub(crate) fn client(&self) -> Vec<String> {
        let mut arguments = owned(&["--address", &self.addresses.join(",")]);
        arguments.extend_from_slice(&self.client_flags);
        arguments
    }

    /// Runs `kv bench` on this cluster, and returns its summary.
    pub(crate) async fn bench(&self, arguments: &[String]) -> Result<Value> {
        bench::run(&self.kv, &[self.client(), arguments.to_vec()].concat()).await
    }

    /// Writes the keys of `kv bench` with numbers below `keys`, in batches.
    pub(crate) async fn fill(&self, keys: u64, value_bytes: u64) -> Result<()> {
        let (keys, size) = (keys.to_string(), value_bytes.to_string());
        let mut arguments = owned(&["--op", "get", "--clients", "16", "--time", "1ms", "--warm-up", "0s"]);
        arguments.extend(owned(&["--timeout", "60s", "--keys", &keys, "--value-size", &size]));
        self.bench(&arguments).await.map(drop)
    }

    /// Runs a command of `kv` on this cluster. Returns whether it succeeded, and what it printed.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<(bool, Vec<u8>, Vec<u8>)> {
        let mut command = bench::kv(&self.kv);
        command.args(arguments).args(self.client());
        let output = timeout(PATIENCE, command.output()).await.map_err(|_| "kv did not answer")??;
        Ok((output.status.success(), output.stdout, output.stderr))
    }

    /// The status of the members that answer.
    pub(crate) async fn status(&self) -> Result<Vec<Value>> {
        let (_, stdout, _) = self.run(&["status", "--json", "--timeout", "5s"]).await?;
        let line: Value = serde_json::from_slice(&stdout).unwrap_or_default();
        Ok(line["members"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until one running member is primary, and all others have applied what it had committed.
    pub(crate) async fn level(&self) -> Result<()> {
        let expected = self.running.iter().flatten().count();
        let begun = Instant::now();
        let mut goal = None;
        loop {
            let seen = self.status().await?;
            let of = |state: &str| seen.iter().filter(|member| member["state"] == state).collect::<Vec<_>>();
            let (primaries, backups) = (of("primary"), of("backup"));
            if let [primary] = primaries[..] {
                let goal = *goal.get_or_insert(primary["commit"].as_u64().unwrap_or_default());
                let level = backups.iter().filter(|member| member["applied"].as_u64() >= Some(goal)).count();
                if level + 1 == expected {
                    return Ok(());
                }
            }
            if begun.elapsed() > LIMIT {
                return Err(format!("not level within {LIMIT:?}: {seen:?}{}", self.last_words()).into());
            }
            sleep(EVERY).await;
        }
    }

    /// The id of the primary.
    pub(crate) async fn primary(&self) -> Result<usize> {
        let seen = self.status().await?;
        let primary = seen.iter().find(|member| member["state"] == "primary");
        let id = primary.and_then(|member| usize::try_from(member["id"].as_u64()?).ok());
        id.ok_or_else(|| format!("there is no primary: {seen:?}").into())
    }

    /// Runs `kv serve` with other arguments until it ends, which it must do at once, and returns its complaint.
    pub(crate) async fn serve_briefly(&self, arguments: &[&str]) -> Result<String> {
        let mut command = bench::kv(&self.kv);
        let output = timeout(PATIENCE, command.args(arguments).output());
        Ok(match output.await {
            Ok(output) => bench::complaint(&output?.stderr),
            Err(_) => "it waits".to_owned(),
        })
    }

    /// Waits until the log of a member that was just started contains a warning or an error, and returns it.
    pub(crate) async fn complaint(&mut self, id: usize) -> Result<String> {
        let begun = Instant::now();
        let old = std::fs::read_to_string(self.log(id)).unwrap_or_default().len();
        self.start_member(id)?;
        loop {
            let log = std::fs::read_to_string(self.log(id)).unwrap_or_default();
            let new = log.get(old..).unwrap_or_default();
            let bad = |line: &str| line.find(" WARN ").or(line.find(" ERROR ")).or(line.find("kv: "));
            if let Some(text) = new.lines().find_map(|line| Some(line[bad(line)?..].trim().to_owned())) {
                return Ok(text);
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("member {id} does not complain{}", self.last_words()).into());
            }
            sleep(EVERY).await;
        }
    }

    /// The last line of the log of each member.
    fn last_words(&self) -> String {
        let last = |id| {
            let log = std::fs::read_to_string(self.log(id)).unwrap_or_default();
            format!("\nmember {id}: {}", log.lines().last().unwrap_or("nothing"))
        };
        (0..self.addresses.len()).map(last).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.running.iter_mut().flatten() {
            // It may have ended already. Its files are deleted only afterwards, so its end is waited for.
            let _ = child.start_kill();
            while matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(EVERY);
            }
        }
    }
}
