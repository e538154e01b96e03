//! The end of a shim: its container has ended, and clients still take the output.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::client::{Client, LOOK_AGAIN};

/// Sends what waits for the clients, all of which are closing. Returns when each has taken it, is gone, or is late (the
/// foreground client and those of execs never are), or upon SIGTERM.
pub(super) fn linger(mut clients: BTreeMap<u64, Client>, signals: &SignalFd) -> io::Result<()> {
    loop {
        let now = Instant::now();
        clients.retain(|_, client| client.flush().is_ok() && !client.is_done(now));
        if clients.is_empty() {
            return Ok(());
        }
        let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(clients.values().map(|client| PollFd::new(client.interest(false).0, PollFlags::POLLOUT)));
        let timeout = if clients.values().any(Client::has_deadline) {
            PollTimeout::try_from(LOOK_AGAIN).expect("it is short")
        } else {
            PollTimeout::NONE
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(signal) = signals.read_signal()? {
            if signal.ssi_signo == libc::SIGTERM as u32 {
                return Ok(());
            }
        }
    }
}
