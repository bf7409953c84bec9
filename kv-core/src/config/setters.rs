//! A setter for each option.

use super::{ConfigError, Options};
use std::time::Duration;

macro_rules! setters {
    ($($name:ident: $type:ty,)*) => {
        impl Options {
            $(
                #[doc = concat!("Sets the option [`", stringify!($name), "`](field@Self::", stringify!($name), ").")]
                #[must_use]
                pub const fn $name(mut self, $name: $type) -> Self {
                    self.$name = $name;
                    self
                }
            )*
        }

        #[cfg(test)]
        const SETTERS: &[&str] = &[$(stringify!($name)),*];
    };
}

setters! {
    heartbeat: Duration,
    failure_timeout_min: Duration,
    failure_timeout_max: Duration,
    read_lease: Duration,
    wall_clock_allowance: Duration,
    pipeline_depth: u32,
    max_batch_bytes: usize,
    max_key_bytes: usize,
    max_value_bytes: usize,
    segment_bytes: u64,
    checkpoint_bytes: usize,
    journal_retention_bytes: u64,
    witness_journal_bytes: u64,
    transfer_bytes_per_second: u64,
    scrub_bytes_per_second: u64,
    cache_bytes: usize,
    max_sessions: usize,
    session_ttl: Duration,
    max_in_flight_per_session: usize,
    history_revisions: u64,
    history_bytes: u64,
    max_leases: usize,
    max_connections: usize,
    max_accepts_per_second: u32,
    client_memory_bytes: usize,
    client_idle_timeout: Duration,
}

impl Options {
    /// Returns these options, if every value is in its range.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn checked(self) -> Result<Self, ConfigError> {
        self.check()?;
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::OPTION_TABLE;

    #[test]
    fn every_option_has_a_setter() {
        let options: Vec<&str> = OPTION_TABLE.iter().map(|row| row.name).collect();
        assert_eq!(SETTERS, options);
    }

    #[test]
    fn options_that_are_out_of_range_are_not_returned() {
        let error = Options::default().max_leases(5).pipeline_depth(257).checked().unwrap_err();
        assert_eq!(error.to_string(), "pipeline_depth is 257: it must be 1 to 256");
        let options = Options::default().max_leases(5).checked().unwrap();
        assert_eq!(options, Options { max_leases: 5, ..Options::default() });
    }
}
