//! Which requests are refused because a web page may have sent them.

use super::errors::{Code, Failure};
use hyper::HeaderMap;
use hyper::header::{HOST, HeaderName, ORIGIN};
use std::net::IpAddr;

/// Refuses requests that web pages of other sites may have sent. `hosts` are the permitted host names.
pub(super) fn check(headers: &HeaderMap, hosts: &[String]) -> Result<(), Failure> {
    let host = text(headers, &HOST)?;
    if let Some(host) = host
        && !is_permitted(host, hosts)
    {
        let refusal = format!(
            "the host {:?} is not permitted, because a web page could use it: use an IP address or localhost, or permit the \
             name with --http-hosts",
            name_of(host)
        );
        return Err(Failure::new(Code::PermissionDenied, refusal));
    }
    match text(headers, &ORIGIN)? {
        None => Ok(()),
        // There is no TLS, so the scheme is always the same.
        Some(origin) if origin.strip_prefix("http://").is_some_and(|origin| Some(origin) == host) => Ok(()),
        Some(origin) => {
            let refusal = format!("web pages of another site ({origin:?}) may not use this server");
            Err(Failure::new(Code::PermissionDenied, refusal))
        }
    }
}

/// The value of a header that may occur once.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str()).transpose();
    match (value, values.next()) {
        (Ok(value), None) => Ok(value),
        _ => Err(Failure::new(Code::InvalidArgument, format!("the header {name} must be one text"))),
    }
}

fn is_permitted(host: &str, hosts: &[String]) -> bool {
    let name = name_of(host);
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || hosts.iter().any(|permitted| name.eq_ignore_ascii_case(permitted))
}

/// The host without the port.
fn name_of(host: &str) -> &str {
    let Some((name, port)) = host.rsplit_once(':') else { return host };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit());
    // Without brackets, the colons belong to an IPv6 address.
    let is_whole = !name.contains(':') || name.ends_with(']');
    if is_port && is_whole { name } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn is_refused(host: Option<&str>, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        for (name, value) in [(HOST, host), (ORIGIN, origin)] {
            value
                .into_iter()
                .for_each(|value| drop(headers.insert(name.clone(), HeaderValue::from_str(value).unwrap())));
        }
        check(&headers, &["kv.example".to_owned()]).is_err()
    }

    #[test]
    fn only_addresses_and_permitted_names_are_hosts() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:2379",
            "[::1]:2379",
            "[::1]",
            "localhost",
            "LocalHost:1",
            "10.0.0.7:80",
            "kv.example:2379",
            "KV.example",
        ] {
            assert!(!is_refused(Some(host), None), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:2379",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "kv.example.evil",
            "",
            ":80",
            "[evil]",
        ] {
            assert!(is_refused(Some(host), None), "{host}");
        }
        assert!(!is_refused(None, None), "HTTP/1.0 without a host: no browser sends this");
    }

    #[test]
    fn only_pages_of_the_server_itself_may_use_it() {
        assert!(!is_refused(Some("127.0.0.1:2379"), Some("http://127.0.0.1:2379")));
        for origin in [
            "http://127.0.0.1:80",
            "https://127.0.0.1:2379",
            "http://evil.example",
            "null",
            "http://127.0.0.1",
        ] {
            assert!(is_refused(Some("127.0.0.1:2379"), Some(origin)), "{origin}");
        }
        assert!(is_refused(Some("evil.example"), Some("http://evil.example")), "DNS rebinding");
    }

    #[test]
    fn headers_that_occur_twice_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append(HOST, HeaderValue::from_static("127.0.0.1"));
        headers.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(check(&headers, &[]).is_err());
    }
}
