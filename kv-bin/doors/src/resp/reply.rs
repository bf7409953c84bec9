//! Replies, and their encoding in RESP2 and RESP3.

use bytes::{BufMut as _, Bytes, BytesMut};
use std::borrow::Cow;

/// The version of the protocol that a connection speaks. A connection begins with RESP2; `HELLO 3` switches to RESP3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

/// A reply, or a message that the server sends on its own ([`Push`](Reply::Push)).
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Reply {
    Simple(&'static str),
    /// The text begins with a code, such as `ERR`.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    /// No value.
    Null,
    /// No array. In RESP3, this is the same as `Null`.
    NullArray,
    Array(Vec<Self>),
    /// In RESP2, an array in which the keys and values alternate.
    Map(Vec<(Self, Self)>),
    /// In RESP2, an array.
    Push(Vec<Self>),
    /// Text for people. In RESP2, a bulk string.
    Verbatim(String),
}

impl Reply {
    pub(crate) const OK: Self = Self::Simple("OK");

    pub(crate) fn error(text: impl Into<Cow<'static, str>>) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Bulk(Bytes::from(text.into()))
    }

    pub(crate) const fn name(text: &'static str) -> Self {
        Self::Bulk(Bytes::from_static(text.as_bytes()))
    }

    /// A count of something.
    pub(crate) fn count(count: usize) -> Self {
        Self::Integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    pub(crate) fn flag(flag: bool) -> Self {
        Self::Integer(flag.into())
    }

    pub(crate) fn value(value: Option<Bytes>) -> Self {
        value.map_or(Self::Null, Self::Bulk)
    }

    /// About how many bytes the reply has when it is encoded.
    pub(crate) fn weight(&self) -> usize {
        let sum = |items: &[Self]| items.iter().map(Self::weight).fold(16, usize::saturating_add);
        match self {
            Self::Simple(text) => text.len() + 3,
            Self::Error(text) => text.len() + 3,
            Self::Integer(_) | Self::Null | Self::NullArray => 16,
            Self::Bulk(bytes) => bytes.len() + 16,
            Self::Array(items) | Self::Push(items) => sum(items),
            Self::Map(pairs) => {
                pairs.iter().map(|(key, value)| key.weight() + value.weight()).fold(16, usize::saturating_add)
            }
            Self::Verbatim(text) => text.len() + 20,
        }
    }

    pub(crate) fn encode(&self, protocol: Protocol, out: &mut BytesMut) {
        let is_3 = protocol == Protocol::Resp3;
        match self {
            Self::Simple(text) => line(b'+', text, out),
            Self::Error(text) => line(b'-', text, out),
            Self::Integer(number) => line(b':', &number.to_string(), out),
            Self::Bulk(bytes) => bulk(bytes, out),
            Self::Null | Self::NullArray if is_3 => out.put_slice(b"_\r\n"),
            Self::Null => out.put_slice(b"$-1\r\n"),
            Self::NullArray => out.put_slice(b"*-1\r\n"),
            Self::Array(items) => sequence(b'*', items, protocol, out),
            Self::Push(items) => sequence(if is_3 { b'>' } else { b'*' }, items, protocol, out),
            Self::Map(pairs) => {
                let (mark, count) = if is_3 { (b'%', pairs.len()) } else { (b'*', 2 * pairs.len()) };
                header(mark, count, out);
                for (key, value) in pairs {
                    key.encode(protocol, out);
                    value.encode(protocol, out);
                }
            }
            Self::Verbatim(text) if is_3 => {
                header(b'=', text.len() + 4, out);
                out.put_slice(b"txt:");
                out.put_slice(text.as_bytes());
                out.put_slice(b"\r\n");
            }
            Self::Verbatim(text) => bulk(text.as_bytes(), out),
        }
    }
}

fn sequence(mark: u8, items: &[Reply], protocol: Protocol, out: &mut BytesMut) {
    header(mark, items.len(), out);
    for item in items {
        item.encode(protocol, out);
    }
}

/// A line of text. A line break in the text would end the reply early.
fn line(mark: u8, text: &str, out: &mut BytesMut) {
    out.reserve(text.len() + 3);
    out.put_u8(mark);
    out.extend(text.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
    out.put_slice(b"\r\n");
}

fn bulk(bytes: &[u8], out: &mut BytesMut) {
    header(b'$', bytes.len(), out);
    out.reserve(bytes.len() + 2);
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn header(mark: u8, count: usize, out: &mut BytesMut) {
    let mut digits = [0; 20];
    let (mut at, mut rest) = (digits.len(), count);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.reserve(digits.len() - at + 3);
    out.put_u8(mark);
    out.put_slice(&digits[at..]);
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(reply: &Reply, protocol: Protocol) -> String {
        let mut out = BytesMut::new();
        reply.encode(protocol, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn each_kind_has_its_form_in_both_versions() {
        let cases = [
            (Reply::OK, "+OK\r\n", "+OK\r\n"),
            (Reply::error("ERR a\r\nb"), "-ERR a  b\r\n", "-ERR a  b\r\n"),
            (Reply::Integer(-12), ":-12\r\n", ":-12\r\n"),
            (Reply::name(""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (Reply::text("a".repeat(10)), "$10\r\naaaaaaaaaa\r\n", "$10\r\naaaaaaaaaa\r\n"),
            (Reply::Null, "$-1\r\n", "_\r\n"),
            (Reply::NullArray, "*-1\r\n", "_\r\n"),
            (Reply::Array(vec![Reply::Null, Reply::Integer(1)]), "*2\r\n$-1\r\n:1\r\n", "*2\r\n_\r\n:1\r\n"),
            (
                Reply::Map(vec![(Reply::name("a"), Reply::Null)]),
                "*2\r\n$1\r\na\r\n$-1\r\n",
                "%1\r\n$1\r\na\r\n_\r\n",
            ),
            (Reply::Push(vec![Reply::name("a")]), "*1\r\n$1\r\na\r\n", ">1\r\n$1\r\na\r\n"),
            (Reply::Verbatim("x".to_owned()), "$1\r\nx\r\n", "=5\r\ntxt:x\r\n"),
        ];
        for (reply, two, three) in cases {
            assert_eq!(encoded(&reply, Protocol::Resp2), two, "{reply:?}");
            assert_eq!(encoded(&reply, Protocol::Resp3), three, "{reply:?}");
        }
    }
}
