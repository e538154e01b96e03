//! vswitchd: arguments to [`Config`] to [`daemon::run`].

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use vswitch::config::{Arguments, Config, RecoverArguments};
use vswitch::{container, daemon};

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    match words.next().as_deref().and_then(|word| word.to_str()) {
        // A container's shim is this same executable; it never reads the daemon's configuration.
        Some("shim") => match words.next() {
            Some(dir) => {
                let limit = words.next().and_then(|word| word.to_str()?.parse().ok());
                container::shim::main(Path::new(&dir), limit)
            }
            None => fail("shim: the container's directory is missing"),
        },
        Some("man") => print_manual(),
        Some("recover") => recover(words),
        _ => run(),
    }
}

fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return usage(&error.to_string()),
        Err(help) => help.exit(),
    };
    match load(arguments).and_then(daemon::run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// `vswitchd recover`, which vswitchctl runs, too.
fn recover(words: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match RecoverArguments::try_parse_from(std::iter::once("recover".into()).chain(words)) {
        Ok(arguments) => arguments,
        Err(error) if error.use_stderr() => return usage(&error.to_string()),
        Err(help) => help.exit(),
    };
    if !arguments.force_new_cluster {
        return usage(
            "recover gives up the other nodes, and what only they know: say so with --force-new-cluster",
        );
    }
    match load(arguments.daemon).and_then(|config| daemon::recover_cluster(&config)) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn load(arguments: Arguments) -> anyhow::Result<Config> {
    let host_name = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let config = Config::load(arguments, &host_name.unwrap_or_else(|_| "localhost".into()), processors);
    Ok(config?)
}

/// For the installation: the page of section 8, to standard output.
fn print_manual() -> ExitCode {
    let page = clap_mangen::Man::new(Arguments::command()).section("8");
    match page.render(&mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot print the manual page: {error}")),
    }
}

/// The first paragraph of what clap has to say, as one line.
fn usage(error: &str) -> ExitCode {
    let paragraph = error.trim_start_matches("error: ").split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    eprintln!("vswitchd: {line}; see vswitchd --help");
    ExitCode::from(2)
}

fn fail(message: &str) -> ExitCode {
    eprintln!("vswitchd: {message}");
    ExitCode::FAILURE
}
