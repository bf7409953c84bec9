//! The options that are fixed when a cluster forms, and the table of all options.
//!
//! The outcome of a request follows from the log and from these options. A restarted member applies a part of its log
//! again, and must produce the same outcomes. So these options are stored in the superblock when a directory is
//! formatted (rule F6), on witnesses too, and in every checkpoint of the state. They are compared whenever a directory
//! is opened, a member sends its hello, or a state is transferred.

use super::Options;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where and when an option may differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Scope {
    /// The option affects the outcome of requests, or a proof of the protocol depends on it. It is stored when the
    /// cluster forms, and is the same on all members and after every restart. A member refuses another value, and names
    /// the option.
    Fixed,
    /// The option may differ between members, and may change with every restart. It affects when and how fast things
    /// happen, or how much memory and disk space they take, but never the outcome of a request that is in the log.
    Local,
}

/// A row of the table of options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct OptionRow {
    /// The name of the option's field in [`Options`].
    pub name: &'static str,
    /// Whether the option is fixed or local.
    pub scope: Scope,
    /// What the option decides. For a fixed option, which outcomes it affects; for a local option, why it affects no
    /// outcome.
    pub decides: &'static str,
}

const fn fixed(name: &'static str, decides: &'static str) -> OptionRow {
    OptionRow { name, scope: Scope::Fixed, decides }
}

const fn local(name: &'static str, decides: &'static str) -> OptionRow {
    OptionRow { name, scope: Scope::Local, decides }
}

/// Every field of [`Options`], in the order of the fields. Fixed options are compared in three places: with the
/// superblock when a directory is opened, in the hello between members, and with the checkpoint of a state that is
/// opened or received.
pub const OPTION_TABLE: &[OptionRow] = &[
    local("heartbeat", "how often the primary sends a heartbeat, and how long a vote to leave a view counts"),
    local(
        "failure_timeout_min",
        "the shortest silence after which a backup votes to leave a view, and the shortest time after which a member repeats a request to another member",
    ),
    local(
        "failure_timeout_max",
        "the longest silence after which a backup votes to leave a view, and how late the leases of clients may end after a failover (rule X6)",
    ),
    fixed("read_lease", "how long a member keeps the promise behind leased reads (rules R5, R6)"),
    local(
        "wall_clock_allowance",
        "how far wall clocks may be set forward while all members are down, without making a key or a lease expire early; in return, keys and leases may expire late by up to this much afterwards (rule N7)",
    ),
    fixed("pipeline_depth", "how many entries may be uncommitted at once (rule N3)"),
    local(
        "max_batch_bytes",
        "how many requests share an entry; members may differ, because a journal stores entries of any size (rule D9)",
    ),
    fixed(
        "max_key_bytes",
        "the length of the longest key; the largest request and the largest result of a transaction follow from this option and `max_value_bytes` (rule E7)",
    ),
    fixed(
        "max_value_bytes",
        "the size of the largest value; the largest request and the largest result of a transaction follow from this option and `max_key_bytes` (rule E7)",
    ),
    local("segment_bytes", "the size of journal files; a larger entry gets a file of its own (rule D9)"),
    local("checkpoint_bytes", "when the state is written to disk; the log contains what is newer"),
    local("journal_retention_bytes", "how much of the log is kept for members that are away"),
    local("witness_journal_bytes", "how much of the log a witness keeps for members that are away"),
    local("transfer_bytes_per_second", "how fast the state is sent to another member"),
    local("scrub_bytes_per_second", "how soon damage is noticed"),
    local("cache_bytes", "how much of the state is cached in memory"),
    fixed(
        "max_sessions",
        "how many sessions there may be; a new session beyond this number replaces the one that has been silent for the longest time (rule E4)",
    ),
    fixed("session_ttl", "when a silent session expires (rule E4)"),
    fixed(
        "max_in_flight_per_session",
        "how many requests of a session may be in flight; requests beyond this number are never executed",
    ),
    fixed("history_revisions", "how many past revisions can be read and watched (rule R3)"),
    fixed(
        "history_bytes",
        "how many bytes the changes of these revisions may take; the oldest revisions beyond this cannot be read or watched (rule R3)",
    ),
    fixed("max_leases", "how many leases there may be; requests for further leases are refused"),
    local("max_connections", "how many clients can be connected"),
    local("max_accepts_per_second", "how many clients can connect in a second"),
    local(
        "client_memory_bytes",
        "how much memory the requests and answers of clients may use; a request beyond this limit waits or is refused before it enters the log (rule E6)",
    ),
    local("client_idle_timeout", "how long the connection of a client may be silent before it is closed"),
];

/// The options that are fixed when a cluster forms: see [`OPTION_TABLE`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FixedOptions {
    /// [`Options::read_lease`].
    pub read_lease: Duration,
    /// [`Options::pipeline_depth`].
    pub pipeline_depth: u32,
    /// [`Options::max_key_bytes`].
    pub max_key_bytes: usize,
    /// [`Options::max_value_bytes`].
    pub max_value_bytes: usize,
    /// [`Options::max_sessions`].
    pub max_sessions: usize,
    /// [`Options::session_ttl`].
    pub session_ttl: Duration,
    /// [`Options::max_in_flight_per_session`].
    pub max_in_flight_per_session: usize,
    /// [`Options::history_revisions`].
    pub history_revisions: u64,
    /// [`Options::history_bytes`].
    pub history_bytes: u64,
    /// [`Options::max_leases`].
    pub max_leases: usize,
}

/// A fixed option does not have the value that it had when the cluster formed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{option} is {found}, and the cluster was formed with {formed}: set it back to {formed}")]
#[non_exhaustive]
pub struct OptionMismatch {
    /// The name of the option's field in [`Options`].
    pub option: &'static str,
    /// The value that the option had when the cluster formed.
    pub formed: String,
    /// The value that was found instead.
    pub found: String,
}

impl From<&Options> for FixedOptions {
    fn from(options: &Options) -> Self {
        Self {
            read_lease: options.read_lease,
            pipeline_depth: options.pipeline_depth,
            max_key_bytes: options.max_key_bytes,
            max_value_bytes: options.max_value_bytes,
            max_sessions: options.max_sessions,
            session_ttl: options.session_ttl,
            max_in_flight_per_session: options.max_in_flight_per_session,
            history_revisions: options.history_revisions,
            history_bytes: options.history_bytes,
            max_leases: options.max_leases,
        }
    }
}

impl FixedOptions {
    /// Refuses options that differ from these.
    ///
    /// # Errors
    /// [`OptionMismatch`] names the first option that differs, with both values.
    pub fn check(&self, found: &Self) -> Result<(), OptionMismatch> {
        let pairs = self.named().into_iter().zip(found.named());
        match pairs.into_iter().find(|((_, formed), (_, found))| formed != found) {
            Some(((option, formed), (_, found))) => Err(OptionMismatch { option, formed, found }),
            None => Ok(()),
        }
    }

    /// The name of every option, and its value as written in a configuration.
    fn named(&self) -> [(&'static str, String); 10] {
        // Without `..`, so that a new option does not compile until it is named here.
        let Self {
            read_lease,
            pipeline_depth: pipeline,
            max_key_bytes,
            max_value_bytes,
            max_sessions,
            session_ttl,
            max_in_flight_per_session,
            history_revisions,
            history_bytes,
            max_leases,
        } = self;
        [
            ("read_lease", format!("{read_lease:?}")),
            ("pipeline_depth", pipeline.to_string()),
            ("max_key_bytes", max_key_bytes.to_string()),
            ("max_value_bytes", max_value_bytes.to_string()),
            ("max_sessions", max_sessions.to_string()),
            ("session_ttl", format!("{session_ttl:?}")),
            ("max_in_flight_per_session", max_in_flight_per_session.to_string()),
            ("history_revisions", history_revisions.to_string()),
            ("history_bytes", history_bytes.to_string()),
            ("max_leases", max_leases.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all fields of [`Options`]. A field that is missing here does not compile.
    macro_rules! fields {
        ($($field:ident),* $(,)?) => {{
            let Options { $($field: _),* } = Options::default();
            vec![$(stringify!($field)),*]
        }};
    }

    fn all_fields() -> Vec<&'static str> {
        fields!(
            heartbeat,
            failure_timeout_min,
            failure_timeout_max,
            read_lease,
            wall_clock_allowance,
            pipeline_depth,
            max_batch_bytes,
            max_key_bytes,
            max_value_bytes,
            segment_bytes,
            checkpoint_bytes,
            journal_retention_bytes,
            witness_journal_bytes,
            transfer_bytes_per_second,
            scrub_bytes_per_second,
            cache_bytes,
            max_sessions,
            session_ttl,
            max_in_flight_per_session,
            history_revisions,
            history_bytes,
            max_leases,
            max_connections,
            max_accepts_per_second,
            client_memory_bytes,
            client_idle_timeout,
        )
    }

    #[test]
    fn f6_every_option_is_in_the_table() {
        let table: Vec<_> = OPTION_TABLE.iter().map(|row| row.name).collect();
        assert_eq!(table, all_fields());
    }

    #[test]
    fn f6_the_guide_has_the_table() {
        let guide = include_str!("../../guide/operating.md");
        for OptionRow { name, scope, decides } in OPTION_TABLE {
            let scope = match scope {
                Scope::Fixed => "fixed",
                Scope::Local => "local",
            };
            let row = format!("| `{name}` | {scope} | {decides} |\n");
            assert!(guide.contains(&row), "guide/operating.md lacks {row}");
        }
    }

    #[test]
    fn f6_the_fixed_options_match_the_table() {
        let fixed = OPTION_TABLE.iter().filter(|row| row.scope == Scope::Fixed).map(|row| row.name);
        let named = FixedOptions::from(&Options::default()).named();
        let (mut fixed, mut named): (Vec<_>, Vec<_>) =
            (fixed.collect(), named.iter().map(|it| it.0).collect());
        fixed.sort_unstable();
        named.sort_unstable();
        assert_eq!(fixed, named);
    }

    #[test]
    fn f6_only_a_different_fixed_option_is_refused_with_both_values() {
        type Change = fn(&mut Options);
        let changes: [(&str, Change); 10] = [
            ("read_lease", |options| options.read_lease = Duration::from_secs(1)),
            ("pipeline_depth", |options| options.pipeline_depth += 1),
            ("max_key_bytes", |options| options.max_key_bytes += 1),
            ("max_value_bytes", |options| options.max_value_bytes -= 1),
            ("max_sessions", |options| options.max_sessions += 1),
            ("session_ttl", |options| options.session_ttl += Duration::from_nanos(1)),
            ("max_in_flight_per_session", |options| options.max_in_flight_per_session += 1),
            ("history_revisions", |options| options.history_revisions += 1),
            ("history_bytes", |options| options.history_bytes = 0),
            ("max_leases", |options| options.max_leases += 1),
        ];
        let formed = FixedOptions::from(&Options::default());
        for (name, change) in changes {
            let mut options = Options::default();
            change(&mut options);
            let mismatch = formed.check(&FixedOptions::from(&options)).expect_err(name);
            assert_eq!(mismatch.option, name);
            assert_ne!(mismatch.formed, mismatch.found);
        }
        let local =
            Options { checkpoint_bytes: 1, max_batch_bytes: 1, segment_bytes: 1, ..Options::default() };
        assert_eq!(formed.check(&FixedOptions::from(&local)), Ok(()));
    }
}
