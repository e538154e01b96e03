//! A table, as Markdown and as HTML.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use super::html::escape;

/// The first column is text, the others are figures. Every row is as wide as the head.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(head: impl IntoIterator<Item = S>) -> Table {
        Table { head: head.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn push<S: Into<String>>(&mut self, row: impl IntoIterator<Item = S>) {
        let row: Vec<String> = row.into_iter().map(Into::into).collect();
        debug_assert_eq!(row.len(), self.head.len(), "a row is as wide as the head");
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub fn to_markdown(&self) -> String {
        let mut text = markdown_row(&self.head);
        let rule: Vec<String> =
            (0..self.head.len()).map(|column| if column == 0 { "---" } else { "---:" }.to_owned()).collect();
        text += &markdown_row(&rule);
        for row in &self.rows {
            text += &markdown_row(row);
        }
        text
    }

    /// Columns side by side, figures to the right.
    pub fn to_terminal(&self) -> String {
        let rows = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| rows().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                if column == 0 { format!("{cell:width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        rows().map(line).collect()
    }

    pub fn to_html(&self) -> String {
        let mut text = format!("<table>\n<tr>{}</tr>\n", html_cells("th", &self.head));
        for row in &self.rows {
            text += &format!("<tr>{}</tr>\n", html_cells("td", row));
        }
        text + "</table>\n"
    }
}

fn markdown_row(cells: &[String]) -> String {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
    format!("| {} |\n", cells.join(" | "))
}

fn html_cells(tag: &str, cells: &[String]) -> String {
    cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["peer", "µs"]);
        table.push(["bridge", "1.5"]);
        assert_eq!(table.to_terminal(), "peer     µs\nbridge  1.5\n");
    }

    #[test]
    fn both_forms() {
        let mut table = Table::new(["peer", "Gbit/s"]);
        assert!(table.is_empty());
        table.push(["a|b <c>", "1.5"]);
        assert_eq!(table.to_markdown(), "| peer | Gbit/s |\n| --- | ---: |\n| a\\|b <c> | 1.5 |\n");
        assert_eq!(
            table.to_html(),
            "<table>\n<tr><th>peer</th><th>Gbit/s</th></tr>\n<tr><td>a|b &lt;c&gt;</td><td>1.5</td></tr>\n</table>\n"
        );
    }
}
