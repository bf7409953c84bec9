//! The table of commands.

use super::{DirectFunction, KeyPositions, Run, SessionCommand, SpaceCommand, Spec, Time};
use super::{direct, expiry, keys, strings};
use std::collections::HashMap;
use std::sync::LazyLock;

const ONE: Option<KeyPositions> = Some(KeyPositions { first: 1, last: 1, step: 1 });
const TWO: Option<KeyPositions> = Some(KeyPositions { first: 1, last: 2, step: 1 });
const ALL: Option<KeyPositions> = Some(KeyPositions { first: 1, last: -1, step: 1 });
const PAIRS: Option<KeyPositions> = Some(KeyPositions { first: 1, last: -1, step: 2 });

const fn read(
    name: &'static str,
    arity: i64,
    keys: Option<KeyPositions>,
    run: super::KeyFunction,
    group: &'static str,
) -> Spec {
    Spec {
        name,
        arity,
        is_write: false,
        reads_value: true,
        keys,
        run: Run::Keys(run),
        time: Time::Never,
        direct: None,
        group,
    }
}

const fn write(
    name: &'static str,
    arity: i64,
    keys: Option<KeyPositions>,
    run: super::KeyFunction,
    group: &'static str,
) -> Spec {
    Spec { is_write: true, ..read(name, arity, keys, run, group) }
}

const fn space(name: &'static str, arity: i64, command: SpaceCommand) -> Spec {
    let is_write = matches!(command, SpaceCommand::Flush);
    Spec {
        name,
        arity,
        is_write,
        reads_value: false,
        keys: None,
        run: Run::Space(command),
        time: Time::Never,
        direct: None,
        group: "generic",
    }
}

const fn session(name: &'static str, arity: i64, command: SessionCommand, group: &'static str) -> Spec {
    Spec {
        name,
        arity,
        is_write: false,
        reads_value: false,
        keys: None,
        run: Run::Session(command),
        time: Time::Never,
        direct: None,
        group,
    }
}

impl Spec {
    const fn time(self, time: Time) -> Self {
        Self { time, ..self }
    }

    const fn without_values(self) -> Self {
        Self { reads_value: false, ..self }
    }

    const fn direct(self, direct: DirectFunction) -> Self {
        Self { direct: Some(direct), ..self }
    }

    const fn keys(self, keys: Option<KeyPositions>) -> Self {
        Self { keys, ..self }
    }
}

static TABLE: &[Spec] = &[
    read("get", 2, ONE, strings::get, "string").direct(direct::get),
    read("strlen", 2, ONE, strings::strlen, "string"),
    read("getrange", 4, ONE, strings::getrange, "string"),
    read("substr", 4, ONE, strings::getrange, "string"),
    read("mget", -2, ALL, strings::mget, "string"),
    write("set", -3, ONE, strings::set, "string").direct(direct::set).time(Time::WithOptions),
    write("setnx", 3, ONE, strings::setnx, "string"),
    write("setex", 4, ONE, strings::setex, "string").direct(direct::setex),
    write("psetex", 4, ONE, strings::psetex, "string").direct(direct::psetex),
    write("getset", 3, ONE, strings::getset, "string").direct(direct::getset),
    write("getdel", 2, ONE, strings::getdel, "string").direct(direct::getdel),
    write("getex", -2, ONE, strings::getex, "string").time(Time::Always),
    write("mset", -3, PAIRS, strings::mset, "string").direct(direct::mset),
    write("msetnx", -3, PAIRS, strings::msetnx, "string"),
    write("append", 3, ONE, strings::append, "string").time(Time::Always),
    write("setrange", 4, ONE, strings::setrange, "string").time(Time::Always),
    write("incr", 2, ONE, strings::incr, "string").direct(direct::incr),
    write("decr", 2, ONE, strings::decr, "string").direct(direct::decr),
    write("incrby", 3, ONE, strings::incrby, "string").direct(direct::incrby),
    write("decrby", 3, ONE, strings::decrby, "string").direct(direct::decrby),
    write("incrbyfloat", 3, ONE, strings::incrbyfloat, "string").time(Time::Always),
    write("del", -2, ALL, keys::del, "generic").direct(direct::del),
    write("unlink", -2, ALL, keys::del, "generic").direct(direct::del),
    write("delex", -2, ONE, keys::delex, "string"),
    read("exists", -2, ALL, keys::exists, "generic").without_values(),
    read("touch", -2, ALL, keys::exists, "generic").without_values(),
    read("type", 2, ONE, keys::kind, "generic").without_values(),
    write("rename", 3, TWO, keys::rename, "generic").time(Time::Always),
    write("renamenx", 3, TWO, keys::renamenx, "generic").time(Time::Always),
    write("copy", -3, TWO, keys::copy, "generic").time(Time::Always),
    write("expire", -3, ONE, expiry::expire, "generic").direct(direct::expire).time(Time::WithOptions),
    write("pexpire", -3, ONE, expiry::pexpire, "generic").direct(direct::pexpire).time(Time::WithOptions),
    write("expireat", -3, ONE, expiry::expireat, "generic").time(Time::Always),
    write("pexpireat", -3, ONE, expiry::pexpireat, "generic").time(Time::Always),
    write("persist", 2, ONE, expiry::persist, "generic"),
    read("ttl", 2, ONE, expiry::ttl, "generic").without_values().time(Time::Always),
    read("pttl", 2, ONE, expiry::pttl, "generic").without_values().time(Time::Always),
    read("expiretime", 2, ONE, expiry::expiretime, "generic").without_values().time(Time::Always),
    read("pexpiretime", 2, ONE, expiry::pexpiretime, "generic").without_values().time(Time::Always),
    space("keys", 2, SpaceCommand::Keys),
    space("scan", -2, SpaceCommand::Scan),
    space("dbsize", 1, SpaceCommand::Count),
    space("randomkey", 1, SpaceCommand::Random),
    space("flushdb", -1, SpaceCommand::Flush),
    space("flushall", -1, SpaceCommand::Flush),
    session("multi", 1, SessionCommand::Multi, "transactions"),
    session("exec", 1, SessionCommand::Exec, "transactions"),
    session("discard", 1, SessionCommand::Discard, "transactions"),
    session("watch", -2, SessionCommand::Watch, "transactions").keys(ALL),
    session("unwatch", 1, SessionCommand::Unwatch, "transactions"),
    session("subscribe", -2, SessionCommand::Subscribe, "pubsub"),
    session("unsubscribe", -1, SessionCommand::Unsubscribe, "pubsub"),
    session("psubscribe", -2, SessionCommand::PatternSubscribe, "pubsub"),
    session("punsubscribe", -1, SessionCommand::PatternUnsubscribe, "pubsub"),
    session("auth", -2, SessionCommand::Auth, "connection"),
    session("client", -2, SessionCommand::Client, "connection"),
    session("echo", 2, SessionCommand::Echo, "connection"),
    session("hello", -1, SessionCommand::Hello, "connection"),
    session("ping", -1, SessionCommand::Ping, "connection"),
    session("quit", -1, SessionCommand::Quit, "connection"),
    session("readonly", 1, SessionCommand::ReadOnly, "cluster"),
    session("readwrite", 1, SessionCommand::ReadWrite, "cluster"),
    session("reset", 1, SessionCommand::Reset, "connection"),
    session("select", 2, SessionCommand::Select, "connection"),
    session("command", -1, SessionCommand::Command, "server"),
    session("config", -2, SessionCommand::Config, "server"),
    session("info", -1, SessionCommand::Info, "server"),
    session("role", 1, SessionCommand::Role, "server"),
    session("sentinel", -2, SessionCommand::Sentinel, "server"),
    session("time", 1, SessionCommand::Time, "server"),
    session("wait", 3, SessionCommand::Wait, "generic"),
];

static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec>> =
    LazyLock::new(|| TABLE.iter().map(|spec| (spec.name.as_bytes(), spec)).collect());

/// All commands.
pub(crate) fn all() -> &'static [Spec] {
    TABLE
}

/// The command with this name, in any mixture of small and capital letters.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut small = [0; 16];
    let small = small.get_mut(..name.len())?;
    small.copy_from_slice(name);
    small.make_ascii_lowercase();
    BY_NAME.get(&*small).copied()
}
