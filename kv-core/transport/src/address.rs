//! The form of addresses that most transports use.

use crate::TransportError;
use std::net::{Ipv4Addr, Ipv6Addr};
#[cfg(feature = "net")]
use std::{io, net::SocketAddr};

/// Checks that `address` has the form `HOST:PORT`. The host is an IPv4 address, an IPv6 address in brackets, or a name.
///
/// # Errors
/// [`TransportError::Address`], which states what is wrong.
pub fn check_host_port(address: &str) -> Result<(), TransportError> {
    let form = "expected HOST:PORT, for example 127.0.0.1:7000, [::1]:7000 or db1.example:7000";
    let (host, port) = address.rsplit_once(':').ok_or_else(|| TransportError::address(address, form))?;
    // `parse::<u16>` also accepts a leading `+`, so check separately that the port consists only of digits.
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || port.parse::<u16>().is_err() {
        let reason = format!("{port:?} is not a port (0 to 65535); {form}");
        return Err(TransportError::address(address, reason));
    }
    let problem = match host.strip_prefix('[') {
        Some(inner) => ipv6_problem(inner),
        None => host_problem(host),
    };
    problem.map_or(Ok(()), |problem| Err(TransportError::address(address, format!("{problem}; {form}"))))
}

/// Returns what is wrong with an IPv6 address. `inner` is the part of the host after the opening bracket, so it should
/// end with the closing bracket.
fn ipv6_problem(inner: &str) -> Option<String> {
    let Some(inner) = inner.strip_suffix(']') else { return Some("the bracket is not closed".to_owned()) };
    let address = inner.split_once('%').map_or(inner, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_err().then(|| format!("{inner:?} is not an IPv6 address"))
}

/// Returns what is wrong with a name or an IPv4 address.
fn host_problem(host: &str) -> Option<String> {
    if host.is_empty() {
        return Some("there is no host".to_owned());
    }
    if host.contains("://") {
        return Some("it is no URL".to_owned());
    }
    if host.contains(':') {
        return Some("an IPv6 address must be in brackets, followed by a port".to_owned());
    }
    let is_of_a_name = |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.');
    if let Some(char) = host.chars().find(|char| !is_of_a_name(*char)) {
        return Some(format!("{char:?} cannot be in a name"));
    }
    let labels = host.strip_suffix('.').unwrap_or(host);
    if labels.split('.').any(|label| label.is_empty() || label.len() > 63) || labels.len() > 253 {
        return Some(format!("{host:?} is no name"));
    }
    // No top-level domain is a number. So if the last label is a number, the host is meant as an IPv4 address.
    let last = labels.rsplit('.').next().unwrap_or_default();
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && host.parse::<Ipv4Addr>().is_err()).then(|| format!("{host:?} is not an IPv4 address"))
}

/// If all addresses are loopback addresses, puts the IPv4 addresses first. The reason: a listener at `localhost` uses
/// only the first address that works. On many machines this would be `::1`, but some peers and clients connect to
/// `127.0.0.1`.
#[cfg(feature = "net")]
fn order(candidates: &mut [SocketAddr]) {
    if candidates.iter().all(|candidate| candidate.ip().is_loopback()) {
        candidates.sort_by_key(SocketAddr::is_ipv6);
    }
}

/// Resolves `address` (`HOST:PORT`) to IP addresses, and calls `attempt` with one after the other until a call
/// succeeds. Returns the result of this call.
///
/// # Errors
/// The error of the last attempt. If `address` cannot be resolved, or resolves to nothing, the error states this.
#[cfg(feature = "net")]
pub async fn try_each_address<T, E, F>(
    address: &str,
    mut attempt: impl FnMut(SocketAddr) -> F,
) -> Result<T, E>
where
    E: From<io::Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut last = E::from(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    let mut candidates: Vec<SocketAddr> = tokio::net::lookup_host(address).await?.collect();
    order(&mut candidates);
    for candidate in candidates {
        match attempt(candidate).await {
            Ok(done) => return Ok(done),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_address_is_refused_with_the_reason() {
        for address in [
            "127.0.0.1:7000",
            "[::1]:7000",
            "[fe80::1%eth0]:7000",
            "db1.example:7000",
            "db_1:0",
            "localhost.:7000",
            "h:65535",
            "bücher.example:7000",
            "10.0.0.1.example:1",
        ] {
            check_host_port(address).expect(address);
        }
        for (address, fragment) in [
            ("", "HOST:PORT"),
            ("localhost", "HOST:PORT"),
            (":7000", "no host"),
            ("localhost:", "not a port"),
            ("localhost:x", "not a port"),
            ("localhost:+7000", "not a port"),
            ("localhost:-1", "not a port"),
            ("localhost:65536", "not a port"),
            ("localhost:7000 ", "not a port"),
            (" localhost:7000", "cannot be in a name"),
            ("http://localhost:7000", "no URL"),
            ("localhost:7000/", "not a port"),
            ("user@localhost:7000", "'@' cannot be in a name"),
            ("::1:7000", "brackets"),
            ("[::1:7000", "not closed"),
            ("[::1]7000", "not"),
            ("[127.0.0.1]:7000", "not an IPv6 address"),
            ("[]:7000", "not an IPv6 address"),
            ("256.0.0.1:7000", "not an IPv4 address"),
            ("127.0.0:7000", "not an IPv4 address"),
            ("7000:7000", "not an IPv4 address"),
            ("a..b:7000", "no name"),
            (".:7000", "no name"),
            ("a\u{0}b:7000", "cannot be in a name"),
        ] {
            let text = check_host_port(address).expect_err(address).to_string();
            assert!(text.contains(fragment), "{address:?}: {text}");
        }
    }

    #[cfg(feature = "net")]
    #[test]
    fn the_address_that_all_know_is_preferred() {
        let all = |texts: [&str; 2]| texts.map(|text| text.parse::<SocketAddr>().expect(text));
        let mut local = all(["[::1]:7000", "127.0.0.1:7000"]);
        order(&mut local);
        assert_eq!(local, all(["127.0.0.1:7000", "[::1]:7000"]));
        let mut others = all(["[2001:db8::1]:7000", "10.0.0.1:7000"]);
        order(&mut others);
        assert_eq!(others, all(["[2001:db8::1]:7000", "10.0.0.1:7000"]));
    }
}
