//! What people and programs see: colours on a terminal only.

use anstyle::{AnsiColor, Style};
use std::fmt::Display;
use std::io::{self, Write as _};

/// Headings.
pub(crate) const STRONG: Style = Style::new().bold();
/// What is there for completeness.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// As it should be.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`; the stream that prints it strips the style where it does not belong.
pub(crate) fn styled(style: Style, text: impl Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints the reason of a failure on stderr.
pub(crate) fn print_error(message: impl Display) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(anstream::stderr().lock(), "{} {message}", styled(BAD, "kv-sim:"));
}

/// Prints a line on stdout. A reader that has gone away is no failure.
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
