//! `kv serve`: runs one member until a signal stops it.

use crate::config::{DoorConfig, ServeConfig};
use crate::failure::Failure;
use crate::folders;
use crate::output::{self, STRONG, styled};
use crate::signals::Signals;
use crate::supervisor::Supervisor;
use kv_core::Node;
use kv_core::config::OptionMismatch;
use kv_core::node::{Halt, JoinError, MemberState, StartError, StopReason};
use kv_core::transport::{Fault, Faults, Faulty, Lane, Scope, Transport, TransportError};
use kv_doors::http::{self, HttpOptions};
use kv_doors::resp::{self, RespOptions};
use std::convert::Infallible;
use std::io::{ErrorKind, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// How long a cluster may take to form before the member logs what it is waiting for.
const FORMING: Duration = Duration::from_secs(3);

/// Runs the member described by `config` until a signal arrives or it stops on its own.
pub(crate) async fn run(config: ServeConfig, json: bool) -> Result<(), Failure> {
    let mut signals = Signals::catch()?;
    raise_open_files();
    let supervisor = Supervisor::from_environment();
    let transport = config.transport.transport(config.tls.as_ref())?;
    warn(&config);
    let doors = Doors::open(&config).await?;
    supervisor.starting().await;
    let id = config.id.get();
    let mut builder = match &config.cluster {
        Some(cluster) => Node::builder(cluster.clone(), id),
        None => Node::added(&config.name, id),
    };
    if let Some(file) = &config.clients {
        builder = builder.clients(file);
    }
    if let Some(listen) = &config.listen {
        builder = builder.listen(listen);
    }
    let start = builder
        .join(&config.join)
        .transport(lossy(transport, config.lose))
        .data_dir(&config.data)
        .options(config.options.clone())
        .start();
    let node = tokio::select! {
        started = start => started.map_err(|error| explain(&error, &config))?,
        // To open the data may take long, and a member that does not serve yet has nothing to hand over.
        signal = signals.next() => {
            tracing::info!(%signal, "stopping: the member has not started yet");
            supervisor.stopping().await;
            return Ok(());
        }
    };
    if let Some(folder) = config.exit_with_parent.clone() {
        std::thread::spawn(move || end_with_parent(&folder));
    }
    let node = Arc::new(node);
    announce(&config, &node, &doors, json);
    let doors = doors.serve(&config, &node);
    tokio::pin!(doors);
    supervisor.ready(&node).await;
    let watchdog = supervisor.feed_watchdog(&node);
    tokio::pin!(watchdog);
    tokio::select! {
        reason = node.stopped() => {
            let message = format!("member {id} stopped: {reason}{}", remedy(&reason, &config));
            return Err(by_need(reason.needs_operator(), message));
        }
        signal = signals.next() => tracing::info!(%signal, "stopping: a second signal stops at once"),
        never = explain_forming(&node) => match never {},
        never = supervisor.report(&node) => match never {},
        never = &mut watchdog => match never {},
        failure = &mut doors => return Err(failure),
    }
    let asked = Instant::now();
    supervisor.stopping().await;
    tokio::select! {
        () = node.shutdown() => Ok(()),
        // Until the end, its clients are served: the other members answer them.
        failure = doors => Err(failure),
        never = watchdog => match never {},
        signal = signals.again(asked) => {
            Err(signal.ended(format!("stopped at once by a second signal ({signal})")))
        }
    }
}

/// The ports for clients of other protocols.
struct Doors {
    resp: Option<TcpListener>,
    http: Option<TcpListener>,
}

impl Doors {
    /// Opens the ports, before anything is started.
    async fn open(config: &ServeConfig) -> Result<Self, Failure> {
        let resp = open(config.resp.as_ref(), "clients of Redis", "--resp").await?;
        let http = open(config.http.as_ref(), "clients of HTTP", "--http").await?;
        Ok(Self { resp, http })
    }

    /// Serves on the ports for as long as this is polled.
    async fn serve(self, config: &ServeConfig, node: &Arc<Node>) -> Failure {
        tokio::select! {
            failure = serve_resp(config, node, self.resp) => failure,
            failure = serve_http(config, node, self.http) => failure,
        }
    }
}

async fn open(door: Option<&DoorConfig>, clients: &str, flag: &str) -> Result<Option<TcpListener>, Failure> {
    let Some(door) = door else { return Ok(None) };
    let listener = TcpListener::bind(&door.listen).await.map_err(|error| {
        let listen = &door.listen;
        Failure::failed(format!(
            "cannot serve {clients} on {listen}: {error}; choose another address with {flag}"
        ))
    })?;
    Ok(Some(listener))
}

async fn serve_resp(config: &ServeConfig, node: &Node, listener: Option<TcpListener>) -> Failure {
    let (Some(listener), Some(door)) = (listener, &config.resp) else { return std::future::pending().await };
    let mut options = RespOptions::default();
    options.master_name.clone_from(&config.name);
    options.doors.clone_from(&door.doors);
    match resp::serve(listener, node.client(), options).await {
        Ok(()) => std::future::pending().await,
        Err(error) => Failure::failed(format!("cannot serve clients of Redis: {error}")),
    }
}

async fn serve_http(config: &ServeConfig, node: &Arc<Node>, listener: Option<TcpListener>) -> Failure {
    let (Some(listener), Some(door)) = (listener, &config.http) else { return std::future::pending().await };
    let mut options = HttpOptions::default();
    options.cluster.clone_from(&config.name);
    options.doors.clone_from(&door.doors);
    options.hosts.clone_from(&door.hosts);
    options.pages_only = door.pages_only;
    match http::serve(listener, node.client(), Some(node.clone()), options).await {
        Ok(()) => std::future::pending().await,
        Err(error) => Failure::failed(format!("cannot serve clients of HTTP: {error}")),
    }
}

/// Raises the limit on open files as far as allowed: a member accepts fewer clients if it may open only few files.
fn raise_open_files() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
            tracing::debug!(%error, ?maximum, "cannot raise the number of open files");
        }
    }
}

/// Logs warnings about a dangerous configuration, at every start.
fn warn(config: &ServeConfig) {
    if config.is_exposed {
        tracing::warn!(
            listen = config.listen.as_deref().unwrap_or_default(),
            "insecure: anyone who can reach this port can read and write everything, and pose as a member. Use certificates \
             (--tls-dir; kv certs creates them)"
        );
    }
    for (door, clients) in [(&config.resp, "Redis"), (&config.http, "HTTP")] {
        if let Some(door) = door.as_ref().filter(|door| door.is_exposed) {
            tracing::warn!(
                listen = door.listen,
                "insecure: anyone who can reach this port can read and write everything, as a client of {clients}"
            );
        }
    }
    #[cfg(unix)]
    use std::os::unix::fs::MetadataExt as _;
    #[cfg(unix)]
    if let Some(files) = &config.tls
        && let Ok(data) = std::fs::metadata(&files.key)
        && is_key_exposed(data.mode(), data.uid())
    {
        tracing::warn!(key = %files.key.display(), "accounts other than its owner can read the private key: run chmod 600 on it");
    }
}

/// Whether too many accounts can read a private key with this mode and owner. A key of root may be readable for one
/// group: that is how services and containers, which do not run as root, get keys that they cannot change.
#[cfg(unix)]
const fn is_key_exposed(mode: u32, owner: u32) -> bool {
    let others = if owner == 0 { 0o037 } else { 0o077 };
    mode & others != 0
}

/// Logs what a cluster that does not form is waiting for.
async fn explain_forming(node: &Node) -> Infallible {
    let formed = tokio::time::timeout(FORMING, node.wait_formed()).await;
    if formed.is_err() && node.status().state == MemberState::Forming {
        tracing::warn!(
            "still forming: the first start of a cluster needs all of its members. If this member was added to a running \
             cluster (kv member add), start it with --join HOST:PORT, the address of another member"
        );
    }
    std::future::pending().await
}

/// Why a start failed, and what to do about it.
fn explain(error: &StartError, config: &ServeConfig) -> Failure {
    let (id, data) = (config.id, &config.data);
    let message = match error {
        StartError::OtherIdentity { .. } => return Failure::usage(error),
        StartError::ClientList { source, .. } => return Failure::unreadable(source, error),
        StartError::Transport(TransportError::Bind { source, .. })
            if source.kind() == ErrorKind::AddrInUse =>
        {
            format!("{error} with --listen")
        }
        StartError::NoMembers => format!(
            "the data folder {} contains no member list: name the members with which the cluster formed with --members, or \
             join a running cluster with --join HOST:PORT",
            data.display()
        ),
        StartError::Join(JoinError::NotListed(_)) => format!(
            "cannot join the cluster: it has no member {id}. Add it first: kv member add {id}=HOST:PORT{}",
            address_flag(config)
        ),
        StartError::Join(JoinError::HasVote(_)) => format!("{error}: {}", replacement(config)),
        _ if let Some(OptionMismatch { option, .. }) = error.other_option() => format!(
            "the data folder {}: {error} (set by --{}, KV_{}, or {option} under [options] in the file)",
            data.display(),
            option.replace('_', "-"),
            option.to_uppercase(),
        ),
        StartError::Journal(_) | StartError::Engine(_) | StartError::StateLost { .. } => {
            format!("the data folder {}: {error}", data.display())
        }
        _ => error.to_string(),
    };
    by_need(error.needs_operator(), message)
}

/// What to do about the end of a member, if it is not said yet.
fn remedy(reason: &StopReason, config: &ServeConfig) -> String {
    match reason {
        StopReason::DiskHangs { stopped } => remedy(stopped, config),
        StopReason::Halted(Halt::DiskLoss { .. }) => format!(
            ". If the disk is gone for good, replace this member: {}. If this member was never started before, but was added \
             to a running cluster, start it with --join{}",
            replacement(config),
            others(config)
        ),
        StopReason::Halted(Halt::OtherDisk { .. }) => format!(": {}", replacement(config)),
        _ => String::new(),
    }
}

/// The commands that replace a member whose disk was lost.
fn replacement(config: &ServeConfig) -> String {
    format!(
        "kv member replace {} NEW=HOST:PORT{}, with an id that no member has or had, and, on the machine of the new member, \
         kv serve --id NEW --listen HOST:PORT --join{} with an empty data folder",
        config.id,
        address_flag(config),
        others(config)
    )
}

/// The addresses of the other members, for --join.
fn others(config: &ServeConfig) -> String {
    let list = config.stored.as_ref().or(config.cluster.as_ref());
    let peers = list.into_iter().flat_map(|list| list.peers(config.id));
    let mut addresses: Vec<_> = peers.map(|peer| peer.address.as_str()).collect();
    addresses.extend(config.join.iter().map(String::as_str));
    addresses.dedup();
    if addresses.is_empty() { " HOST:PORT".to_owned() } else { format!(" {}", addresses.join(",")) }
}

/// How a command finds the cluster, if it would not find it by itself.
fn address_flag(config: &ServeConfig) -> String {
    format!(" --address{}", others(config))
}

/// The failure of a member that stopped or did not start.
fn by_need(needs_operator: bool, message: String) -> Failure {
    if needs_operator { Failure::needs_operator(message) } else { Failure::failed(message) }
}

/// A network with losses between members, but not for clients.
fn lossy(inner: Arc<dyn Transport>, (percent, seed): (u8, u64)) -> Arc<dyn Transport> {
    if percent == 0 {
        return inner;
    }
    let faults = Faults::new(seed);
    for lane in [Lane::Control, Lane::Log, Lane::Bulk] {
        // At one end only. Otherwise each message could be lost twice.
        faults.set(Scope::all().lane(lane).outgoing(), Fault::new().loss(f64::from(percent) / 100.0));
    }
    Arc::new(Faulty::new(inner, faults, kv_core::transport::framing()).spare_first())
}

/// Prints the line that reports that the member serves.
fn announce(config: &ServeConfig, node: &Node, doors: &Doors, json: bool) {
    let (role, address) = (node.status().role, node.local_address());
    let address_of = |door: &Option<TcpListener>| Some(door.as_ref()?.local_addr().ok()?.to_string());
    let (resp, http) = (address_of(&doors.resp), address_of(&doors.http));
    let line = if json {
        serde_json::json!({
            "event": "serving",
            "id": config.id.get(),
            "role": role,
            "address": address,
            "cluster": config.name,
            "data": config.data.display().to_string(),
            "resp": resp,
            "http": http,
        })
        .to_string()
    } else {
        format!(
            "{} {} ({role}) of cluster {:?} serves on {} with its data in {}{}{}",
            styled(STRONG, "member"),
            styled(STRONG, config.id),
            config.name,
            styled(STRONG, address),
            config.data.display(),
            resp.map(|address| format!(", and clients of Redis on {address}")).unwrap_or_default(),
            http.map(|address| format!(", and HTTP on {address}")).unwrap_or_default(),
        )
    };
    // It is no reason to stop if nobody reads the line any more.
    let _ = output::print(&line);
}

/// Ends the process when standard input ends, and removes `folder`: the parent is gone, for whatever reason.
fn end_with_parent(folder: &Path) {
    let mut input = std::io::stdin().lock();
    let mut buffer = [0; 64];
    while matches!(input.read(&mut buffer), Ok(read) if read > 0) {}
    folders::sweep(folder);
    std::process::exit(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServeArgs;
    use std::io::Error;

    #[test]
    fn the_exit_code_of_a_start_says_whether_a_restart_may_help() {
        let args =
            ServeArgs { id: Some(0), members: vec!["0=127.0.0.1:7000".into()], ..ServeArgs::default() };
        let config = ServeConfig::resolve(args).unwrap();
        let list = |kind: ErrorKind| StartError::ClientList { file: "clients".into(), source: kind.into() };
        for (error, expected) in [
            (list(ErrorKind::NotFound), Failure::usage("")),
            (list(ErrorKind::InvalidData), Failure::usage("")),
            (list(ErrorKind::PermissionDenied), Failure::failed("")),
            (list(ErrorKind::StaleNetworkFileHandle), Failure::failed("")),
            (StartError::Thread(Error::from(ErrorKind::WouldBlock)), Failure::failed("")),
        ] {
            assert_eq!(explain(&error, &config).code(), expected.code(), "{error}");
            assert!(!error.needs_operator(), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn only_root_may_share_a_key_with_a_group() {
        const ROOT: u32 = 0;
        let is_exposed = |mode: u32, owner| is_key_exposed(0o100_000 | mode, owner);
        assert!(!is_exposed(0o600, 1000) && !is_exposed(0o400, 1000));
        assert!(is_exposed(0o640, 1000) && is_exposed(0o604, 1000));
        assert!(!is_exposed(0o600, ROOT) && !is_exposed(0o440, ROOT) && !is_exposed(0o640, ROOT));
        assert!(is_exposed(0o660, ROOT) && is_exposed(0o444, ROOT) && is_exposed(0o604, ROOT));
    }
}
