//! The groups of servers: three processes each, with their data in a temporary folder.

use crate::load::{Load, Measured};
use kv_peers::processes::{Process, ports};
use kv_peers::{Result, bench};
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Three servers. Dropping it ends them and deletes what they wrote.
#[derive(Debug)]
pub(crate) struct Group {
    /// Where clients connect.
    pub(crate) addresses: Vec<SocketAddr>,
    children: Vec<Child>,
    _folder: TempDir,
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Group {
    fn start(folder: TempDir, clients: &[u16], mut commands: Vec<Command>) -> Result<Self> {
        let addresses = clients.iter().map(|port| local(*port)).collect();
        let mut group = Self { addresses, children: Vec::new(), _folder: folder };
        for (number, command) in commands.iter_mut().enumerate() {
            let log = File::create(group._folder.path().join(format!("log-{number}")))?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let program = command.get_program().to_owned();
            let child = command.spawn();
            group.children.push(child.map_err(|error| format!("cannot run {}: {error}", program.display()))?);
        }
        Ok(group)
    }

    pub(crate) async fn etcd() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let clients = ports::<6>()?;
        let (clients, peers) = clients.split_at(3);
        let cluster: Vec<String> =
            peers.iter().enumerate().map(|(n, port)| format!("m{n}=http://127.0.0.1:{port}")).collect();
        let commands = (0..3).map(|n| {
            let (client, peer) =
                (format!("http://127.0.0.1:{}", clients[n]), format!("http://127.0.0.1:{}", peers[n]));
            let mut command = Command::new("etcd");
            command.args(["--name", &format!("m{n}"), "--initial-cluster", &cluster.join(",")]);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--quota-backend-bytes", "8589934592", "--logger", "zap", "--log-level", "error"]);
            command.arg("--data-dir").arg(folder.path().join(format!("m{n}")));
            command
        });
        let commands = commands.collect();
        Self::start(folder, clients, commands)
    }

    pub(crate) async fn redis() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let clients = ports::<3>()?;
        let mut commands = Vec::new();
        for (n, port) in clients.iter().enumerate() {
            let own = folder.path().join(format!("m{n}"));
            fs::create_dir(&own)?;
            let mut command = Command::new("redis-server");
            command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
            command.args(["--appendonly", "yes", "--appendfsync", "always"]);
            command.args(["--repl-diskless-sync-delay", "0"]).arg("--dir").arg(own);
            if n > 0 {
                command.args(["--replicaof", "127.0.0.1", &clients[0].to_string()]);
            }
            commands.push(command);
        }
        Self::start(folder, &clients, commands)
    }

    pub(crate) async fn nats(program: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let all = ports::<6>()?;
        let (clients, routes) = all.split_at(3);
        let others: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut commands = Vec::new();
        for n in 0..3 {
            let config = format!(
                "server_name: m{n}\nlisten: 127.0.0.1:{}\n\
                 jetstream {{ store_dir: {:?}, sync_interval: always, max_file_store: 8589934592 }}\n\
                 cluster {{ name: bench, listen: 127.0.0.1:{}, routes: [{}] }}\n",
                clients[n],
                folder.path().join(format!("m{n}")),
                routes[n],
                others.join(", "),
            );
            let file = folder.path().join(format!("m{n}.conf"));
            fs::write(&file, config)?;
            let mut command = Command::new(program);
            command.arg("--config").arg(file);
            commands.push(command);
        }
        Self::start(folder, clients, commands)
    }

    /// The processor time that the servers have used.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut seconds = 0.0;
        for child in &self.children {
            seconds += Process(child.id()).cpu_seconds()?;
        }
        Ok(seconds)
    }
}

/// kv brings its own load generator, which is of the same kind.
pub(crate) async fn kv(program: &Path, load: &Load) -> Result<Measured> {
    let mut arguments: Vec<String> = ["--spawn", "3", "--op", load.op.name()].map(str::to_owned).to_vec();
    arguments.extend(["--clients".to_owned(), load.clients.to_string()]);
    arguments.extend(["--keys".to_owned(), load.keys.to_string()]);
    arguments.extend(["--value-size".to_owned(), load.value_bytes.to_string()]);
    arguments.extend(["--time".to_owned(), format!("{}s", load.time.as_secs())]);
    let summary = bench::run(program, &arguments).await?;
    let number = |name: &str| bench::number(&summary, name);
    if number("errors")? > 0.0 {
        return Err(format!("kv bench reports errors: {summary}").into());
    }
    let members = summary["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let cpu = members.iter().filter_map(|member| member["cpu_us_per_op"].as_f64()).sum();
    Ok(Measured {
        throughput: number("throughput")?,
        p50_us: number("p50_us")? as u64,
        p99_us: number("p99_us")? as u64,
        max_us: number("max_us")? as u64,
        cpu_us: cpu,
    })
}
