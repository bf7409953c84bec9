//! Tables in Markdown. Each row is printed as soon as it is measured, so that a run that is ended early is of use.

/// A table that is being printed.
#[derive(Debug)]
pub(crate) struct Table(());

impl Table {
    pub(crate) fn begin(title: &str, how: &str, header: &[&str]) -> Self {
        println!("### {title}\n\n{how}\n");
        println!("| {} |\n|{}", header.join(" | "), "---|".repeat(header.len()));
        Self(())
    }

    pub(crate) fn row(&mut self, cells: &[String]) {
        println!("| {} |", cells.join(" | "));
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        println!();
    }
}
