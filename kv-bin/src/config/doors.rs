//! The doors in the configuration: where a member serves clients of other protocols.

use super::units::{boolean, listed};
use super::{is_loopback, parse_address};
use crate::failure::Failure;
use clap::Args;
use serde::Deserialize;

/// The names of the settings.
#[cfg(test)]
pub(super) const NAMES: [&str; 5] = ["listen", "insecure", "doors", "hosts", "pages_only"];

/// The section `[resp]` of the configuration file.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileResp {
    pub(super) listen: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) doors: Vec<String>,
}

/// The section `[http]` of the configuration file.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileHttp {
    pub(super) listen: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) doors: Vec<String>,
    pub(super) hosts: Vec<String>,
    pub(super) pages_only: Option<bool>,
}

/// The flags of the command line.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct DoorArgs {
    /// Serve clients of Redis (RESP2 and RESP3) on this address, such as 127.0.0.1:6379. Any member serves every
    /// command. There is no password and no TLS, so anyone who can reach the port can read and write [default: off]
    #[arg(long, env = "KV_RESP", value_name = "HOST:PORT")]
    pub(crate) resp: Option<String>,

    /// Serve clients of Redis on addresses other than loopback.
    #[arg(long, env = "KV_RESP_INSECURE", value_parser = boolean, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) resp_insecure: Option<bool>,

    /// Where clients of Redis reach each member, separated by commas. With it, `SENTINEL` replies with the address at
    /// the primary, and otherwise with that of the member that is asked.
    #[arg(long, env = "KV_RESP_DOORS", value_name = "ID=HOST:PORT", value_delimiter = ',', value_parser = listed)]
    pub(crate) resp_doors: Vec<String>,

    /// Serve HTTP on this address, such as 127.0.0.1:2379: the JSON gateway of etcd v3, and pages about the member. Any
    /// member serves every request. There is no password and no TLS, so anyone who can reach the port can read and
    /// write [default: off]
    #[arg(long, env = "KV_HTTP", value_name = "HOST:PORT")]
    pub(crate) http: Option<String>,

    /// Serve HTTP on addresses other than loopback.
    #[arg(long, env = "KV_HTTP_INSECURE", value_parser = boolean, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) http_insecure: Option<bool>,

    /// Where clients of HTTP reach each member, separated by commas, for the list of members that clients of etcd ask
    /// for.
    #[arg(long, env = "KV_HTTP_DOORS", value_name = "ID=HOST:PORT", value_delimiter = ',', value_parser = listed)]
    pub(crate) http_doors: Vec<String>,

    /// Accept HTTP requests that name these hosts, separated by commas. Requests that name an IP address, localhost, or
    /// a host of --http or --http-doors are always accepted; any other name could be the trick of a web page.
    #[arg(long, env = "KV_HTTP_HOSTS", value_name = "HOST", value_delimiter = ',', value_parser = listed)]
    pub(crate) http_hosts: Vec<String>,

    /// Serve only the pages about the member, such as /metrics, by HTTP. Nobody can then read or write keys by HTTP, so
    /// the address of --http may be one other than loopback.
    #[arg(long, env = "KV_HTTP_PAGES_ONLY", value_parser = boolean, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) http_pages_only: Option<bool>,
}

/// A checked configuration of a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DoorConfig {
    pub(crate) listen: String,
    /// Whether other machines can reach keys by it.
    pub(crate) is_exposed: bool,
    /// The addresses of the doors of all members, as far as they are known.
    pub(crate) doors: Vec<(u8, String)>,
    /// The names of hosts that requests may use, besides localhost.
    pub(crate) hosts: Vec<String>,
    /// Whether only pages about the member are served, and no keys.
    pub(crate) pages_only: bool,
}

/// How the settings of one door are called.
struct Names {
    /// The clients, in messages.
    clients: &'static str,
    /// The section in the file, and the flag without dashes.
    section: &'static str,
}

/// The door for clients of Redis; none by default.
pub(super) fn resp(args: &DoorArgs, file: &FileResp) -> Result<Option<DoorConfig>, Failure> {
    let names = Names { clients: "clients of Redis", section: "resp" };
    let listen = args.resp.as_ref().or(file.listen.as_ref());
    let insecure = args.resp_insecure.or(file.insecure).unwrap_or(false);
    let doors = if args.resp_doors.is_empty() { &file.doors } else { &args.resp_doors };
    config(&names, listen, insecure, doors)
}

/// The door for HTTP; none by default.
pub(super) fn http(args: &DoorArgs, file: &FileHttp) -> Result<Option<DoorConfig>, Failure> {
    let names = Names { clients: "clients of HTTP", section: "http" };
    let listen = args.http.as_ref().or(file.listen.as_ref());
    let insecure = args.http_insecure.or(file.insecure).unwrap_or(false);
    let doors = if args.http_doors.is_empty() { &file.doors } else { &args.http_doors };
    let hosts = if args.http_hosts.is_empty() { &file.hosts } else { &args.http_hosts };
    if let Some(host) = hosts.iter().find(|host| host.is_empty() || host.contains([':', '/'])) {
        return Err(Failure::usage(format!(
            "the host {host:?} is no name: give it without scheme and port, as in --http-hosts kv.example"
        )));
    }
    let pages_only = args.http_pages_only.or(file.pages_only).unwrap_or(false);
    let Some(mut config) = config(&names, listen, insecure || pages_only, doors)? else { return Ok(None) };
    config.pages_only = pages_only;
    config.is_exposed &= !pages_only;
    let addresses = config.doors.iter().map(|(_, address)| address).chain([&config.listen]);
    let own = addresses.filter_map(|address| Some(address.rsplit_once(':')?.0.to_owned()));
    config.hosts = own.chain(hosts.iter().cloned()).collect();
    Ok(Some(config))
}

fn config(
    names: &Names,
    listen: Option<&String>,
    insecure: bool,
    doors: &[String],
) -> Result<Option<DoorConfig>, Failure> {
    let doors = doors.iter().map(|text| door(text)).collect::<Result<Vec<_>, _>>()?;
    let Some(listen) = listen.cloned() else { return Ok(None) };
    let is_exposed = !is_loopback(&listen)?;
    if is_exposed && !insecure {
        let Names { clients, section } = names;
        return Err(Failure::usage(format!(
            "{clients} would be served on {listen} without encryption and password, open to the network: use a loopback \
             address with --{section}, or allow it with --{section}-insecure (insecure = true under [{section}] in the file)"
        )));
    }
    Ok(Some(DoorConfig { listen, is_exposed, doors, hosts: Vec::new(), pages_only: false }))
}

/// Reads `ID=HOST:PORT`.
fn door(text: &str) -> Result<(u8, String), Failure> {
    let (id, address) = parse_address(text)?;
    let id = id.ok_or_else(|| {
        Failure::usage(format!(
            "the door {text:?} has no member id: write ID=HOST:PORT, as in 0=127.0.0.1:6379"
        ))
    })?;
    super::check_address(&address).map_err(Failure::usage)?;
    Ok((id.get(), address))
}
