//! How a command ends when it does not end well, and the exit codes of the command line.

use std::fmt::Display;
use std::io::{self, Write};

use crate::template::TemplateError;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const CONFLICT: u8 = 4;
pub const NO_QUORUM: u8 = 5;
pub const UNREACHABLE: u8 = 6;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{message}")]
    Told { code: u8, message: String },
    /// Nobody reads the output any more, as with `| head`: nothing is left to do or to say.
    #[error("standard output is closed")]
    OutputClosed,
}

impl Failure {
    pub fn new(code: u8, message: impl Display) -> Failure {
        Failure::Told { code, message: message.to_string() }
    }

    pub fn usage(message: impl Display) -> Failure {
        Failure::new(USAGE, message)
    }

    pub fn code(&self) -> u8 {
        match self {
            Failure::Told { code, .. } => *code,
            Failure::OutputClosed => 0,
        }
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == NOT_FOUND
    }
}

impl From<vswitch_proto::api::Error> for Failure {
    fn from(error: vswitch_proto::api::Error) -> Failure {
        Failure::Told { code: error.exit_code.unwrap_or(error.kind.exit_code()), message: error.message }
    }
}

impl From<TemplateError> for Failure {
    fn from(error: TemplateError) -> Failure {
        Failure::usage(format_args!("--format: {error}"))
    }
}

/// Data for standard output.
///
/// # Errors
/// When it does not take them; [`Failure::OutputClosed`] when its reader is gone.
pub fn print(data: impl AsRef<[u8]>) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(data.as_ref()).and_then(|()| out.flush()).map_err(output_failure)
}

pub fn output_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => Failure::new(FAILED, format_args!("cannot write to standard output: {error}")),
    }
}

/// One line for the person. It cannot move the cursor or colour the terminal, wherever its words came from.
pub fn complain(message: impl Display) {
    let line: String =
        message.to_string().trim_end().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    // Without a standard error nobody can be told that there is none.
    let _ = writeln!(io::stderr(), "vswitchctl: {line}");
}

/// Does something with each of several things, tells what went wrong with which, goes on, and gives the first exit
/// code that is not 0.
#[derive(Debug, Default)]
pub struct Outcomes {
    code: u8,
}

impl Outcomes {
    /// # Errors
    /// When going on is pointless: the output is closed or the daemon unreachable.
    pub fn note(&mut self, result: Result<(), Failure>) -> Result<(), Failure> {
        match result {
            Ok(()) => Ok(()),
            Err(failure) if matches!(failure.code(), 0 | UNREACHABLE) => Err(failure),
            Err(failure) => {
                complain(&failure);
                if self.code == 0 {
                    self.code = failure.code();
                }
                Ok(())
            }
        }
    }

    pub fn code(&self) -> u8 {
        self.code
    }
}
