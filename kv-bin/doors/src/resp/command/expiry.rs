//! Commands on the time to live of keys.

use super::super::overlay::Overlay;
use super::super::reply::Reply;
use super::{Outcome, integer};
use bytes::Bytes;
use kv_core::client::Lifetime;

/// How a command states when a key expires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    /// Seconds since 1970.
    AtSeconds,
    /// Milliseconds since 1970.
    AtMilliseconds,
}

impl Unit {
    /// The unit of an option of `SET` and `GETEX`.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        match name {
            b"EX" => Some(Self::Seconds),
            b"PX" => Some(Self::Milliseconds),
            b"EXAT" => Some(Self::AtSeconds),
            b"PXAT" => Some(Self::AtMilliseconds),
            _ => None,
        }
    }

    const fn is_seconds(self) -> bool {
        matches!(self, Self::Seconds | Self::AtSeconds)
    }

    const fn is_relative(self) -> bool {
        matches!(self, Self::Seconds | Self::Milliseconds)
    }
}

fn invalid(command: &str) -> Reply {
    Reply::error(format!("ERR invalid expire time in '{command}' command"))
}

/// When a key expires, in milliseconds on the cluster's clock. The time must be positive.
pub(super) fn deadline(command: &str, text: &Bytes, unit: Unit, now: u64) -> Result<u64, Reply> {
    let time = integer(text)?;
    if time <= 0 {
        return Err(invalid(command));
    }
    u64::try_from(absolute(command, time, unit, now)?).map_err(|_| invalid(command))
}

/// The same for any time, also one in the past.
fn absolute(command: &str, time: i64, unit: Unit, now: u64) -> Result<i64, Reply> {
    let ms = if unit.is_seconds() { time.checked_mul(1000) } else { Some(time) };
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let at = ms.and_then(|ms| if unit.is_relative() { now.checked_add(ms) } else { Some(ms) });
    let furthest = now.saturating_add(i64::try_from(Lifetime::MAX_TTL_MS).unwrap_or(i64::MAX));
    // The cluster keeps no deadline that is further away than a hundred years.
    at.filter(|at| *at <= furthest).ok_or_else(|| invalid(command))
}

pub(crate) fn expire(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    change(keys, "expire", request, Unit::Seconds)
}

pub(crate) fn pexpire(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    change(keys, "pexpire", request, Unit::Milliseconds)
}

pub(crate) fn expireat(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    change(keys, "expireat", request, Unit::AtSeconds)
}

pub(crate) fn pexpireat(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    change(keys, "pexpireat", request, Unit::AtMilliseconds)
}

/// On which condition the time to live is replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct ExpireOptions {
    if_none: bool,
    if_some: bool,
    if_later: bool,
    if_earlier: bool,
}

impl ExpireOptions {
    fn parse(words: &[Bytes]) -> Result<Self, Reply> {
        let mut options = Self::default();
        for word in words {
            match &word.to_ascii_uppercase()[..] {
                b"NX" => options.if_none = true,
                b"XX" => options.if_some = true,
                b"GT" => options.if_later = true,
                b"LT" => options.if_earlier = true,
                _ => {
                    let shown = super::shown(word);
                    return Err(Reply::error(format!("ERR Unsupported option {shown}")));
                }
            }
        }
        let Self { if_none, if_some, if_later, if_earlier } = options;
        if if_none && (if_some || if_later || if_earlier) {
            return Err(Reply::error("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if if_later && if_earlier {
            return Err(Reply::error("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(options)
    }

    /// A key without a time to live counts as one that lasts for ever.
    const fn allow(self, present: Option<u64>, at: i64) -> bool {
        match present {
            None => !self.if_some && !self.if_later,
            Some(present) => {
                let present = present.cast_signed();
                let is_allowed = (!self.if_later || at > present) && (!self.if_earlier || at < present);
                is_allowed && !self.if_none
            }
        }
    }
}

fn change(keys: &mut Overlay, command: &str, request: &[Bytes], unit: Unit) -> Outcome {
    let at = absolute(command, integer(&request[2])?, unit, keys.now())?;
    let options = ExpireOptions::parse(&request[3..])?;
    let Some(item) = keys.get(&request[1]) else { return Ok(Reply::Integer(0)) };
    if !options.allow(item.expires, at) {
        return Ok(Reply::Integer(0));
    }
    // A time in the past removes the key.
    keys.set_expiry(&request[1], Some(u64::try_from(at).unwrap_or(0)));
    Ok(Reply::Integer(1))
}

/// The milliseconds of a relative, positive time that `EXPIRE` may set, if there are no options.
pub(super) fn plain_ttl(request: &[Bytes], unit: Unit) -> Option<u64> {
    let [_, _, time] = request else { return None };
    let time = super::super::parse::integer(time).filter(|time| *time > 0)?;
    let ms = if unit.is_seconds() { time.checked_mul(1000)? } else { time };
    u64::try_from(ms).ok().filter(|ms| *ms <= Lifetime::MAX_TTL_MS)
}

pub(crate) fn persist(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let had = keys.get(&request[1]).is_some_and(|item| item.expires.is_some());
    if had {
        keys.set_expiry(&request[1], None);
    }
    Ok(Reply::flag(had))
}

pub(crate) fn ttl(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(show(keys, &request[1], |at, now| rounded_seconds(at.saturating_sub(now))))
}

pub(crate) fn pttl(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(show(keys, &request[1], |at, now| at.saturating_sub(now)))
}

pub(crate) fn expiretime(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(show(keys, &request[1], |at, _| rounded_seconds(at)))
}

pub(crate) fn pexpiretime(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(show(keys, &request[1], |at, _| at))
}

const fn rounded_seconds(ms: u64) -> u64 {
    ms.saturating_add(500) / 1000
}

/// -2 if the key does not exist, -1 if it has no time to live.
fn show(keys: &mut Overlay, key: &Bytes, number: fn(u64, u64) -> u64) -> Reply {
    let now = keys.now();
    Reply::Integer(match keys.get(key).map(|item| item.expires) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => i64::try_from(number(at, now)).unwrap_or(i64::MAX),
    })
}
