//! `INFO`.

use super::super::reply::Reply;
use super::Session;
use bytes::Bytes;
use std::fmt::Write as _;

/// The sections of `INFO` without arguments. The number of keys is not among them, because counting visits all keys.
const DEFAULT: &[&str] = &["server", "clients", "memory", "persistence", "stats", "replication", "cluster"];

impl Session {
    pub(super) async fn info(&self, names: &[Bytes]) -> Reply {
        let names: Vec<_> = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        let is_whole = |name: &[u8]| matches!(name, b"default" | b"all" | b"everything");
        let is_default = names.is_empty() || names.iter().any(|name| is_whole(name));
        let named = |section: &str| names.iter().any(|name| name == section.as_bytes());
        let is_wanted = |section: &str| named(section) || (is_default && DEFAULT.contains(&section));
        let mut text = String::new();
        for (section, lines) in self.sections() {
            if is_wanted(section) {
                write_section(&mut text, section, &lines);
            }
        }
        if is_wanted("keyspace") || names.iter().any(|name| matches!(&name[..], b"all" | b"everything")) {
            match self.door.client.count("").await {
                Ok(0) => write_section(&mut text, "keyspace", ""),
                Ok(count) => {
                    write_section(
                        &mut text,
                        "keyspace",
                        &format!("db0:keys={count},expires=0,avg_ttl=0\r\n"),
                    );
                }
                Err(error) => return super::super::errors::read(&error),
            }
        }
        Reply::Verbatim(text)
    }

    fn sections(&self) -> [(&'static str, String); 7] {
        let registry = &self.door.registry;
        let uptime = self.door.started.elapsed().as_secs();
        let server = format!(
            "redis_version:{}\r\nkv_version:{}\r\nredis_mode:standalone\r\narch_bits:{}\r\nprocess_id:{}\r\ntcp_port:{}\r\n\
             uptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
            super::super::REDIS_VERSION,
            env!("CARGO_PKG_VERSION"),
            usize::BITS,
            std::process::id(),
            self.entry.local.port(),
            uptime / 86_400,
        );
        let clients = format!(
            "connected_clients:{}\r\nmaxclients:{}\r\nblocked_clients:0\r\n",
            registry.len(),
            self.door.options.max_connections
        );
        let stats = format!(
            "total_connections_received:{}\r\ntotal_commands_processed:{}\r\n",
            registry.total(),
            registry.commands()
        );
        let persistence = "loading:0\r\naof_enabled:1\r\nrdb_bgsave_in_progress:0\r\n".to_owned();
        let replication =
            "role:master\r\nconnected_slaves:0\r\nmaster_failover_state:no-failover\r\n".to_owned();
        [
            ("server", server),
            ("clients", clients),
            ("memory", "maxmemory:0\r\nmaxmemory_policy:noeviction\r\n".to_owned()),
            ("persistence", persistence),
            ("stats", stats),
            ("replication", replication),
            ("cluster", "cluster_enabled:0\r\n".to_owned()),
        ]
    }
}

fn write_section(text: &mut String, name: &str, lines: &str) {
    if !text.is_empty() {
        text.push_str("\r\n");
    }
    let (first, rest) = name.split_at(1);
    // Writing to a string cannot fail.
    let _ = write!(text, "# {}{rest}\r\n{lines}", first.to_ascii_uppercase());
}
