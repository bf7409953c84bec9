//! How often a door tries again what other clients have prevented.

use std::time::Duration;

/// How often a request is tried because other clients have changed its keys meanwhile.
pub(crate) const MAX_ATTEMPTS: u32 = 100;
/// The longest pause between two such attempts.
const MAX_PAUSE: Duration = Duration::from_millis(20);

/// Waits a random time, which is longer after more attempts, so that clients that compete for a key get their turns.
pub(crate) async fn pause(attempt: u32) {
    let most = MAX_PAUSE.min(Duration::from_micros(200) * 2_u32.saturating_pow(attempt.min(10)));
    tokio::time::sleep(most.mul_f64(fastrand::f64())).await;
}
