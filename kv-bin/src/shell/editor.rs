//! Lines typed at a terminal: editing, completion, history.

use super::Lines;
use crate::failure::Failure;
use crate::folders;
use crate::output;
use rustyline::completion::{Completer, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Editor, Helper};
use std::collections::VecDeque;
use std::env;
use std::io::{self, Write as _};
use std::path::PathBuf;
#[cfg(unix)]
use std::time::Duration;

const PROMPT: &str = "kv> ";
/// How many lines the history keeps.
const REMEMBERED: usize = 1000;
/// Sent by the editor at the end of a line: terminals that support it stop to mark pasted text.
const UNMARK_PASTES: &str = "\x1b[?2004l";
/// How long the editor may take to begin a line. Usually it takes microseconds.
#[cfg(unix)]
const LONGEST_BEGINNING: Duration = Duration::from_secs(1);

/// Reads lines from the terminal, until Ctrl-D.
pub(super) fn start(grammar: clap::Command, with_history: bool) -> Result<Lines, Failure> {
    let broken = |error: ReadlineError| Failure::failed(format!("cannot use the terminal: {error}"));
    let config = Config::builder()
        .completion_type(CompletionType::List)
        .history_ignore_space(true)
        .max_history_size(REMEMBERED)
        .map_err(broken)?
        .build();
    let mut editor = Editor::<Words, DefaultHistory>::with_config(config).map_err(broken)?;
    editor.set_helper(Some(Words { grammar }));
    let mut history = history_file().filter(|_| with_history);
    if let Some(file) = &history {
        // The file does not exist before the first line.
        let _ = editor.load_history(file);
    }
    // Several lines, if they were pasted.
    let mut lines = VecDeque::new();
    Ok(Lines::new(move || {
        loop {
            if let Some(line) = lines.pop_front() {
                return Some(Ok(line));
            }
            match editor.readline(PROMPT) {
                Ok(text) => {
                    remember(&mut editor, &text, &mut history);
                    lines.extend(text.lines().map(str::to_owned));
                }
                // The unfinished line is dropped.
                Err(ReadlineError::Interrupted | ReadlineError::Signal(_)) => {}
                Err(ReadlineError::Eof) => return None,
                Err(error) => return Some(Err(broken(error))),
            }
        }
    }))
}

/// Saved at once, so that it is kept whatever happens to this process. A failure to write the file is reported once.
fn remember(editor: &mut Editor<Words, DefaultHistory>, line: &str, history: &mut Option<PathBuf>) {
    let Ok(true) = editor.add_history_entry(line) else { return };
    let Some(file) = history else { return };
    let folder = file.parent().map_or(Ok(()), folders::create_private);
    if let Err(error) = folder.map_err(ReadlineError::from).and_then(|()| editor.append_history(file)) {
        output::print_error(format!("cannot keep the history in {}: {error}", file.display()));
        *history = None;
    }
}

/// The history file. The editor creates it with mode 0600.
fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = folder("XDG_STATE_HOME")
        .or_else(|| Some(folder("HOME")?.join(".local/state")))
        .or_else(|| folder("LOCALAPPDATA"))?;
    Some(state.join("kv").join("history"))
}

/// Completes names of commands and options.
struct Words {
    grammar: clap::Command,
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        pos: usize,
        _: &rustyline::Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = candidates(&self.grammar, &line[..pos]);
        let pair = |word: String| Pair { replacement: format!("{word} "), display: word };
        Ok((start, words.into_iter().map(pair).collect()))
    }
}

impl Hinter for Words {
    type Hint = String;
}
impl Highlighter for Words {}
impl Validator for Words {}
impl Helper for Words {}

/// The completions of the last word of `typed`, and where that word begins.
fn candidates(grammar: &clap::Command, typed: &str) -> (usize, Vec<String>) {
    let start = typed.rfind(char::is_whitespace).map_or(0, |space| space + 1);
    let (before, word) = typed.split_at(start);
    let mut command = grammar;
    for name in before.split_whitespace() {
        command = command.find_subcommand(name).unwrap_or(command);
    }
    let all: Vec<String> = if word.starts_with('-') {
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
    } else {
        command.get_subcommands().map(|command| command.get_name().to_owned()).collect()
    };
    (start, all.into_iter().filter(|candidate| candidate.starts_with(word)).collect())
}

/// The modes of the terminal before lines were edited on it.
#[derive(Debug, Default)]
pub(super) struct Terminal {
    #[cfg(unix)]
    modes: Option<rustix::termios::Termios>,
}

impl Terminal {
    pub(super) fn remember() -> Self {
        Self {
            #[cfg(unix)]
            modes: rustix::termios::tcgetattr(io::stdin()).ok(),
        }
    }

    /// Takes the terminal back from the editor, which may have asked for a line just now, or long ago.
    pub(super) async fn take_back(&self) {
        #[cfg(unix)]
        for _ in 0..LONGEST_BEGINNING.as_millis() {
            use rustix::termios::{LocalModes, tcgetattr};
            let modes = tcgetattr(io::stdin());
            // A mode that is restored before the editor begins would not last.
            if modes.map_or(true, |modes| !modes.local_modes.contains(LocalModes::ICANON)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let is_simple = matches!(env::var("TERM").as_deref(), Ok("dumb" | "cons25" | "emacs"));
        // A closed terminal needs nothing.
        let _ = writeln!(io::stdout(), "{}", if is_simple { "" } else { UNMARK_PASTES });
    }

    /// Restores the modes: the editor may have been stopped in the middle of a line.
    pub(super) fn restore(self) {
        #[cfg(unix)]
        if let Some(modes) = self.modes {
            use rustix::termios::{OptionalActions, tcsetattr};
            // A closed terminal needs nothing.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &modes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_options_are_completed() {
        let grammar = super::super::grammar();
        let of = |typed: &str| candidates(&grammar, typed);
        assert_eq!(of("ge"), (0, vec!["get".to_owned()]));
        assert_eq!(of("lease k"), (6, vec!["keep-alive".to_owned()]));
        assert_eq!(of("put key value --if-a"), (14, vec!["--if-absent".to_owned()]));
        assert!(of("get --j").1.contains(&"--json".to_owned()));
        assert!(of("").1.contains(&"exit".to_owned()));
        assert_eq!(of("put --addr").1, Vec::<String>::new(), "the connection is the shell's");
        assert_eq!(of("put ke").1, Vec::<String>::new(), "keys are not looked up");
    }
}
