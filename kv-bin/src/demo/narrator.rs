//! Prints what happens, one line per event.

use crate::output::{self, FAINT, STRONG, styled};
use anstyle::Style;
use std::io::Write as _;
use std::time::Instant;

/// Prints events on stdout, or on stderr if stdout is used for JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Narrator {
    start: Instant,
    to_stderr: bool,
}

impl Narrator {
    /// Starts now; times are relative to this.
    pub(crate) fn begin(title: &str, to_stderr: bool) -> Self {
        let narrator = Self { start: Instant::now(), to_stderr };
        narrator.line(&format!("\n{}", styled(STRONG, title)));
        narrator
    }

    /// Prints an event with the present time.
    pub(crate) fn print(&self, text: impl std::fmt::Display) {
        self.print_in(Style::new(), text);
    }

    /// The same, in a style.
    pub(crate) fn print_in(&self, style: Style, text: impl std::fmt::Display) {
        let time = format!("{:>8.3} s", self.start.elapsed().as_secs_f64());
        self.line(&format!("{}  {}", styled(FAINT, time), styled(style, text)));
    }

    /// A line without a time.
    pub(crate) fn line(&self, text: &str) {
        // If nobody reads the output, the scenario still runs to its end and cleans up.
        if self.to_stderr {
            let _ = writeln!(anstream::stderr().lock(), "{text}");
        } else {
            let _ = output::print(text);
        }
    }
}
