//! Help and usage errors. A usage error is one line, as every other error.

use clap::error::ErrorKind;

use crate::failure::{USAGE, complain};

/// Prints what clap has to say and gives the exit code.
pub fn report(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that closes the pipe has read enough.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            USAGE
        }
        _ => {
            complain(one_line(&error.render().to_string()));
            USAGE
        }
    }
}

/// The first paragraph of clap's error, any tip, and where the help is.
fn one_line(rendered: &str) -> String {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<&str>>().join(" ");
    let mut paragraphs = rendered.split("\n\n");
    let mut line = joined(paragraphs.next().unwrap_or_default());
    line = line.strip_prefix("error: ").unwrap_or(&line).into();
    let mut command = "vswitchctl".to_string();
    for paragraph in paragraphs {
        let text = joined(paragraph);
        if let Some(usage) = text.strip_prefix("Usage: ") {
            let is_verb = |word: &&str| word.bytes().all(|b| b.is_ascii_lowercase());
            command = usage.split(' ').take_while(is_verb).collect::<Vec<&str>>().join(" ");
        } else if text.starts_with("tip: ") || text.starts_with("[possible values") {
            line = format!("{line}; {}", text.trim_start_matches("tip: "));
        }
    }
    format!("{line}; see '{command} --help'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    #[test]
    fn usage_errors_are_one_line() {
        for (line, message) in [
            (
                "vswitchctl network create",
                "the following required arguments were not provided: <NAME>; see 'vswitchctl network create --help'",
            ),
            (
                "vswitchctl network ls --format {{.Name",
                "invalid value '{{.Name' for '--format <FORMAT>': template, character 1: '{{' without '}}'; \
                 see 'vswitchctl --help'",
            ),
            (
                "vswitchctl ps --al",
                "unexpected argument '--al' found; a similar argument exists: '--all'; see 'vswitchctl ps --help'",
            ),
            (
                "vswitchctl -H tcp://h:1 ps",
                "invalid value 'tcp://h:1' for '--host <unix://PATH>': only unix:///PATH is served; \
                 see 'vswitchctl --help'",
            ),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(one_line(&error.render().to_string()), message, "{line}");
        }
    }
}
