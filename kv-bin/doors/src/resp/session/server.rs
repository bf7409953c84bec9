//! Commands about the server: what it can do, and how it is configured.

use super::super::command::{self, Run, SessionCommand, Spec, syntax};
use super::super::glob;
use super::super::reply::Reply;
use super::Session;
use super::connection::unknown_subcommand;
use bytes::Bytes;

impl Session {
    pub(super) async fn run_about_server(&self, command: SessionCommand, request: &[Bytes]) -> Reply {
        use SessionCommand as C;
        match command {
            C::Command => commands(request),
            C::Config => self.config(request),
            C::Info => self.info(&request[1..]).await,
            C::Role => Reply::Array(vec![Reply::name("master"), Reply::Integer(0), Reply::Array(Vec::new())]),
            C::Sentinel => self.sentinel(request).await,
            C::Time => {
                let now = self.door.clock.now();
                let micros = now % 1000 * 1000;
                Reply::Array(vec![Reply::text((now / 1000).to_string()), Reply::text(micros.to_string())])
            }
            C::Wait => self.wait_for_replicas(request).await,
            _ => Reply::error(format!("ERR '{}' is not possible here", command::shown(&request[0]))),
        }
    }

    /// Every acknowledged write is on a majority of the members already, so there is nothing to wait for.
    async fn wait_for_replicas(&self, request: &[Bytes]) -> Reply {
        for number in &request[1..] {
            match command::integer(number) {
                Ok(number) if number < 0 => return Reply::error("ERR timeout is negative"),
                Ok(_) => {}
                Err(error) => return error,
            }
        }
        let count = match self.door.members.get() {
            Some(members) => members.len(),
            None => self.door.members().await.count,
        };
        // The primary is no replica.
        Reply::count(count / 2)
    }

    /// The settings that clients and tools ask for. They cannot be changed here.
    fn config(&self, request: &[Bytes]) -> Reply {
        match &request[1].to_ascii_uppercase()[..] {
            b"GET" if request.len() > 2 => {
                let options = &self.door.options;
                let settings = [
                    ("appendfsync", "always".to_owned()),
                    ("appendonly", "yes".to_owned()),
                    ("databases", "1".to_owned()),
                    ("maxclients", options.max_connections.to_string()),
                    ("maxmemory", "0".to_owned()),
                    ("maxmemory-policy", "noeviction".to_owned()),
                    ("notify-keyspace-events", "AKE".to_owned()),
                    ("proto-max-bulk-len", options.max_request_bytes.to_string()),
                    ("save", String::new()),
                    ("timeout", options.idle_timeout.as_secs().to_string()),
                ];
                let small: Vec<_> = request[2..].iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
                let is_wanted =
                    |name: &str| small.iter().any(|pattern| glob::matches(pattern, name.as_bytes()));
                let found = settings.into_iter().filter(|(name, _)| is_wanted(name));
                Reply::Map(found.map(|(name, value)| (Reply::name(name), Reply::text(value))).collect())
            }
            b"SET" | b"REWRITE" | b"RESETSTAT" => {
                Reply::error("ERR settings are changed with the options of the server, not with CONFIG")
            }
            _ => unknown_subcommand(&command::shown(&request[1]), "CONFIG"),
        }
    }
}

fn commands(request: &[Bytes]) -> Reply {
    let Some(subcommand) = request.get(1) else {
        return Reply::Array(command::all().iter().map(describe).collect());
    };
    // Each name makes a row, which is much longer.
    if request.len() > 2 + command::all().len() {
        return Reply::error("ERR more names than there are commands");
    }
    let named = || request[2..].iter().map(|name| command::find(name));
    match &subcommand.to_ascii_uppercase()[..] {
        b"COUNT" => Reply::count(command::all().len()),
        b"INFO" if request.len() > 2 => {
            Reply::Array(named().map(|spec| spec.map_or(Reply::NullArray, describe)).collect())
        }
        b"INFO" => Reply::Array(command::all().iter().map(describe).collect()),
        b"DOCS" if request.len() > 2 => Reply::Map(named().flatten().map(document).collect()),
        b"DOCS" => Reply::Map(command::all().iter().map(document).collect()),
        b"LIST" if request.len() == 2 => {
            Reply::Array(command::all().iter().map(|spec| Reply::name(spec.name)).collect())
        }
        b"LIST" => syntax(),
        b"GETKEYS" if request.len() > 2 => match command::Call::new(request[2..].to_vec()) {
            Ok(call) if call.spec.keys.is_some() => {
                Reply::Array(call.keys().cloned().map(Reply::Bulk).collect())
            }
            Ok(_) => Reply::error("ERR The command has no key arguments"),
            Err(_) => Reply::error("ERR Invalid command specified"),
        },
        _ => unknown_subcommand(&command::shown(subcommand), "COMMAND"),
    }
}

/// A row of `COMMAND INFO`.
fn describe(spec: &Spec) -> Reply {
    let (first, last, step) = spec.keys.map_or((0, 0, 0), |keys| (keys.first, keys.last, keys.step));
    let flag = match spec.run {
        Run::Session(_) => "fast",
        _ if spec.is_write => "write",
        _ => "readonly",
    };
    Reply::Array(vec![
        Reply::name(spec.name),
        Reply::Integer(spec.arity),
        Reply::Array(vec![Reply::Simple(flag)]),
        Reply::count(first),
        Reply::Integer(last),
        Reply::count(step),
        Reply::Array(vec![Reply::text(format!("@{}", spec.group))]),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

/// A row of `COMMAND DOCS`.
fn document(spec: &Spec) -> (Reply, Reply) {
    let row = vec![
        (Reply::name("summary"), Reply::text(format!("{} as in Redis", spec.name.to_ascii_uppercase()))),
        (Reply::name("since"), Reply::name("1.0.0")),
        (Reply::name("group"), Reply::name(spec.group)),
    ];
    (Reply::name(spec.name), Reply::Map(row))
}
