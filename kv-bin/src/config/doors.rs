//! The doors in the configuration: where a member serves clients of other protocols.

use super::units::{boolean, listed};
use super::{is_loopback, parse_address};
use crate::failure::Failure;
use clap::Args;
use serde::Deserialize;

/// The names of the settings.
#[cfg(test)]
pub(super) const NAMES: [&str; 3] = ["listen", "insecure", "doors"];

/// The section `[resp]` of the configuration file.
#[derive(Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct FileResp {
    pub(super) listen: Option<String>,
    pub(super) insecure: Option<bool>,
    pub(super) doors: Vec<String>,
}

/// The flags of the command line.
#[derive(Args, Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RespArgs {
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
}

/// A checked configuration of the door for clients of Redis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct RespConfig {
    pub(crate) listen: String,
    /// Whether other machines can reach it.
    pub(crate) is_exposed: bool,
    /// The addresses of the doors of all members, as far as they are known.
    pub(crate) doors: Vec<(u8, String)>,
}

/// The door for clients of Redis; none by default.
pub(super) fn resp(args: &RespArgs, file: &FileResp) -> Result<Option<RespConfig>, Failure> {
    let insecure = args.resp_insecure.or(file.insecure).unwrap_or(false);
    let doors = if args.resp_doors.is_empty() { &file.doors } else { &args.resp_doors };
    let doors = doors.iter().map(|text| door(text)).collect::<Result<Vec<_>, _>>()?;
    let Some(listen) = args.resp.clone().or_else(|| file.listen.clone()) else { return Ok(None) };
    let is_exposed = !is_loopback(&listen)?;
    if is_exposed && !insecure {
        return Err(Failure::usage(format!(
            "clients of Redis would be served on {listen} without encryption and password, open to the network: use a \
             loopback address with --resp, or allow it with --resp-insecure (insecure = true under [resp] in the file)"
        )));
    }
    Ok(Some(RespConfig { listen, is_exposed, doors }))
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
