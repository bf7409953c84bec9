//! The configuration: flags, then `KV_*` variables, then the file. It is checked as a whole before anything is changed.

mod args;
mod doors;
mod tls;
mod transport;
mod tuning;
mod units;

use crate::failure::Failure;
use kv_core::config::{Cluster, ConfigError, MemberId, Options, Role};
use kv_core::offline;
use kv_core::transport::check_host_port;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub(crate) use args::{ConnectArgs, ServeArgs};
pub(crate) use doors::DoorConfig;
pub(crate) use tls::TlsFiles;
pub(crate) use transport::TransportKind;
pub(crate) use tuning::Tuning;
#[cfg(feature = "tls")]
pub(crate) use units::listed;
pub(crate) use units::{DurationArg, SizeArg, time, whole};

/// The default name of a cluster.
pub(crate) const DEFAULT_CLUSTER: &str = "kv";
/// The default address for a client.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7000";
/// The default data directory of a member.
const DEFAULT_DATA: &str = "kv-data-{id}";

/// The keys of the configuration file; `cluster.example.toml` explains each of them.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    cluster: Option<String>,
    member: Vec<FileMember>,
    id: Option<u8>,
    data: Option<PathBuf>,
    listen: Option<String>,
    insecure: Option<bool>,
    join: Vec<String>,
    transport: Option<TransportKind>,
    log: Option<String>,
    tls: tls::FileTls,
    resp: doors::FileResp,
    http: doors::FileHttp,
    options: Tuning,
}

#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct FileMember {
    id: u8,
    address: String,
    /// Where clients reach the member, if the address differs.
    client_address: Option<String>,
    role: Option<String>,
}

/// A checked configuration of a member.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ServeConfig {
    /// The name of the cluster.
    pub(crate) name: String,
    /// The configured member list.
    pub(crate) cluster: Option<Cluster>,
    /// The list in the data folder, which is used instead.
    pub(crate) stored: Option<Cluster>,
    pub(crate) id: MemberId,
    pub(crate) data: PathBuf,
    /// The address to listen on: the member's own address, or another one that leads here. `None` if the member was
    /// removed.
    pub(crate) listen: Option<String>,
    pub(crate) transport: TransportKind,
    pub(crate) tls: Option<TlsFiles>,
    /// The file with the names of the clients that may connect; `None` for all.
    pub(crate) clients: Option<PathBuf>,
    /// Whether the member can be reached from other machines, without any authentication.
    pub(crate) is_exposed: bool,
    /// Where clients of Redis are served; `None` for nowhere.
    pub(crate) resp: Option<DoorConfig>,
    /// Where HTTP is served; `None` for nowhere.
    pub(crate) http: Option<DoorConfig>,
    pub(crate) options: Options,
    /// If the data folder is empty, join the cluster of the members at these addresses.
    pub(crate) join: Vec<String>,
    /// What to log, if the file configures it.
    pub(crate) log: Option<String>,
    /// When standard input ends, stop and delete this folder.
    pub(crate) exit_with_parent: Option<PathBuf>,
    /// The share of the messages between members that is lost, in percent, and the seed.
    pub(crate) lose: (u8, u64),
}

/// A checked configuration of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ConnectConfig {
    pub(crate) cluster: String,
    /// The addresses to try, with the member id if it is known.
    pub(crate) addresses: Vec<(Option<MemberId>, String)>,
    pub(crate) transport: TransportKind,
    pub(crate) tls: Option<TlsFiles>,
}

impl ServeConfig {
    /// Combines flags, variables and file, and checks the result. Only reads the file.
    pub(crate) fn resolve(args: ServeArgs) -> Result<Self, Failure> {
        let path = args.config.clone();
        let file = File::load(path.as_deref())?;
        Self::combine(args, file).map_err(|failure| match path {
            Some(path) => Failure::usage(format!("{}: {failure}", path.display())),
            None => failure,
        })
    }

    fn combine(args: ServeArgs, file: File) -> Result<Self, Failure> {
        let name = args.cluster.or(file.cluster).unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
        let members = if args.members.is_empty() {
            file.member
        } else {
            args.members.iter().map(|text| parse_member(text)).collect::<Result<_, _>>()?
        };
        let cluster = if members.is_empty() { None } else { Some(build(&name, &members)?) };
        let join = if args.join.is_empty() { file.join } else { args.join };
        join.iter().try_for_each(|address| check_address(address)).map_err(Failure::usage)?;
        let id = own_id(args.id.or(file.id), cluster.is_none() && join.is_empty())?;
        let data = substitute(args.data.or(file.data).unwrap_or_else(|| PathBuf::from(DEFAULT_DATA)), id)?;
        let stored = offline::stored_list(&data).filter(|it| it.member == id && it.cluster.name() == name);
        let stored = stored.map(|list| list.cluster);
        let listen = match args.listen.or(file.listen) {
            given @ Some(_) if stored.is_some() || !join.is_empty() => given,
            given => given.or(own_address(id, cluster.as_ref(), stored.as_ref(), !join.is_empty())?),
        };
        let tls = tls::of_member(&args.tls, &args.admission, &file.tls, id)?;
        let clients = args.admission.tls_clients.or(file.tls.clients);
        if clients.is_some() && tls.is_none() {
            return Err(Failure::usage(
                "a client list requires TLS, because a client can claim any name without it: give certificates with --tls-dir",
            ));
        }
        let is_exposed = match listen.as_ref().filter(|_| tls.is_none()) {
            Some(listen) => is_exposed(id, listen, args.insecure.or(file.insecure).unwrap_or(false))?,
            None => false,
        };
        let resp = doors::resp(&args.doors, &file.resp)?;
        let http = doors::http(&args.doors, &file.http)?;
        let transport = args.transport.or(file.transport).unwrap_or_default();
        transport.check()?;
        let mut options = Options::default();
        file.options.apply(&mut options);
        args.tuning.apply(&mut options);
        options.check().map_err(Failure::usage)?;
        Ok(Self {
            name,
            stored,
            data,
            listen,
            transport,
            tls,
            clients,
            is_exposed,
            resp,
            http,
            options,
            join,
            log: file.log,
            exit_with_parent: args.exit_with_parent,
            lose: (args.lose, args.lose_seed),
            id,
            cluster,
        })
    }
}

impl ConnectConfig {
    /// Combines flags, variables and file.
    pub(crate) fn resolve(args: &ConnectArgs) -> Result<Self, Failure> {
        let file = File::load(args.config.as_deref())?;
        let cluster = args.cluster.clone().or(file.cluster).unwrap_or_else(|| DEFAULT_CLUSTER.to_owned());
        let tls = tls::of_client(&args.tls, args.tls_name.as_deref(), &file.tls)?;
        let given = args.address.iter().map(|text| parse_address(text));
        let mut addresses: Vec<_> = given.collect::<Result<_, _>>()?;
        if addresses.is_empty() {
            let reached = |member: FileMember| match member.client_address {
                Some(address) => (Some(MemberId::new(member.id)), address),
                None => (None, member.address),
            };
            addresses = file.member.into_iter().map(reached).collect();
        }
        if addresses.is_empty() {
            addresses = vec![(None, DEFAULT_ADDRESS.to_owned())];
        }
        addresses.iter().try_for_each(|(_, address)| check_address(address).map_err(Failure::usage))?;
        let transport = args.transport.or(file.transport).unwrap_or_default();
        transport.check()?;
        Ok(Self { cluster, addresses, transport, tls })
    }
}

impl ConnectConfig {
    /// What a command for a member of this cluster needs besides addresses, where it differs from the default.
    pub(crate) fn server_flags(&self, address: &str) -> String {
        let mut flags = self.common_flags();
        match &self.tls {
            Some(_) => flags.push_str(" --tls-dir DIR"),
            None if !is_loopback(address).unwrap_or(false) => flags.push_str(" --insecure"),
            None => {}
        }
        flags
    }

    /// What a command of a client needs, where it differs from the default.
    pub(crate) fn client_flags(&self) -> String {
        let mut flags = self.common_flags();
        let addresses: Vec<_> = self.addresses.iter().map(|(_, address)| address.as_str()).collect();
        if addresses != [DEFAULT_ADDRESS] {
            flags.push_str(&format!(" --address {}", addresses.join(",")));
        }
        if self.tls.is_some() {
            flags.push_str(" --tls-dir DIR");
        }
        flags
    }

    fn common_flags(&self) -> String {
        let mut flags = String::new();
        if self.cluster != DEFAULT_CLUSTER {
            flags.push_str(&format!(" --cluster {}", self.cluster));
        }
        if self.transport != TransportKind::default() {
            flags.push_str(&format!(" --transport {}", self.transport.name()));
        }
        flags
    }
}

impl File {
    fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else { return Ok(Self::default()) };
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            let message =
                format!("cannot read the configuration file {shown}: {error}; name one that exists");
            Failure::unreadable(&error, message)
        })?;
        Self::parse(&text)
            .map_err(|(line, problem)| Failure::usage(format!("{shown} line {line}: {problem}")))
    }

    /// Parses the text. An error names the line and what is wrong in it.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let text = without_mark(text);
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start).min(text.len());
            let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count();
            let written = text.lines().nth(line).unwrap_or_default().trim();
            (line + 1, format!("`{written}`: {}", error.message()))
        })
    }
}

/// Whether a member that listens there without encryption is open to the network, which must be allowed.
fn is_exposed(id: MemberId, listen: &str, is_allowed: bool) -> Result<bool, Failure> {
    let is_exposed = !is_loopback(listen)?;
    if is_exposed && !is_allowed {
        return Err(Failure::usage(format!(
            "member {id} would listen on {listen} without encryption, open to the network: give it certificates with \
             --tls-dir (kv certs makes them), use a loopback address, or allow it with --insecure (insecure = true in the \
             file)"
        )));
    }
    Ok(is_exposed)
}

/// The member's id. `nowhere`: there is no list either.
fn own_id(id: Option<u8>, nowhere: bool) -> Result<MemberId, Failure> {
    id.map(MemberId::new).ok_or_else(|| {
        if nowhere {
            return no_members();
        }
        Failure::usage("which member is this? Set --id ID, or KV_ID, or id in the configuration file")
    })
}

/// The member's address in the list that applies; `None` if the member was removed.
fn own_address(
    id: MemberId,
    configured: Option<&Cluster>,
    stored: Option<&Cluster>,
    joins: bool,
) -> Result<Option<String>, Failure> {
    let address_in = |list: Option<&Cluster>| Some(list?.member(id)?.address.clone());
    match (address_in(stored).or_else(|| address_in(configured)), configured) {
        (None, _) if stored.is_some() => Ok(None),
        (None, _) if joins => Err(Failure::usage(format!(
            "where does member {id} listen? Set --listen to the address with which it was added to the cluster"
        ))),
        (None, None) => Err(no_members()),
        (None, Some(_)) => Err(Failure::usage(ConfigError::NotAMember(id)).with_hint(
            "if it was added to a running cluster, start it with --join HOST:PORT, the address of another member",
        )),
        (listed, _) => Ok(listed),
    }
}

fn no_members() -> Failure {
    Failure::usage(
        "the cluster has no members: name them with --members 0=HOST:PORT,1=HOST:PORT,2=HOST:PORT, or in a file with \
         --config; or join a running cluster with --join HOST:PORT",
    )
}

fn build(name: &str, members: &[FileMember]) -> Result<Cluster, Failure> {
    let mut cluster = Cluster::builder(name);
    for member in members {
        let role = member.role.as_deref().map_or(Ok(Role::Data), |role| role_of(member.id, role))?;
        check_address(&member.address)
            .map_err(|problem| Failure::usage(format!("member {}: {problem}", member.id)))?;
        if let Some(address) = &member.client_address {
            check_address(address).map_err(|problem| {
                Failure::usage(format!("member {}, client_address: {problem}", member.id))
            })?;
        }
        cluster = cluster.with(member.id, member.address.clone(), role);
    }
    cluster.build().map_err(Failure::usage)
}

/// Reads `ID=HOST:PORT` or `ID=HOST:PORT:ROLE`.
fn parse_member(text: &str) -> Result<FileMember, Failure> {
    let wrong = |what: &str| {
        Failure::usage(format!(
            "member {text:?} {what}: write ID=HOST:PORT or ID=HOST:PORT:witness, as in 0=127.0.0.1:7000"
        ))
    };
    let (id, rest) = text.trim().split_once('=').ok_or_else(|| wrong("has no id"))?;
    let id = id.trim().parse().map_err(|_| wrong("has an id that is not a number from 0 to 255"))?;
    let rest = rest.trim();
    let (address, role) = match rest.rsplit_once(':') {
        // A host in brackets may contain colons, and a role is never a number, which may end a malformed address.
        Some((head, role))
            if head.rsplit(']').next().is_some_and(|tail| tail.contains(':'))
                && !role.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            (head, Some(role))
        }
        _ => (rest, None),
    };
    Ok(FileMember { id, address: address.to_owned(), client_address: None, role: role.map(str::to_owned) })
}

/// A member that a command names: its id, its address, and its role if that is named too.
pub(crate) fn named_member(text: &str) -> Result<(MemberId, String, Option<Role>), Failure> {
    let FileMember { id, address, role, .. } = parse_member(text)?;
    check_address(&address).map_err(|problem| Failure::usage(format!("member {id}: {problem}")))?;
    let role = role.map(|role| role_of(id, &role)).transpose()?;
    Ok((MemberId::new(id), address, role))
}

fn role_of(id: u8, role: &str) -> Result<Role, Failure> {
    match role {
        "data" => Ok(Role::Data),
        "witness" => Ok(Role::Witness),
        other => {
            Err(Failure::usage(format!("member {id} has the unknown role {other:?}: write data or witness")))
        }
    }
}

/// Reads `HOST:PORT` or `ID=HOST:PORT`.
fn parse_address(text: &str) -> Result<(Option<MemberId>, String), Failure> {
    let Some((id, address)) = text.split_once('=') else { return Ok((None, text.to_owned())) };
    let id = id.trim().parse().map_err(|_| {
        Failure::usage(format!(
            "the address {text:?} begins with an id that is not a number from 0 to 255: write HOST:PORT, or ID=HOST:PORT for that \
             member's address"
        ))
    })?;
    Ok((Some(MemberId::new(id)), address.trim().to_owned()))
}

/// Checks the form of the address, before anything connects to it.
fn check_address(address: &str) -> Result<(), String> {
    check_host_port(address).map_err(|error| error.to_string())?;
    if address.rsplit_once(':').is_some_and(|(_, port)| port.trim_start_matches('0').is_empty()) {
        return Err(format!(
            "the address {address:?} has port 0, where nobody can be reached: write 1 to 65535"
        ));
    }
    Ok(())
}

/// The text without the byte order mark that some editors write at its beginning.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Whether the address can be reached only from this machine.
fn is_loopback(listen: &str) -> Result<bool, Failure> {
    check_host_port(listen).map_err(|error| Failure::usage(format!("cannot listen there: {error}")))?;
    let is_loopback = |address: SocketAddr| address.ip().is_loopback();
    Ok(listen.starts_with("localhost:") || listen.parse().is_ok_and(is_loopback))
}

fn substitute(data: PathBuf, id: MemberId) -> Result<PathBuf, Failure> {
    let Some(text) = data.to_str() else { return Ok(data) };
    if text.is_empty() {
        return Err(Failure::usage(
            "the data folder has an empty name: write a path, as in --data kv-data-0",
        ));
    }
    Ok(PathBuf::from(text.replace("{id}", &id.to_string())))
}

#[cfg(test)]
mod tests;
