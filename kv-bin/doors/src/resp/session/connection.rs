//! Commands about the connection itself.

use super::super::command::{SessionCommand, integer, syntax, wrong_count};
use super::super::door::Reads;
use super::super::registry::Entry;
use super::super::reply::{Protocol, Reply};
use super::Session;
use super::subscriptions::Subscriptions;
use bytes::Bytes;
use std::sync::Arc;

/// The longest name of a connection or a library.
const MAX_NAME: usize = 256;

impl Session {
    pub(super) async fn run_about_connection(&mut self, command: SessionCommand, request: &[Bytes]) -> Reply {
        use SessionCommand as C;
        match command {
            C::Auth => Self::auth(request),
            C::Client => self.client(request).unwrap_or_else(|error| error),
            C::Echo => Reply::Bulk(request[1].clone()),
            C::Hello => self.hello(request).unwrap_or_else(|error| error),
            C::Ping => self.ping(request),
            C::Quit => {
                self.is_closing = true;
                Reply::OK
            }
            C::ReadOnly => {
                self.reads = Reads::Local;
                Reply::OK
            }
            C::ReadWrite => {
                self.reads = Reads::Linearizable;
                Reply::OK
            }
            C::Reset => self.reset(),
            C::Unwatch => self.unwatch(),
            C::Select => match integer(&request[1]) {
                Ok(0) => Reply::OK,
                Ok(_) => Reply::error("ERR DB index is out of range"),
                Err(_) => Reply::error("ERR invalid DB index"),
            },
            command => self.run_about_server(command, request).await,
        }
    }

    fn ping(&self, request: &[Bytes]) -> Reply {
        match request {
            [_] => self.ping_of_subscriber(&Bytes::new()).unwrap_or(Reply::Simple("PONG")),
            [_, text] => self.ping_of_subscriber(text).unwrap_or_else(|| Reply::Bulk(text.clone())),
            _ => wrong_count("ping"),
        }
    }

    fn auth(request: &[Bytes]) -> Reply {
        if request.len() > 3 {
            return syntax();
        }
        Reply::error(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
             configuration is correct?",
        )
    }

    fn hello(&mut self, request: &[Bytes]) -> Result<Reply, Reply> {
        let mut protocol = self.protocol;
        let mut name = None;
        if let Some(version) = request.get(1) {
            protocol = match integer(version) {
                Ok(2) => Protocol::Resp2,
                Ok(3) => Protocol::Resp3,
                Ok(_) => return Err(Reply::error("NOPROTO unsupported protocol version")),
                Err(_) => {
                    return Err(Reply::error("ERR Protocol version is not an integer or out of range"));
                }
            };
            let mut rest = request[2..].iter();
            while let Some(word) = rest.next() {
                match &word.to_ascii_uppercase()[..] {
                    b"SETNAME" => name = Some(checked_name(rest.next().ok_or_else(syntax)?)?),
                    // Any user and password would be accepted, as there are none. A client must not believe so.
                    b"AUTH" => return Err(Self::auth(&request[..1])),
                    _ => return Err(syntax()),
                }
            }
        }
        self.set_protocol(protocol);
        if let Some(name) = name {
            self.entry.details().name = name;
        }
        let version = if protocol == Protocol::Resp3 { 3 } else { 2 };
        Ok(Reply::Map(vec![
            (Reply::name("server"), Reply::name("redis")),
            (Reply::name("version"), Reply::name(super::super::REDIS_VERSION)),
            (Reply::name("proto"), Reply::Integer(version)),
            (Reply::name("id"), Reply::Integer(self.id())),
            (Reply::name("mode"), Reply::name("standalone")),
            (Reply::name("role"), Reply::name("master")),
            (Reply::name("modules"), Reply::Array(Vec::new())),
        ]))
    }

    fn id(&self) -> i64 {
        i64::try_from(self.entry.id).unwrap_or(i64::MAX)
    }

    fn set_protocol(&mut self, protocol: Protocol) {
        self.protocol = protocol;
        self.entry.details().protocol = if protocol == Protocol::Resp3 { 3 } else { 2 };
    }

    fn reset(&mut self) -> Reply {
        self.discard();
        self.unwatch();
        self.subscriptions = Subscriptions::default();
        self.reads = if self.door.options.local_reads { Reads::Local } else { Reads::Linearizable };
        self.set_protocol(Protocol::Resp2);
        let mut details = self.entry.details();
        (details.subscriptions, details.patterns) = (0, 0);
        details.name.clear();
        Reply::Simple("RESET")
    }

    fn client(&self, request: &[Bytes]) -> Result<Reply, Reply> {
        let name = request[1].to_ascii_uppercase();
        let shown = super::super::command::shown(&request[1]);
        match (&name[..], &request[2..]) {
            (b"ID", []) => Ok(Reply::Integer(self.id())),
            (b"GETNAME", []) => {
                let name = self.entry.details().name.clone();
                Ok(if name.is_empty() { Reply::Null } else { Reply::text(name) })
            }
            (b"SETNAME", [name]) => {
                self.entry.details().name = checked_name(name)?;
                Ok(Reply::OK)
            }
            (b"SETINFO", [attribute, value]) => {
                let value = checked_name(value)?;
                let mut details = self.entry.details();
                match &attribute.to_ascii_uppercase()[..] {
                    b"LIB-NAME" => details.library = value,
                    b"LIB-VER" => details.library_version = value,
                    _ => return Err(Reply::error("ERR Unrecognized option")),
                }
                Ok(Reply::OK)
            }
            (b"INFO", []) => Ok(Reply::Verbatim(self.entry.line())),
            (b"LIST", options) => self.list(options),
            (b"KILL", options) => self.kill(options),
            (b"NO-EVICT" | b"NO-TOUCH", [word]) => on_or_off(word),
            (b"REPLY", [word]) if word.eq_ignore_ascii_case(b"ON") => Ok(Reply::OK),
            (b"ID" | b"GETNAME" | b"SETNAME" | b"SETINFO" | b"INFO" | b"NO-EVICT" | b"NO-TOUCH", _) => {
                Err(wrong_count(&format!("client|{}", shown.to_ascii_lowercase())))
            }
            _ => Err(unknown_subcommand(&shown, "CLIENT")),
        }
    }

    fn list(&self, options: &[Bytes]) -> Result<Reply, Reply> {
        let entries = self.door.registry.all();
        let wanted: Option<Vec<u64>> = match options {
            [] => None,
            [word, kind] if word.eq_ignore_ascii_case(b"TYPE") => match &kind.to_ascii_lowercase()[..] {
                b"normal" => None,
                b"master" | b"replica" | b"slave" => Some(Vec::new()),
                b"pubsub" => {
                    let is_subscriber = |entry: &&Arc<Entry>| {
                        let details = entry.details();
                        details.subscriptions + details.patterns > 0
                    };
                    Some(entries.iter().filter(is_subscriber).map(|entry| entry.id).collect())
                }
                _ => return Err(Reply::error("ERR Unknown client type")),
            },
            [word, ids @ ..] if word.eq_ignore_ascii_case(b"ID") && !ids.is_empty() => {
                let id = |text| integer(text).and_then(|id| u64::try_from(id).map_err(|_| syntax()));
                Some(ids.iter().map(id).collect::<Result<_, _>>()?)
            }
            _ => return Err(syntax()),
        };
        let lines = entries.iter().filter(|entry| wanted.as_ref().is_none_or(|ids| ids.contains(&entry.id)));
        Ok(Reply::Verbatim(lines.map(|entry| entry.line()).collect()))
    }

    /// `CLIENT KILL ADDRESS`, which must exist, or `CLIENT KILL` with filters, which counts.
    fn kill(&self, options: &[Bytes]) -> Result<Reply, Reply> {
        let entries = self.door.registry.all();
        if let [address] = options {
            let found = entries.iter().find(|entry| entry.peer.to_string().as_bytes() == &address[..]);
            let found = found.ok_or_else(|| Reply::error("ERR No such client"))?;
            found.kill.notify_one();
            return Ok(Reply::OK);
        }
        if options.is_empty() || options.len() % 2 == 1 {
            return Err(syntax());
        }
        let mut skip_me = true;
        let mut chosen = entries;
        for pair in options.chunks_exact(2) {
            let value = String::from_utf8_lossy(&pair[1]).into_owned();
            match &pair[0].to_ascii_uppercase()[..] {
                b"ID" => {
                    let id = integer(&pair[1])?;
                    chosen.retain(|entry| i64::try_from(entry.id) == Ok(id));
                }
                b"ADDR" => chosen.retain(|entry| entry.peer.to_string() == value),
                b"LADDR" => chosen.retain(|entry| entry.local.to_string() == value),
                b"USER" => chosen.retain(|_| value == "default"),
                b"TYPE" if value.eq_ignore_ascii_case("normal") => {}
                b"SKIPME" => skip_me = !value.eq_ignore_ascii_case("no"),
                _ => return Err(syntax()),
            }
        }
        chosen.retain(|entry| !skip_me || entry.id != self.entry.id);
        chosen.iter().for_each(|entry| entry.kill.notify_one());
        Ok(Reply::count(chosen.len()))
    }
}

fn on_or_off(word: &Bytes) -> Result<Reply, Reply> {
    let is_known = word.eq_ignore_ascii_case(b"ON") || word.eq_ignore_ascii_case(b"OFF");
    if is_known { Ok(Reply::OK) } else { Err(syntax()) }
}

/// A name as it is shown in a list: without spaces and special characters.
fn checked_name(name: &Bytes) -> Result<String, Reply> {
    let is_plain = name.len() <= MAX_NAME && name.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(name).ok().filter(|_| is_plain);
    text.map(str::to_owned).ok_or_else(|| {
        Reply::error("ERR Client names cannot contain spaces, newlines or special characters, and have up to 256 bytes.")
    })
}

pub(super) fn unknown_subcommand(name: &str, command: &str) -> Reply {
    Reply::error(format!("ERR unknown subcommand '{name}'. Try {command} HELP."))
}
