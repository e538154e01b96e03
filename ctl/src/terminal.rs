//! This process's own terminal.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use vswitch_proto::api::stream::Frame;

use crate::failure::{FAILED, Failure};

/// Raw mode while it lives: bytes pass as they are typed and printed. Dropping it restores the terminal, on every
/// way out, panics included; signals that would end the process are caught by the session that holds it.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// # Errors
    /// When standard input is no terminal or refuses.
    pub fn enter() -> Result<RawMode, Failure> {
        let cannot =
            |e: nix::Error| Failure::new(FAILED, format_args!("cannot set the terminal to raw mode: {e}"));
        let stdin = io::stdin();
        let before = tcgetattr(&stdin).map_err(cannot)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw).map_err(cannot)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// docker's check: a terminal inside needs one outside to take its input from.
///
/// # Errors
/// When standard input is to be a terminal and is none.
pub fn check_tty(stdin: bool, tty: bool) -> Result<(), Failure> {
    if stdin && tty && !io::stdin().is_terminal() {
        return Err(Failure::new(FAILED, "the input device is not a TTY"));
    }
    Ok(())
}

/// The terminal's size in characters, where there is one.
pub fn size() -> Option<(u16, u16)> {
    let of = |fd: std::os::fd::BorrowedFd<'_>| terminal_size::terminal_size_of(fd);
    let (columns, rows) = of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd()))?;
    Some((rows.0, columns.0))
}

/// Frames that give a terminal inside the size of this one. Two with different sizes make the program inside draw
/// its screen again, which a second attach needs to show a prompt.
pub fn resize_frames(redraw: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some((rows, columns)) = size() {
        if redraw {
            Frame::Resize { rows: rows.saturating_add(1), columns }.encode(&mut bytes);
        }
        Frame::Resize { rows, columns }.encode(&mut bytes);
    }
    bytes
}
