//! Output for people and programs: colours only on a terminal, tables, bytes as JSON.

use crate::encoding::printable;
use anstyle::{AnsiColor, Style};
use std::io::{self, Write as _};

/// Headings and names.
pub(crate) const STRONG: Style = Style::new().bold();
/// For less important text.
pub(crate) const FAINT: Style = Style::new().dimmed();
/// For a good result.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default().bold();
/// Worth a look.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// Wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();

/// `text` in `style`. The stream that prints it removes the style where it is not supported.
pub(crate) fn styled(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// Prints the reason of a failure on stderr.
pub(crate) fn print_error(message: impl std::fmt::Display) {
    // If stderr is closed, nobody can be notified.
    let message = printable(&message.to_string());
    let _ = writeln!(anstream::stderr().lock(), "{} {message}", styled(BAD, "kv:"));
}

/// Prints a line on stdout, with colours only where they are wanted.
///
/// # Errors
/// The system's error; `BrokenPipe` if nobody reads any more.
pub(crate) fn print(line: &str) -> io::Result<()> {
    let mut stdout = anstream::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// One cell of a table.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Style,
    right: bool,
}

impl Cell {
    /// Text, aligned to the left.
    pub(crate) fn text(text: impl std::fmt::Display) -> Self {
        Self { text: printable(&text.to_string()), style: Style::new(), right: false }
    }

    /// A number, aligned to the right.
    pub(crate) fn number(number: impl std::fmt::Display) -> Self {
        Self { text: number.to_string(), style: Style::new(), right: true }
    }

    /// The same cell in a style.
    pub(crate) fn with(mut self, style: Style) -> Self {
        self.style = style;
        self
    }
}

/// Aligns rows under a header; each column is as wide as its widest cell. The last cell of a row that is too short may
/// have any length.
pub(crate) fn table(header: &[&str], rows: &[Vec<Cell>]) -> String {
    let full = || rows.iter().filter(|row| row.len() == header.len());
    let mut widths = Vec::new();
    let mut titles = Vec::new();
    for (column, title) in header.iter().enumerate() {
        let short = rows.iter().filter(|row| row.len() < header.len() && row.len() > column + 1);
        let cells = full().chain(short).map(|row| row[column].text.chars().count());
        widths.push(cells.chain([title.chars().count()]).max().unwrap_or(0));
        let right = full().any(|row| row[column].right);
        titles.push(Cell { text: (*title).to_owned(), style: STRONG, right });
    }
    let mut out = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let last = row.len().saturating_sub(1);
        let cells = row.iter().zip(&widths).enumerate();
        let cells: Vec<String> =
            cells.map(|(column, (cell, &width))| pad(cell, width, column == last)).collect();
        out.push_str(&cells.join("  "));
        out.push('\n');
    }
    out
}

/// A styled cell with its padding outside the style. The last cell has no padding.
fn pad(cell: &Cell, width: usize, last: bool) -> String {
    let space = " ".repeat(width.saturating_sub(cell.text.chars().count()));
    let text = styled(cell.style, &cell.text);
    match (cell.right, last) {
        (true, _) => format!("{space}{text}"),
        (false, true) => text,
        (false, false) => format!("{text}{space}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up_text_left_and_numbers_right() {
        let rows = vec![
            vec![Cell::text("crash"), Cell::number(1200).with(GOOD)],
            vec![Cell::text("omission"), Cell::number(7)],
            vec![Cell::text("not run at all")],
        ];
        let plain = anstream::adapter::strip_str(&table(&["scenario", "writes"], &rows)).to_string();
        assert_eq!(plain, "scenario  writes\ncrash       1200\nomission       7\nnot run at all\n");
    }
}
