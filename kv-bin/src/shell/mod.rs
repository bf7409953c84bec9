//! `kv shell`: client commands, one per line, on one connection.

mod editor;

use crate::cli::{ClientCommand, ShellArgs};
use crate::config::{ConnectArgs, without_mark};
use crate::context::Context;
use crate::dispatch;
use crate::environment::without_empty;
use crate::explain;
use crate::failure::Failure;
use crate::output;
use crate::signals::{Caught, Signals};
use clap::parser::ValueSource;
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use std::io::{self, BufRead as _, BufReader, IsTerminal as _};
use std::sync::mpsc as blocking;
use tokio::sync::mpsc;

const PROGRAM: &str = "kv";
/// Ctrl-C ends a command, but not the shell.
const INTERRUPTED: &str = "interrupted: the command may or may not have taken effect";

/// One command per line, with or without `kv` before it. Words are quoted as in a shell.
#[derive(Parser, Debug)]
#[command(name = PROGRAM)]
struct Line {
    #[command(subcommand)]
    command: LineCommand,

    /// Print JSON, one object per line.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand, Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
enum LineCommand {
    #[command(flatten)]
    Client(ClientCommand),
    /// Leave the shell.
    #[command(visible_alias = "quit")]
    Exit,
}

/// The lines, read by a thread of its own: one line per request.
#[derive(Debug)]
struct Lines {
    ask: blocking::Sender<()>,
    input: mpsc::Receiver<Result<String, Failure>>,
}

impl Lines {
    /// The lines that `next` returns, until it returns none.
    fn new(mut next: impl FnMut() -> Option<Result<String, Failure>> + Send + 'static) -> Self {
        let (ask, asked) = blocking::channel();
        let (send, input) = mpsc::channel(1);
        std::thread::spawn(move || {
            while asked.recv().is_ok() {
                let Some(line) = next() else { return };
                if send.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Self { ask, input }
    }

    /// The lines of standard input.
    fn of_script() -> Self {
        let mut lines = BufReader::new(io::stdin()).lines();
        let mut is_first = true;
        Self::new(move || {
            let mut line = lines.next()?;
            if std::mem::take(&mut is_first) {
                line = line.map(|line| without_mark(&line).to_owned());
            }
            Some(line.map_err(|error| Failure::failed(format!("cannot read standard input: {error}"))))
        })
    }

    fn ask(&self) {
        // If the thread has ended, it needs no notification.
        let _ = self.ask.send(());
    }
}

/// The result of a line.
enum Ending {
    Done,
    Failed(Failure),
    /// It was no valid command, and the error has been printed; the exit code for it.
    Misread(u8),
    /// A signal interrupted it; whether that could not affect anything.
    Stopped {
        by: Caught,
        only_read: bool,
    },
    Leave,
}

/// Runs lines until they end, a line of a script fails, or a signal stops it.
pub(crate) async fn run(args: ShellArgs, json: bool) -> Result<(), Failure> {
    let signals = Signals::catch()?;
    let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let grammar = grammar();
    let (lines, terminal) = if is_interactive {
        let terminal = editor::Terminal::remember();
        (editor::start(grammar.clone(), !args.no_history)?, terminal)
    } else {
        (Lines::of_script(), editor::Terminal::default())
    };
    let context = Context::of_shell(args.connect);
    let mut shell = Shell { context: &context, grammar, signals, json };
    let ended = if is_interactive { shell.run(lines, &terminal).await } else { shell.perform(lines).await };
    terminal.restore();
    context.close().await;
    ended
}

struct Shell<'a> {
    context: &'a Context,
    grammar: clap::Command,
    signals: Signals,
    json: bool,
}

impl Shell<'_> {
    /// An interactive user sees the failure and continues.
    async fn run(&mut self, mut lines: Lines, terminal: &editor::Terminal) -> Result<(), Failure> {
        loop {
            lines.ask();
            let line = loop {
                tokio::select! {
                    line = lines.input.recv() => break line,
                    // At the prompt, Ctrl-C goes to the editor. This one was meant for a command that had just ended.
                    signal = self.signals.next() => if !signal.is_interrupt() {
                        terminal.take_back().await;
                        return Ok(());
                    },
                }
            };
            let Some(line) = line else { return Ok(()) };
            match self.run_line(&line?).await {
                Ending::Done | Ending::Misread(_) => {}
                Ending::Failed(failure) => output::print_error(&failure),
                Ending::Stopped { by, only_read } => {
                    if !only_read {
                        output::print_error(INTERRUPTED);
                    }
                    if !by.is_interrupt() {
                        return Ok(());
                    }
                }
                Ending::Leave => return Ok(()),
            }
        }
    }

    /// A script ends when a line fails or a signal stops it.
    async fn perform(&mut self, mut lines: Lines) -> Result<(), Failure> {
        for number in 1_u64.. {
            lines.ask();
            let line = tokio::select! {
                biased;
                // Also a signal that the command before has handled.
                signal = self.signals.next() => return Err(signal.ended(format!("stopped by {signal}"))),
                line = lines.input.recv() => line,
            };
            let Some(line) = line else { break };
            match self.run_line(&line?).await {
                Ending::Done => {}
                Ending::Failed(failure) => return Err(failure.within(format!("line {number}"))),
                Ending::Misread(code) => {
                    return Err(Failure::passed_on(
                        code,
                        format!("line {number} is not a command: the script stops here"),
                    ));
                }
                Ending::Stopped { by, only_read: true } => {
                    return Err(by.ended(format!("line {number}: stopped by {by}")));
                }
                Ending::Stopped { by: _, only_read: false } => {
                    return Err(Failure::unknown(INTERRUPTED).within(format!("line {number}")));
                }
                Ending::Leave => break,
            }
        }
        Ok(())
    }

    async fn run_line(&mut self, line: &str) -> Ending {
        let Some(mut words) = shlex::split(line) else {
            return Ending::Failed(Failure::usage("a quote is not closed, or nothing follows the last \\"));
        };
        if words.is_empty() {
            return Ending::Done;
        }
        // A line is also accepted in the form that is used outside the shell.
        if words[0] != PROGRAM {
            words.insert(0, PROGRAM.to_owned());
        }
        let parsed = match self.grammar.try_get_matches_from_mut(words) {
            Ok(matches) => matches,
            Err(error) => return misread(&error),
        };
        if let Some(option) = own_connection(&parsed) {
            return Ending::Failed(Failure::usage(format!(
                "--{option} is an option of the whole shell: all its commands share one connection"
            )));
        }
        let (command, json) = match Line::from_arg_matches(&parsed) {
            Ok(Line { command: LineCommand::Client(command), json }) => (command, json || self.json),
            Ok(Line { command: LineCommand::Exit, .. }) => return Ending::Leave,
            Err(error) => return misread(&error),
        };
        self.execute(command, json).await
    }

    /// Runs a command until it ends or is interrupted.
    async fn execute(&mut self, command: ClientCommand, json: bool) -> Ending {
        let ending = |result: Result<(), Failure>| result.map_or_else(Ending::Failed, |()| Ending::Done);
        // It forwards signals to the process that it runs, and then releases the lock.
        if matches!(command, ClientCommand::Lock(_)) {
            tokio::select! {
                connected = self.context.client() => if let Err(failure) = connected {
                    return Ending::Failed(failure);
                },
                by = self.signals.next() => return Ending::Stopped { by, only_read: true },
            }
            return ending(dispatch::run(self.context, command, json).await);
        }
        let only_read = matches!(
            command,
            ClientCommand::Get(_)
                | ClientCommand::Scan(_)
                | ClientCommand::Count(_)
                | ClientCommand::Watch(_)
                | ClientCommand::Dump(_)
                | ClientCommand::Backup(_)
                | ClientCommand::Status(_)
                | ClientCommand::Members(_)
        );
        tokio::select! {
            result = dispatch::run(self.context, command, json) => ending(result),
            by = self.signals.next() => Ending::Stopped { by, only_read },
        }
    }
}

fn misread(error: &clap::Error) -> Ending {
    match explain(error) {
        0 => Ending::Done,
        code => Ending::Misread(code),
    }
}

/// The commands without the flags that locate the cluster: those belong to the shell.
fn grammar() -> clap::Command {
    let mut grammar = without_connection(without_empty(Line::command()));
    grammar.build();
    grammar
}

fn without_connection(command: clap::Command) -> clap::Command {
    let connect = connect_options();
    command
        .mut_args(|arg| {
            let is_of_shell = connect.contains(arg.get_id());
            arg.hide(is_of_shell)
        })
        .mut_subcommands(without_connection)
}

fn connect_options() -> Vec<clap::Id> {
    let args = ConnectArgs::augment_args(clap::Command::new("connect"));
    args.get_arguments().map(|arg| arg.get_id().clone()).collect()
}

/// The option of a line, if any, that would require a connection of its own.
fn own_connection(line: &clap::ArgMatches) -> Option<String> {
    let typed = |id: &&clap::Id| {
        // Not every command has this option.
        matches!(line.try_contains_id(id.as_str()), Ok(true))
            && line.value_source(id.as_str()) == Some(ValueSource::CommandLine)
    };
    let here = connect_options().iter().find(typed).map(|id| id.as_str().replace('_', "-"));
    here.or_else(|| own_connection(line.subcommand()?.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_consistent() {
        Line::command().debug_assert();
        grammar().debug_assert();
    }

    #[test]
    fn a_shell_line_may_not_have_connection_options() {
        let option = |line: &str| {
            let words = shlex::split(line).expect("words");
            own_connection(&grammar().try_get_matches_from(words).expect("a command"))
        };
        assert_eq!(option("kv put k v --address 127.0.0.1:1").as_deref(), Some("address"));
        assert_eq!(option("kv lease grant 1s --tls-name app").as_deref(), Some("tls-name"));
        assert_eq!(option("kv put k v --ttl 1s"), None);
        assert_eq!(option("kv exit"), None);
    }
}
