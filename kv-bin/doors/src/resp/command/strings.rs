//! Strings and counters.

use super::super::overlay::Overlay;
use super::super::reply::Reply;
use super::expiry::{Unit, deadline};
use super::{Outcome, integer, numbers, syntax, wrong_count};
use bytes::{Bytes, BytesMut};

pub(crate) fn get(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(Reply::value(keys.get(&request[1]).map(|item| item.value.clone())))
}

pub(crate) fn strlen(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(Reply::count(keys.get(&request[1]).map_or(0, |item| item.value.len())))
}

pub(crate) fn mget(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let values = request[1..].iter().map(|key| Reply::value(keys.get(key).map(|item| item.value.clone())));
    Ok(Reply::Array(values.collect()))
}

pub(crate) fn getrange(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let (start, end) = (integer(&request[2])?, integer(&request[3])?);
    let value = keys.get(&request[1]).map(|item| item.value.clone()).unwrap_or_default();
    let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
    // A negative position counts from the end.
    let place = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    if start < 0 && end < 0 && start > end {
        return Ok(Reply::name(""));
    }
    let (start, end) = (place(start), place(end).min(length - 1));
    if length == 0 || start > end {
        return Ok(Reply::name(""));
    }
    let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0) + 1;
    Ok(Reply::Bulk(value.slice(range)))
}

/// The options of `SET`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SetOptions {
    pub(super) if_absent: bool,
    pub(super) if_present: bool,
    pub(super) if_value: Option<ValueCondition>,
    pub(super) get: bool,
    pub(super) keep_ttl: bool,
    /// When the key expires, in milliseconds on the cluster's clock.
    pub(super) expires: Option<u64>,
}

/// A condition of `SET` and `DELEX`, as in Redis 8.4: the value is this one, or is not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ValueCondition {
    pub(super) value: Bytes,
    pub(super) is_equal: bool,
}

impl ValueCondition {
    /// An absent key has no value, so it is not equal to any.
    pub(super) fn holds(&self, keys: &mut Overlay, key: &Bytes) -> bool {
        keys.get(key).is_some_and(|item| item.value == self.value) == self.is_equal
    }
}

impl SetOptions {
    pub(super) fn parse(words: &[Bytes], now: u64) -> Result<Self, Reply> {
        let mut options = Self::default();
        let mut rest = words.iter();
        while let Some(word) = rest.next() {
            match &word.to_ascii_uppercase()[..] {
                b"NX" => options.if_absent = true,
                b"XX" => options.if_present = true,
                b"GET" => options.get = true,
                name @ (b"IFEQ" | b"IFNE") if options.if_value.is_none() => {
                    let value = rest.next().ok_or_else(syntax)?.clone();
                    options.if_value = Some(ValueCondition { value, is_equal: name == b"IFEQ" });
                }
                b"KEEPTTL" if options.expires.is_none() => options.keep_ttl = true,
                name => {
                    let unit = Unit::named(name).ok_or_else(syntax)?;
                    if options.expires.is_some() || options.keep_ttl {
                        return Err(syntax());
                    }
                    let at = deadline("set", rest.next().ok_or_else(syntax)?, unit, now)?;
                    options.expires = Some(at);
                }
            }
        }
        let conditions = [options.if_absent, options.if_present, options.if_value.is_some()];
        let is_one = conditions.into_iter().filter(|is_set| *is_set).count() <= 1;
        if is_one { Ok(options) } else { Err(syntax()) }
    }
}

pub(crate) fn set(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let options = SetOptions::parse(&request[3..], keys.now())?;
    let (key, value) = (&request[1], request[2].clone());
    let previous = if options.get { keys.get(key).map(|item| item.value.clone()) } else { None };
    let is_refused = (options.if_absent && keys.exists(key))
        || (options.if_present && !keys.exists(key))
        || options.if_value.as_ref().is_some_and(|condition| !condition.holds(keys, key));
    if !is_refused {
        if options.keep_ttl {
            keys.put_value(key, value);
        } else {
            keys.put(key, value, options.expires);
        }
    }
    Ok(match options.get {
        true => Reply::value(previous),
        false if is_refused => Reply::Null,
        false => Reply::OK,
    })
}

pub(crate) fn setnx(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let is_absent = !keys.exists(&request[1]);
    if is_absent {
        keys.put(&request[1], request[2].clone(), None);
    }
    Ok(Reply::flag(is_absent))
}

pub(crate) fn setex(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let at = deadline("setex", &request[2], Unit::Seconds, keys.now())?;
    keys.put(&request[1], request[3].clone(), Some(at));
    Ok(Reply::OK)
}

pub(crate) fn psetex(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let at = deadline("psetex", &request[2], Unit::Milliseconds, keys.now())?;
    keys.put(&request[1], request[3].clone(), Some(at));
    Ok(Reply::OK)
}

pub(crate) fn getset(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let previous = keys.get(&request[1]).map(|item| item.value.clone());
    keys.put(&request[1], request[2].clone(), None);
    Ok(Reply::value(previous))
}

pub(crate) fn getdel(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let previous = keys.get(&request[1]).map(|item| item.value.clone());
    keys.remove(&request[1]);
    Ok(Reply::value(previous))
}

pub(crate) fn getex(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let expiry = match &request[2..] {
        [] => None,
        [word] if word.eq_ignore_ascii_case(b"PERSIST") => Some(None),
        [word, time] => {
            let unit = Unit::named(&word.to_ascii_uppercase()).ok_or_else(syntax)?;
            Some(Some(deadline("getex", time, unit, keys.now())?))
        }
        _ => return Err(syntax()),
    };
    let Some(item) = keys.get(&request[1]) else { return Ok(Reply::Null) };
    let (value, present) = (item.value.clone(), item.expires);
    if let Some(at) = expiry.filter(|at| at.is_some() || present.is_some()) {
        keys.set_expiry(&request[1], at);
    }
    Ok(Reply::Bulk(value))
}

pub(crate) fn mset(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    if request.len().is_multiple_of(2) {
        return Err(wrong_count("mset"));
    }
    for pair in request[1..].chunks_exact(2) {
        keys.put(&pair[0], pair[1].clone(), None);
    }
    Ok(Reply::OK)
}

pub(crate) fn msetnx(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    if request.len().is_multiple_of(2) {
        return Err(wrong_count("msetnx"));
    }
    for pair in request[1..].chunks_exact(2) {
        if keys.exists(&pair[0]) {
            return Ok(Reply::Integer(0));
        }
    }
    for pair in request[1..].chunks_exact(2) {
        keys.put(&pair[0], pair[1].clone(), None);
    }
    Ok(Reply::Integer(1))
}

/// Checks the length of a value before it is built.
fn check_length(keys: &Overlay, length: usize) -> Result<(), Reply> {
    let max = keys.max_value();
    if length > max {
        return Err(Reply::error(format!("ERR string exceeds maximum allowed size ({max} bytes)")));
    }
    Ok(())
}

pub(crate) fn append(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let old = keys.get(&request[1]).map(|item| item.value.clone()).unwrap_or_default();
    let length = old.len() + request[2].len();
    check_length(keys, length)?;
    keys.put_value(&request[1], Bytes::from([&old[..], &request[2][..]].concat()));
    Ok(Reply::count(length))
}

pub(crate) fn setrange(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let start =
        usize::try_from(integer(&request[2])?).map_err(|_| Reply::error("ERR offset is out of range"))?;
    let old = keys.get(&request[1]).map(|item| item.value.clone());
    let part = &request[3];
    if part.is_empty() {
        return Ok(Reply::count(old.map_or(0, |old| old.len())));
    }
    let end = start.saturating_add(part.len());
    check_length(keys, end)?;
    let mut value = BytesMut::from(&old.unwrap_or_default()[..]);
    value.resize(value.len().max(end), 0);
    value[start..end].copy_from_slice(part);
    let length = value.len();
    keys.put_value(&request[1], value.freeze());
    Ok(Reply::count(length))
}

pub(crate) fn incr(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    add(keys, &request[1], 1)
}

pub(crate) fn decr(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    add(keys, &request[1], -1)
}

pub(crate) fn incrby(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    add(keys, &request[1], integer(&request[2])?)
}

pub(crate) fn decrby(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let by = integer(&request[2])?.checked_neg();
    add(keys, &request[1], by.ok_or_else(|| Reply::error("ERR decrement would overflow"))?)
}

fn add(keys: &mut Overlay, key: &Bytes, by: i64) -> Outcome {
    // The same numbers as in the cluster.
    let old =
        keys.get(key).map_or(Some(0), |item| std::str::from_utf8(&item.value).ok()?.parse::<i64>().ok());
    let old = old.ok_or_else(|| Reply::error("ERR value is not an integer or out of range"))?;
    let sum = old.checked_add(by).ok_or_else(overflow)?;
    keys.put_sum(key, Bytes::from(sum.to_string()), by);
    Ok(Reply::Integer(sum))
}

pub(crate) fn overflow() -> Reply {
    Reply::error("ERR increment or decrement would overflow")
}

pub(crate) fn incrbyfloat(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let not_a_float = || Reply::error("ERR value is not a valid float");
    let by = numbers::float(&request[2]).ok_or_else(not_a_float)?;
    let old = keys.get(&request[1]).map_or(Some(0.0), |item| numbers::float(&item.value));
    let sum = old.ok_or_else(not_a_float)? + by;
    if !sum.is_finite() {
        return Err(Reply::error("ERR increment would produce NaN or Infinity"));
    }
    let value = Bytes::from(numbers::print_float(sum));
    keys.put_value(&request[1], value.clone());
    Ok(Reply::Bulk(value))
}
