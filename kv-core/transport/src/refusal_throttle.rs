//! Limits how often a transport logs the same refusal.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same refusal is logged as a warning at most once in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// At most this many refusals are logged as warnings within `AGAIN`.
const AT_MOST: usize = 32;

/// Remembers which refusals a transport recently logged as warnings, so that neither repeated refusals nor many
/// strangers can flood the log. Two refusals are the same if the address of the caller and the reason are the same.
/// Clones share what they remember.
#[derive(Clone, Debug, Default)]
pub struct RefusalThrottle(Arc<Mutex<Vec<(IpAddr, String, Instant)>>>);

impl RefusalThrottle {
    /// Returns whether to log this refusal as a warning. If so, remembers the refusal as logged. Returns false if the
    /// same refusal, or 32 refusals in all, were logged as warnings within the last minute.
    #[must_use]
    pub fn is_due(&self, now: Instant, who: IpAddr, reason: &str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        logged.retain(|(.., at)| now.duration_since(*at) < AGAIN);
        let due = logged.len() < AT_MOST && !logged.iter().any(|(ip, text, _)| *ip == who && text == reason);
        if due {
            logged.push((who, reason.to_owned(), now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_refusals_are_logged_once_a_minute() {
        let (logged, ip, now) = (RefusalThrottle::default(), IpAddr::from([127, 0, 0, 1]), Instant::now());
        assert!(logged.is_due(now, ip, "expired"));
        assert!(
            !logged.is_due(now, ip, "expired")
                && logged.is_due(now, ip, "unknown")
                && logged.is_due(now, [10, 0, 0, 1].into(), "expired")
        );
        let flood = (0..200).filter(|i| logged.clone().is_due(now, ip, &i.to_string())).count();
        assert_eq!(flood, AT_MOST - 3);
        assert!(logged.is_due(now + AGAIN, ip, "expired"));
    }
}
