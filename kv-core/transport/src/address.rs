//! The form of an address that most transports share.

use crate::TransportError;
#[cfg(feature = "net")]
use std::{io, net::SocketAddr};

/// Whether `address` has the form `HOST:PORT`: an IPv4 address, an IPv6 address in brackets, or a name.
///
/// # Errors
/// [`TransportError::Address`] with what is wrong.
pub fn check_host_port(address: &str) -> Result<(), TransportError> {
    let form = "expected HOST:PORT, for example 127.0.0.1:7000, [::1]:7000 or db1.example:7000";
    let (host, port) = address.rsplit_once(':').ok_or_else(|| TransportError::address(address, form))?;
    if port.parse::<u16>().is_err() {
        let reason = format!("{port:?} is not a port (0 to 65535); {form}");
        return Err(TransportError::address(address, reason));
    }
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if host.is_empty() || bare_ipv6 || host.contains(char::is_whitespace) {
        return Err(TransportError::address(address, form));
    }
    Ok(())
}

/// Looks up the addresses that `address` (`HOST:PORT`) stands for, and tries one after the other until one serves.
///
/// # Errors
/// What the last of them failed with, or why there is none.
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
    for candidate in tokio::net::lookup_host(address).await? {
        match attempt(candidate).await {
            Ok(done) => return Ok(done),
            Err(error) => last = error,
        }
    }
    Err(last)
}
