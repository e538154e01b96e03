//! Help and usage errors. A usage error is one line, as every other error.

use std::io;

use clap::CommandFactory;
use clap::error::ErrorKind;

use crate::args::Cli;
use crate::failure::{USAGE, complain};

/// Prints what clap has to say and gives the exit code.
pub fn report(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp => {
            // A reader that closes the pipe has read enough.
            let _ = print_help(std::env::args().skip(1));
            0
        }
        ErrorKind::DisplayVersion => {
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            USAGE
        }
        _ => {
            let command = command_of(std::env::args().skip(1));
            complain(one_line(&error.render().to_string(), &command));
            USAGE
        }
    }
}

/// Prints the help of the command that was typed, in which a boolean flag is shown without its optional value.
fn print_help(arguments: impl Iterator<Item = String>) -> io::Result<()> {
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for argument in arguments {
        if command.find_subcommand(&argument).is_some() && argument != "help" {
            command = command.find_subcommand_mut(&argument).expect("it was found");
        }
    }
    command.print_help()
}

/// The command that was typed, as far as it is one: `vswitchctl network ls`.
fn command_of(arguments: impl Iterator<Item = String>) -> String {
    let mut typed = String::from("vswitchctl");
    let mut command = Cli::command();
    for argument in arguments {
        let Some(below) = command.find_subcommand(&argument) else { continue };
        typed = format!("{typed} {}", below.get_name());
        command = below.clone();
    }
    typed
}

/// The first paragraph of clap's error, any tip, and where the help is. The tip to put an unknown flag behind `--` is
/// left out: it would make it a part of the container's command.
fn one_line(rendered: &str, command: &str) -> String {
    let joined = |paragraph: &str| paragraph.split_whitespace().collect::<Vec<&str>>().join(" ");
    let mut paragraphs = rendered.split("\n\n").map(joined);
    let first = paragraphs.next().unwrap_or_default();
    let mut line = String::from(first.strip_prefix("error: ").unwrap_or(&first));
    for tip in paragraphs.filter(|text| text.starts_with("tip: ") && !text.contains("'-- ")) {
        line = format!("{line}; {}", tip.trim_start_matches("tip: "));
    }
    format!("{line}; see '{command} --help'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args;
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
                 see 'vswitchctl network ls --help'",
            ),
            (
                "vswitchctl ps --al",
                "unexpected argument '--al' found; a similar argument exists: '--all'; see 'vswitchctl ps --help'",
            ),
            (
                "vswitchctl run --dms 1.1.1.1 sh",
                "unexpected argument '--dms' found; see 'vswitchctl run --help'",
            ),
            (
                "vswitchctl run --publish 80:80 sh",
                "--publish is not supported: published ports are not there yet; reach the container by its own \
                 address; see 'vswitchctl run --help'",
            ),
            (
                "vswitchctl -H tcp://h:1 ps",
                "invalid value 'tcp://h:1' for '--host <unix://PATH>': only unix:///PATH is served; \
                 see 'vswitchctl ps --help'",
            ),
        ] {
            let error = args::parse_from(line.split(' ')).unwrap_err();
            let command = command_of(line.split(' ').skip(1).map(String::from));
            assert_eq!(one_line(&error.render().to_string(), &command), message, "{line}");
        }
    }
}
