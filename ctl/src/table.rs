//! Tables with docker's layout, which is that of Go's text/tabwriter with a smallest width of 10 and a padding of
//! 3: every cell but the last of a row is padded with spaces to the widest of its column.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

const WIDTH_MIN: usize = 10;
const PADDING: usize = 3;

/// Lays out rows of cells; the first row has the headings. Every row ends with a newline.
pub fn layout(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            // The last cell of a row does not widen its column.
            let padded = rows.iter().filter(|row| column + 1 < row.len());
            let widest = padded.map(|row| row[column].chars().count()).max().unwrap_or(0);
            (widest + PADDING).max(WIDTH_MIN)
        })
        .collect();
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            out.push_str(cell);
            if column + 1 < row.len() {
                let gap = widths[column] - cell.chars().count();
                out.extend(std::iter::repeat_n(' ', gap));
            }
        }
        out.push('\n');
    }
    out
}

/// Cut to `width` characters, the last one being an ellipsis when something was cut.
pub fn ellipsis(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// The first 12 digits of an id.
pub fn short_id(id: &str) -> String {
    id.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| (*cell).into()).collect()).collect()
    }

    #[test]
    fn the_layout_is_dockers_to_the_byte() {
        let table = layout(&rows(&[
            &["NETWORK ID", "NAME", "DRIVER", "SCOPE"],
            &["7fca4eb8c647", "bridge", "bridge", "local"],
            &["9f904ee27bf5", "none", "null", "local"],
        ]));
        assert_eq!(
            table,
            "NETWORK ID     NAME      DRIVER    SCOPE\n\
             7fca4eb8c647   bridge    bridge    local\n\
             9f904ee27bf5   none      null      local\n"
        );
    }

    #[test]
    fn columns_widen_and_count_characters() {
        let table = layout(&rows(&[&["A", "B"], &["a-long-name", "ééé"], &["…", ""]]));
        assert_eq!(table, "A             B\na-long-name   ééé\n…             \n");
        assert_eq!(layout(&[]), "");
        assert_eq!(layout(&rows(&[&["ONLY"], &["a-very-long-cell"]])), "ONLY\na-very-long-cell\n");
    }

    #[test]
    fn commands_are_cut_at_twenty() {
        assert_eq!(ellipsis("12345678901234567890", 20), "12345678901234567890");
        assert_eq!(ellipsis("/docker-entrypoint.sh nginx", 20), "/docker-entrypoint.…");
        assert_eq!(ellipsis("abc", 0), "…");
        assert_eq!(short_id(&"ab".repeat(32)), "abababababab");
        assert_eq!(short_id("ab"), "ab");
    }
}
