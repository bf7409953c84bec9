//! The commands: a table of all of them, and those that read and change keys.

mod direct;
mod expiry;
mod keys;
mod numbers;
mod strings;
mod table;

pub(crate) use direct::{Direct, Step};
pub(crate) use table::{all, find};

use super::overlay::Overlay;
use super::parse::Request;
use super::reply::Reply;
use bytes::Bytes;

/// The result of a command on keys: a reply, or an error as the reply. A command that fails changes nothing.
pub(crate) type Outcome = Result<Reply, Reply>;

/// A command that reads and changes the keys that its arguments name. It gets the whole request.
pub(crate) type KeyFunction = fn(&mut Overlay, &[Bytes]) -> Outcome;

/// Adds a request to a group of requests that are written without reading first. Returns `false` if it does not fit.
pub(crate) type DirectFunction = fn(&mut Direct, &[Bytes], now: u64) -> bool;

/// How a command is run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run {
    Keys(KeyFunction),
    Space(SpaceCommand),
    Session(SessionCommand),
}

/// A command on the whole key space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SpaceCommand {
    Count,
    Flush,
    Keys,
    Random,
    Scan,
}

/// A command about the connection, its transaction, its subscriptions, or the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SessionCommand {
    Auth,
    Client,
    Command,
    Config,
    Discard,
    Echo,
    Exec,
    Hello,
    Info,
    Multi,
    Ping,
    PatternSubscribe,
    PatternUnsubscribe,
    Quit,
    ReadOnly,
    ReadWrite,
    Reset,
    Role,
    Select,
    Sentinel,
    Subscribe,
    Time,
    Unsubscribe,
    Unwatch,
    Wait,
    Watch,
}

/// Where the keys are among the words of a request, as in Redis' `COMMAND INFO`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeyPositions {
    pub(crate) first: usize,
    /// A negative number counts from the end.
    pub(crate) last: i64,
    pub(crate) step: usize,
}

/// Whether the effect of a command depends on what time it is on the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Time {
    Never,
    /// If it has options after the key and the value.
    WithOptions,
    Always,
}

/// A row of the table of commands.
#[derive(Debug)]
pub(crate) struct Spec {
    /// In small letters.
    pub(crate) name: &'static str,
    /// The number of words, including the name. If it is negative, at least so many.
    pub(crate) arity: i64,
    pub(crate) is_write: bool,
    /// Whether the reply of a command that reads depends on values, and not only on whether and how long a key exists.
    pub(crate) reads_value: bool,
    pub(crate) keys: Option<KeyPositions>,
    pub(crate) run: Run,
    pub(crate) time: Time,
    pub(crate) direct: Option<DirectFunction>,
    pub(crate) group: &'static str,
}

impl Spec {
    /// The keys that a request names.
    pub(crate) fn keys_of<'a>(&self, request: &'a [Bytes]) -> impl Iterator<Item = &'a Bytes> {
        let (first, end, step) = match self.keys {
            None => (1, 1, 1),
            Some(KeyPositions { first, last, step }) => {
                let from_end =
                    usize::try_from(-last).map_or(0, |back| request.len() + 1 - back.min(request.len()));
                let end = usize::try_from(last).map_or(from_end, |last| last + 1);
                (first, end.min(request.len()), step)
            }
        };
        request.get(first..end).unwrap_or_default().iter().step_by(step)
    }

    /// Whether the effect of the request depends on what time it is.
    pub(crate) fn needs_time(&self, request: &[Bytes]) -> bool {
        match self.time {
            Time::Never => false,
            Time::WithOptions => request.len() > 3,
            Time::Always => true,
        }
    }

    /// Whether the command only reads keys that it names.
    pub(crate) const fn is_key_read(&self) -> bool {
        matches!(self.run, Run::Keys(_)) && !self.is_write
    }
}

/// Why a request is not run.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Refusal {
    Reply(Reply),
    /// A web page makes a browser send HTTP to this port, with commands in lines of the body. The connection must end
    /// before they are read.
    Http,
}

/// A request whose command is known and has the right number of words.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) spec: &'static Spec,
    pub(crate) request: Request,
}

impl Call {
    /// Finds the command of a request, and checks the number of its words.
    pub(crate) fn new(request: Request) -> Result<Self, Refusal> {
        let name = request.first().map_or(&[][..], |name| &name[..]);
        if name.eq_ignore_ascii_case(b"post") || name.eq_ignore_ascii_case(b"host:") {
            return Err(Refusal::Http);
        }
        let Some(spec) = find(name) else { return Err(Refusal::Reply(unknown(&request))) };
        let count = i64::try_from(request.len()).unwrap_or(i64::MAX);
        let is_right = if spec.arity < 0 { count >= -spec.arity } else { count == spec.arity };
        if is_right { Ok(Self { spec, request }) } else { Err(Refusal::Reply(wrong_count(spec.name))) }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.spec.keys_of(&self.request)
    }
}

/// A word as errors show it: its beginning.
pub(crate) fn shown(word: &[u8]) -> String {
    word[..word.len().min(128)].escape_ascii().to_string()
}

fn unknown(request: &[Bytes]) -> Reply {
    let name = request.first().map(|word| shown(word)).unwrap_or_default();
    let arguments: Vec<_> =
        request.iter().skip(1).take(8).map(|word| format!("'{}' ", shown(word))).collect();
    Reply::error(format!("ERR unknown command '{name}', with args beginning with: {}", arguments.concat()))
}

pub(crate) fn wrong_count(name: &str) -> Reply {
    Reply::error(format!("ERR wrong number of arguments for '{name}' command"))
}

pub(crate) const fn syntax() -> Reply {
    Reply::Error(std::borrow::Cow::Borrowed("ERR syntax error"))
}

/// A whole number among the arguments.
pub(crate) fn integer(text: &Bytes) -> Result<i64, Reply> {
    super::parse::integer(text).ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))
}

#[cfg(test)]
mod tests;
