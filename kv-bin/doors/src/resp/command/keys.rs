//! Commands on keys, whatever their values are.

use super::super::overlay::Overlay;
use super::super::reply::Reply;
use super::strings::ValueCondition;
use super::{Outcome, integer, syntax};
use bytes::Bytes;

pub(crate) fn del(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(Reply::count(request[1..].iter().filter(|key| keys.remove(key)).count()))
}

/// Removes a key if its value is, or is not, the given one. With it, the holder of a lock releases only its own lock.
pub(crate) fn delex(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let is_allowed = match &request[2..] {
        [] => true,
        [name, value] => {
            let is_equal = name.eq_ignore_ascii_case(b"IFEQ");
            if !is_equal && !name.eq_ignore_ascii_case(b"IFNE") {
                return Err(syntax());
            }
            ValueCondition { value: value.clone(), is_equal }.holds(keys, &request[1])
        }
        _ => return Err(syntax()),
    };
    Ok(Reply::flag(is_allowed && keys.remove(&request[1])))
}

pub(crate) fn exists(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(Reply::count(request[1..].iter().filter(|key| keys.exists(key)).count()))
}

pub(crate) fn kind(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    Ok(Reply::Simple(if keys.exists(&request[1]) { "string" } else { "none" }))
}

pub(crate) fn rename(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    take(keys, request, true)?;
    Ok(Reply::OK)
}

pub(crate) fn renamenx(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let may_replace = false;
    Ok(Reply::flag(take(keys, request, may_replace)?))
}

/// Moves the item of one key to the other, and returns whether it was moved.
fn take(keys: &mut Overlay, request: &[Bytes], may_replace: bool) -> Result<bool, Reply> {
    let [_, from, to] = request else { return Err(syntax()) };
    let item = keys.get(from).cloned().ok_or_else(|| Reply::error("ERR no such key"))?;
    if !may_replace && keys.exists(to) {
        return Ok(false);
    }
    if from != to {
        keys.remove(from);
        keys.put_item(to, item);
    }
    Ok(true)
}

pub(crate) fn copy(keys: &mut Overlay, request: &[Bytes]) -> Outcome {
    let (from, to) = (&request[1], &request[2]);
    let mut replace = false;
    let mut rest = request[3..].iter();
    while let Some(word) = rest.next() {
        match &word.to_ascii_uppercase()[..] {
            b"REPLACE" => replace = true,
            b"DB" if integer(rest.next().ok_or_else(syntax)?)? == 0 => {}
            b"DB" => return Err(Reply::error("ERR DB index is out of range")),
            _ => return Err(syntax()),
        }
    }
    if from == to {
        return Err(Reply::error("ERR source and destination objects are the same"));
    }
    let Some(item) = keys.get(from).cloned() else { return Ok(Reply::Integer(0)) };
    if !replace && keys.exists(to) {
        return Ok(Reply::Integer(0));
    }
    keys.put_item(to, item);
    Ok(Reply::Integer(1))
}
