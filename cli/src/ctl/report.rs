//! What a command has to say, as text and as JSON.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use crate::failure::Failure;

/// The outcome of a command.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) text: String,
    pub(super) json: Value,
    /// Standard output has something else.
    aside: bool,
}

impl Report {
    /// `text` ends with a line break.
    pub(super) fn new(text: String, json: Value) -> Self {
        Self { text, json, aside: false }
    }

    /// The same for standard error, because standard output has what the command made.
    pub(super) fn aside(self) -> Self {
        Self { aside: true, ..self }
    }

    /// Prints it to standard output, or beside it.
    pub(super) fn print(&self, json: bool) -> Result<(), Failure> {
        let text = if json { format!("{:#}\n", self.json) } else { self.text.clone() };
        let printed = match self.aside {
            true => io::stderr().write_all(text.as_bytes()),
            false => io::stdout().write_all(text.as_bytes()),
        };
        match printed {
            // Who stops reading has read enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => Ok(written?),
        }
    }
}

/// Lays out rows under a heading; columns whose heading begins with `>` are numbers. Nothing but
/// the heading when there are no rows.
pub(super) fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(heading.iter().map(|h| h.trim_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (column, heading) in table.column_iter_mut().zip(heading) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n") + "\n"
}

/// `1 peer`, `2 peers`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// `what of whole` in percent; 0 of nothing.
#[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
pub(super) fn percent(what: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { what as f64 / whole as f64 * 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [["a", "10", ""], ["long name", "5", "x"]];
        let rows = rows.map(|row| row.map(str::to_owned).to_vec());
        expect![[r#"
            NAME       SIZE  NOTE
            a            10
            long name     5  x
        "#]]
        .assert_eq(&table(&["NAME", ">SIZE", "NOTE"], rows));
    }

    #[test]
    fn nothing_is_no_share() {
        assert_eq!((percent(1, 4), percent(0, 0)), (25.0, 0.0));
    }
}
