//! The `KV_*` variables: an empty one counts as not set, and an unknown one is logged.

use crate::cli::Cli;
use crate::output;
use clap::builder::Resettable;
use clap::{Command, CommandFactory as _, FromArgMatches as _};
use std::collections::BTreeSet;

const PREFIX: &str = "KV_";
/// Set by `kv lock` for the command that it runs. It is not read here.
const SET_BY_LOCK: &str = "KV_LOCK_TOKEN";
/// Set by orchestrators in every container for a service with the name `kv`.
const OF_ORCHESTRATORS: [&str; 2] = ["KV_SERVICE_", "KV_PORT"];

/// Parses the command line and the variables that can replace flags.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let command = Cli::command();
    let known = variables(&command);
    let command = without_empty(command);
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in set.filter(|name| is_unknown(name, &known)) {
        let hint = nearest(&name, &known).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        output::print_error(format!("ignored the unknown variable {name}{hint}"));
    }
    let mut matches = command.try_get_matches()?;
    Cli::from_arg_matches_mut(&mut matches)
}

/// The command and its subcommands, ignoring variables that are set but empty.
pub(crate) fn without_empty(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let is_empty = arg
                .get_env()
                .and_then(std::env::var_os)
                .is_some_and(|value| value.to_string_lossy().trim().is_empty());
            if is_empty { arg.env(Resettable::Reset) } else { arg }
        })
        .mut_subcommands(without_empty)
}

/// Whether the command line of this process contains the option.
pub(crate) fn is_typed(option: &str) -> bool {
    let is_it = |word: &str| word.split('=').next() == Some(option);
    std::env::args_os().any(|word| is_it(&word.to_string_lossy()))
}

/// Names the variable, instead of the option `--x`, if an invalid value has been taken from there.
pub(crate) fn name_source(line: &str, option: &str, value: &str) -> String {
    let flag = option.split(' ').next().unwrap_or_default();
    let variable = flag.replacen("--", PREFIX, 1).replace('-', "_").to_uppercase();
    let is_set = || std::env::var(&variable).is_ok_and(|set| set.contains(value));
    if is_typed(flag) || !is_set() { line.to_owned() } else { line.replacen(option, &variable, 1) }
}

/// All variables that some flag reads.
pub(crate) fn variables(command: &Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str().map(str::to_owned));
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

fn is_unknown(name: &str, known: &BTreeSet<String>) -> bool {
    let is_others = || OF_ORCHESTRATORS.iter().any(|prefix| name.starts_with(prefix));
    name.starts_with(PREFIX) && name != SET_BY_LOCK && !known.contains(name) && !is_others()
}

/// The known name that differs from this one by a typing mistake.
fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let near = known.iter().map(|it| (strsim::osa_distance(name, it), it.as_str())).min()?;
    (near.0 <= 2).then_some(near.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_variable_is_reported_with_the_nearest_name() {
        let known = variables(&Cli::command());
        for name in ["KV_ADDRESS", "KV_HEARTBEAT", "KV_TLS_DIR", "KV_LOG", "KV_TIMEOUT"] {
            assert!(known.contains(name), "{name}");
        }
        assert_eq!(nearest("KV_ADRESS", &known), Some("KV_ADDRESS"));
        assert_eq!(nearest("KV_HEARTBAET", &known), Some("KV_HEARTBEAT"));
        assert_eq!(nearest("KV_SOMETHING_ELSE", &known), None);
    }
}
