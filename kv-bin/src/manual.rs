//! Shell completions and manual pages.

use crate::cli::{Cli, CompletionsArgs, ManArgs};
use crate::commands::{print_written, still_read};
use crate::failure::Failure;
use clap::{Command, CommandFactory as _};
use std::fs;
use std::io::{self, Write as _};

/// Prints the completion script of a shell.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "kv", &mut script);
    still_read(io::stdout().write_all(&script)).map(drop)
}

/// Writes a page for `kv`, for each of its commands, and for theirs, in the format of `man`.
pub(crate) fn pages(args: &ManArgs, json: bool) -> Result<(), Failure> {
    let mut all = without_help(Cli::command());
    all.build();
    fs::create_dir_all(&args.out).map_err(|error| {
        Failure::failed(format!("cannot create the folder {}: {error}", args.out.display()))
    })?;
    for command in with_subcommands(&all) {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
        let path = args.out.join(format!("{name}.1"));
        let mut page = Vec::new();
        let manual = clap_mangen::Man::new(command).source(concat!("kv ", env!("CARGO_PKG_VERSION")));
        let written = manual.render(&mut page).and_then(|()| fs::write(&path, page));
        written.map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
        // The page was written; it does not matter if nobody reads its name.
        print_written(json, &path)?;
    }
    Ok(())
}

/// A page about `kv help` is not useful.
fn without_help(command: Command) -> Command {
    command.disable_help_subcommand(true).mut_subcommands(without_help)
}

/// A command and all its subcommands.
fn with_subcommands(command: &Command) -> Vec<Command> {
    let below = command.get_subcommands().filter(|command| !command.is_hide_set());
    std::iter::once(command.clone()).chain(below.flat_map(with_subcommands)).collect()
}
