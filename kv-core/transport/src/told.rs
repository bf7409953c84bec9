//! What has been told already.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same is told loudly once in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// No more than so many are told loudly in that time.
const AT_MOST: usize = 32;

/// Which refusals a transport has told loudly a short while ago: of whom, and why. Who keeps coming, or a flood of strangers, is
/// not to flood the log. Clones share what they know.
#[derive(Clone, Debug, Default)]
pub struct Told(Arc<Mutex<Vec<(IpAddr, String, Instant)>>>);

impl Told {
    /// Whether to tell this one loudly: not if the same was told within the last minute, or too many others were.
    #[must_use]
    pub fn is_due(&self, now: Instant, who: IpAddr, reason: &str) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(.., at)| now.duration_since(*at) < AGAIN);
        let due = told.len() < AT_MOST && !told.iter().any(|(ip, text, _)| *ip == who && text == reason);
        if due {
            told.push((who, reason.to_owned(), now));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_told_once_a_minute_and_a_flood_is_not_told() {
        let (told, ip, now) = (Told::default(), IpAddr::from([127, 0, 0, 1]), Instant::now());
        assert!(told.is_due(now, ip, "expired"));
        assert!(
            !told.is_due(now, ip, "expired")
                && told.is_due(now, ip, "unknown")
                && told.is_due(now, [10, 0, 0, 1].into(), "expired")
        );
        let flood = (0..200).filter(|i| told.clone().is_due(now, ip, &i.to_string())).count();
        assert_eq!(flood, AT_MOST - 3);
        assert!(told.is_due(now + AGAIN, ip, "expired"));
    }
}
