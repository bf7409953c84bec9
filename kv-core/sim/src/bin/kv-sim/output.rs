//! Output for people and programs: colours only on a terminal.

use anstyle::{AnsiColor, Style};
use std::fmt::Display;
use std::io::{self, Write as _};

/// Headings.
pub(crate) const STRONG: Style = Style::new().bold();
/// For less important text.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// For a good result.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`. The stream that prints it removes the style where it is not supported.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints the reason of a failure on stderr.
pub(crate) fn print_error(message: impl Display) {
    // If stderr is closed, nobody can be notified.
    let _ = writeln!(anstream::stderr().lock(), "{} {message}", styled(BAD, "kv-sim:"));
}

/// Prints a line on stdout. It is no failure if the reader is gone.
///
/// # Errors
/// If the line cannot be written.
pub(crate) fn print_line(line: &str) -> Result<(), String> {
    let mut stdout = anstream::stdout().lock();
    match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write the result: {error}"))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
