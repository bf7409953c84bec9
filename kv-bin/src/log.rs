//! The log on stderr.

use crate::failure::Failure;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sends what `filter` lets through to stderr: a level, or levels per module as in `info,kv_core=debug`.
pub(crate) fn init(filter: &str) -> Result<(), Failure> {
    let targets = parse(filter).ok_or_else(|| {
        Failure::usage(format!(
            "{filter:?} is not a log filter: write error, warn, info, debug, trace or off, or levels per module as in \
             info,kv_core=debug"
        ))
    })?;
    let colours = anstream::AutoStream::choice(&std::io::stderr()) != anstream::ColorChoice::Never;
    // Internal errors are not logged: they are failures to write to stderr, and where stderr is gone the report of one
    // would end the process.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(targets)
        .try_init()
        .map_err(|error| Failure::failed(format!("cannot start the log: {error}")))
}

/// Stricter than the library, to which a misspelt level is the name of a module.
fn parse(filter: &str) -> Option<Targets> {
    let known =
        |part: &str| part.contains('=') || !part.is_empty() && part.trim().parse::<LevelFilter>().is_ok();
    if filter.split(',').all(known) { filter.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_levels_per_module_are_understood() {
        for filter in ["info", "off", "info,kv_core=debug", "kv_core::node=trace"] {
            assert!(parse(filter).is_some(), "{filter}");
        }
        for filter in ["loud", "", "info,loud", "kv_core=loud"] {
            assert!(parse(filter).is_none(), "{filter}");
        }
    }
}
