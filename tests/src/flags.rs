//! The flags of docker's command line: as docker's help lists them, and as `docs/docker-cli.md` says what became of each.

use std::collections::BTreeMap;

/// A row of the table in the documentation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub short: Option<String>,
    /// `same`, `different` or `refused`.
    pub here: String,
    /// How, or why not.
    pub text: String,
}

/// The rows of each command by the long names of their flags, as `--name`. The commands are those of docker, as
/// `network create`.
///
/// # Panics
/// When the page is not what it says.
pub fn documented(page: &str) -> BTreeMap<String, BTreeMap<String, Row>> {
    let mut commands: BTreeMap<String, BTreeMap<String, Row>> = BTreeMap::new();
    let mut command = String::new();
    for line in page.lines() {
        if let Some(title) = line.strip_prefix("## docker ") {
            command = title.into();
        }
        let Some(cells) = line.strip_prefix("| `-").and_then(|cells| cells.strip_suffix('|')) else {
            continue;
        };
        let cells: Vec<&str> = cells.split(" | ").collect();
        let [flags, here, text] = cells[..] else { panic!("{line:?} has not three cells") };
        let flags = format!("-{}", flags.replace('`', ""));
        let (short, long) = match flags.split_once(", ") {
            Some((short, long)) => (Some(short.into()), long.to_owned()),
            None => (None, flags),
        };
        assert!(matches!(here, "same" | "different" | "refused"), "{line:?}");
        assert!(here == "same" || !text.trim().is_empty(), "{line:?} does not say how, or why not");
        let row = Row { short, here: here.into(), text: text.trim().into() };
        let twice = commands.entry(command.clone()).or_default().insert(long.clone(), row);
        assert!(twice.is_none(), "{command} {long} has two rows");
    }
    commands
}

/// The flags that docker's `--help` lists, long and short.
pub fn helped(help: &str) -> Vec<(String, Option<String>)> {
    let flag = |line: &str| {
        let words: Vec<&str> = line.trim_start().split([' ', '=']).collect();
        match words[..] {
            [short, long, ..]
                if short.len() == 3 && short.ends_with(',') && long.len() > 2 && long.starts_with("--") =>
            {
                Some((long.to_owned(), Some(short.trim_end_matches(',').to_owned())))
            }
            [long, ..] if long.len() > 2 && long.starts_with("--") => Some((long.to_owned(), None)),
            _ => None,
        }
    };
    help.lines().filter_map(flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_and_page_are_read() {
        let help = "Options:\n  -f, --filter filter   Provide --nothing\n      --no-trunc        Do not\n   -- no flag\n";
        let filter = ("--filter".to_owned(), Some("-f".to_owned()));
        assert_eq!(helped(help), [filter, ("--no-trunc".to_owned(), None)]);
        let page = "## docker network ls\n\n| flag | here | how |\n| --- | --- | --- |\n| `-f`, `--filter` | same |  |\n\
                    | `--size` | refused | there is none |\n";
        let rows = &documented(page)["network ls"];
        assert_eq!(
            rows["--filter"],
            Row { short: Some("-f".into()), here: "same".into(), text: String::new() }
        );
        assert_eq!(rows["--size"].text, "there is none");
    }
}
