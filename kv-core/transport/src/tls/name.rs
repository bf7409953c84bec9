//! The names in certificates.

use crate::Peer;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::fmt::{self, Display, Write};
use std::str::FromStr;

const SCHEME: &str = "kv://";
/// The longest name of a cluster or client, in bytes.
const LONGEST: usize = 100;

/// The owner of a certificate, as a URI among its alternative names: `kv://CLUSTER/member/ID` or
/// `kv://CLUSTER/client/NAME`.
///
/// ASCII letters, digits and the characters `-._~` are written as they are. Of every other character, each UTF-8 byte
/// is written as `%` and two digits (`0-9A-F`). Each name has exactly one such form, and any other is refused.
///
/// ```
/// use kv_transport::tls::Name;
/// let name: Name = "kv://demo/member/0".parse()?;
/// assert_eq!(name, Name::Member { cluster: "demo".into(), id: 0 });
/// let client = Name::Client { cluster: "my shop".into(), name: "app".into() };
/// assert_eq!(client.to_string(), "kv://my%20shop/client/app");
/// # Ok::<(), kv_transport::tls::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum Name {
    /// A member.
    Member {
        /// The cluster's name.
        cluster: String,
        /// The member's id.
        id: u8,
    },
    /// A client.
    Client {
        /// The cluster's name.
        cluster: String,
        /// The client's name.
        name: String,
    },
}

/// Why a certificate contains no valid name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No URI in the certificate begins with `kv://`.
    #[error("it contains no URI of the form kv://CLUSTER/member/ID or kv://CLUSTER/client/NAME")]
    Missing,
    /// There are several such URIs.
    #[error("it contains several names, {first} and {second}: give it one")]
    Several {
        /// One of them.
        first: String,
        /// Another.
        second: String,
    },
    /// The URI has neither of the two forms.
    #[error("its URI {uri:?} is not of the form kv://CLUSTER/member/ID or kv://CLUSTER/client/NAME")]
    Form {
        /// The URI.
        uri: String,
    },
}

impl Name {
    /// The cluster's name.
    #[must_use]
    pub fn cluster(&self) -> &str {
        match self {
            Self::Member { cluster, .. } | Self::Client { cluster, .. } => cluster,
        }
    }

    /// The file name without its extension.
    pub(super) fn file_stem(&self) -> String {
        match self {
            Self::Member { id, .. } => format!("member-{id}"),
            Self::Client { name, .. } => format!("client-{}", Encoded(name)),
        }
    }

    /// The name in the first certificate of a PEM file, if there is one. Nothing else is checked.
    #[must_use]
    pub fn in_pem(pem: &[u8]) -> Option<Self> {
        super::name_of(&CertificateDer::from_pem_slice(pem).ok()?).ok()
    }

    /// The only name among the URIs of a certificate. URIs of other schemes are ignored.
    pub(super) fn among<'a>(uris: impl Iterator<Item = &'a str>) -> Result<Self, NameError> {
        let mut ours =
            uris.filter(|uri| uri.get(..SCHEME.len()).is_some_and(|s| s.eq_ignore_ascii_case(SCHEME)));
        let first = ours.next().ok_or(NameError::Missing)?;
        if let Some(second) = ours.next() {
            return Err(NameError::Several { first: first.to_owned(), second: second.to_owned() });
        }
        first.parse()
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member { cluster, id } => write!(f, "{SCHEME}{}/member/{id}", Encoded(cluster)),
            Self::Client { cluster, name } => {
                write!(f, "{SCHEME}{}/client/{}", Encoded(cluster), Encoded(name))
            }
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(uri: &str) -> Result<Self, NameError> {
        // Only the form that `Display` writes is accepted, so that no two texts mean the same name.
        parse(uri)
            .filter(|name| name.to_string() == uri)
            .ok_or_else(|| NameError::Form { uri: uri.to_owned() })
    }
}

impl From<Name> for Peer {
    fn from(name: Name) -> Self {
        match name {
            Name::Member { cluster, id } => Self::Member { cluster, id },
            Name::Client { cluster, name } => Self::Client { cluster, name },
        }
    }
}

fn parse(uri: &str) -> Option<Name> {
    let mut parts = uri.strip_prefix(SCHEME)?.split('/');
    let (cluster, kind, last) = (decode(parts.next()?)?, parts.next()?, parts.next()?);
    match (kind, parts.next()) {
        ("member", None) => Some(Name::Member { cluster, id: last.parse().ok()? }),
        ("client", None) => Some(Name::Client { cluster, name: decode(last)? }),
        _ => None,
    }
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    let text = String::from_utf8(bytes).ok()?;
    (1..=LONGEST).contains(&text.len()).then_some(text)
}

/// A part of a URI.
struct Encoded<'a>(&'a str);

impl Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                    f.write_char(byte.into())?
                }
                other => write!(f, "%{other:02X}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(cluster: &str, id: u8) -> Name {
        Name::Member { cluster: cluster.into(), id }
    }

    fn client(cluster: &str, name: &str) -> Name {
        Name::Client { cluster: cluster.into(), name: name.into() }
    }

    #[test]
    fn every_name_round_trips() {
        for cluster in ["demo", "my shop", "a/b", "%2F", "Bäckerei", "..", "a\nb", "x".repeat(100).as_str()]
        {
            for name in
                [member(cluster, 0), member(cluster, 255), client(cluster, "app"), client(cluster, "ä/b")]
            {
                let uri = name.to_string();
                assert!(uri.is_ascii() && !uri.contains(char::is_whitespace), "{uri}");
                assert_eq!(uri.parse::<Name>().as_ref(), Ok(&name));
            }
        }
    }

    #[test]
    fn a_malformed_name_is_refused() {
        for uri in [
            "",
            "kv://",
            "kv://demo",
            "kv://demo/member",
            "kv://demo/member/",
            "kv://demo/member/256",
            "kv://demo/member/-1",
            "kv://demo/member/+1",
            "kv://demo/member/00",
            "kv://demo/member/0x1",
            "kv://demo/member/0/",
            "kv://demo/member/0/1",
            "kv:///member/0",
            "kv://demo/witness/0",
            "kv://demo/Member/0",
            "KV://demo/member/0",
            "kv:/demo/member/0",
            "kv://demo/client/",
            "kv://demo/client/a b",
            "kv://demo/client/%",
            "kv://demo/client/%4",
            "kv://demo/client/%FF",
            "kv://demo/client/%41",
            "kv://demo/client/%c3%a4",
            "kv://demo/client/%+1",
            "kv://demo/member/0?x",
            "kv://demo/member/0#x",
            "kv://demo/client/a?b",
            "https://demo/member/0",
            " kv://demo/member/0",
            "kv://demo/member/0\n",
        ] {
            assert_eq!(uri.parse::<Name>(), Err(NameError::Form { uri: uri.into() }));
        }
        assert!(format!("kv://{}/member/0", "x".repeat(101)).parse::<Name>().is_err());
    }

    #[test]
    fn exactly_one_name_is_accepted() {
        let among = |uris: &[&str]| Name::among(uris.iter().copied());
        assert_eq!(among(&["spiffe://x/y", "kv://demo/member/1"]), Ok(member("demo", 1)));
        assert_eq!(among(&[]), Err(NameError::Missing));
        assert_eq!(among(&["spiffe://x/y", "ä"]), Err(NameError::Missing));
        assert!(matches!(
            among(&["kv://demo/member/1", "kv://demo/member/1"]),
            Err(NameError::Several { .. })
        ));
        assert!(matches!(
            among(&["kv://demo/member/1", "KV://demo/client/a"]),
            Err(NameError::Several { .. })
        ));
        assert!(matches!(among(&["KV://demo/member/1"]), Err(NameError::Form { .. })));
    }
}
