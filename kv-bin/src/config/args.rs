//! The flags of a member and of a client.

use super::doors::DoorArgs;
use super::tls::{AdmissionArgs, TlsArgs};
use super::transport::TransportKind;
use super::tuning::Tuning;
use super::units::{DurationArg, boolean, listed, time, whole};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug, Default)]
pub(crate) struct ServeArgs {
    /// Read settings from this file; `cluster.example.toml` contains every setting.
    #[arg(long, env = "KV_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    /// Run the member with this id.
    #[arg(long, env = "KV_ID", value_name = "ID", value_parser = whole(0..=u8::MAX))]
    pub(crate) id: Option<u8>,

    /// All members with which the cluster forms, separated by commas: ID=HOST:PORT or ID=HOST:PORT:witness. The list
    /// must be the same on each host, except for addresses. After a change of the members with `kv member`, the list in
    /// the data folder is used instead.
    #[arg(long, env = "KV_MEMBERS", value_name = "MEMBERS", value_delimiter = ',', value_parser = listed)]
    pub(crate) members: Vec<String>,

    /// If the data folder is empty, join the running cluster that has members at these addresses, separated by commas.
    /// One is enough. `kv member add` must have added this member before. Then --members is not needed.
    #[arg(long, env = "KV_JOIN", value_name = "HOST:PORT", value_delimiter = ',', value_parser = listed)]
    pub(crate) join: Vec<String>,

    /// Store this member's data in this folder; `{id}` is replaced by the member's id [default: kv-data-{id}]
    #[arg(long, env = "KV_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,

    /// The name of the cluster; it must be the same on each host [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// Listen on this address, such as 0.0.0.0:7000, instead of the member's address in the list.
    #[arg(long, env = "KV_LISTEN", value_name = "HOST:PORT")]
    pub(crate) listen: Option<String>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) admission: AdmissionArgs,

    /// Listen on addresses other than loopback without TLS. Anyone who can reach the port can then read and write.
    #[arg(long, env = "KV_INSECURE", value_parser = boolean, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) insecure: Option<bool>,

    /// Connect members and clients by this transport; it must be the same on each host [default: tcp]
    #[arg(long, env = "KV_TRANSPORT", value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,

    #[command(flatten)]
    pub(crate) doors: DoorArgs,

    #[command(flatten)]
    pub(crate) tuning: Tuning,

    /// Stop, and delete this folder, when standard input ends: the demo's members must not outlive it.
    #[arg(long, hide = true, value_name = "DIR")]
    pub(crate) exit_with_parent: Option<PathBuf>,

    /// Lose this share of the messages between members, in percent, for the demo.
    #[arg(long, hide = true, value_name = "PERCENT", default_value_t = 0, value_parser = whole(0..=50_u8))]
    pub(crate) lose: u8,

    /// Choose the lost messages by this random seed.
    #[arg(long, hide = true, value_name = "N", default_value_t = 0)]
    pub(crate) lose_seed: u64,
}

/// How a client command finds its cluster.
#[derive(Args, Debug, Default, Clone)]
pub(crate) struct ConnectArgs {
    /// Addresses of members, separated by commas. One is enough; give several, so that kv can connect while a member is
    /// down. Use ID=HOST:PORT if the address in the member list does not work from here, for example behind NAT
    /// [default: 127.0.0.1:7000]
    #[arg(long, env = "KV_ADDRESS", value_name = "[ID=]HOST:PORT", value_delimiter = ',', value_parser = listed)]
    pub(crate) address: Vec<String>,

    /// The name of the cluster [default: kv]
    #[arg(long, env = "KV_CLUSTER", value_name = "NAME")]
    pub(crate) cluster: Option<String>,

    /// Connect by this transport; it must be the one that the members use [default: tcp]
    #[arg(long, env = "KV_TRANSPORT", value_name = "TRANSPORT")]
    pub(crate) transport: Option<TransportKind>,

    /// Read the name of the cluster, the transport, the certificates and the addresses of the members from this file.
    #[arg(long, env = "KV_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// Use the certificate of this client, if the folder of --tls-dir contains those of several.
    #[arg(long, env = "KV_TLS_NAME", value_name = "NAME")]
    pub(crate) tls_name: Option<String>,

    /// Fail if the cluster does not answer within this time, retries included. `kv watch` has this limit only until it
    /// is connected. For `kv lock`, the limit applies to each request, but not to the wait for the lock.
    #[arg(long, env = "KV_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = time(DurationArg::ms(1)..=DurationArg::ms(365 * 24 * 3600 * 1000)))]
    pub(crate) timeout: DurationArg,
}
