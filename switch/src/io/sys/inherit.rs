//! Sockets that whoever started this process has made for it (sd_listen_fds(3)).
#![expect(unsafe_code, reason = "a number from the environment becomes a descriptor")]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Once;

static TAKEN: Once = Once::new();

/// The unix sockets among them, the first time that this is called; nothing later on.
pub fn unix_listeners() -> io::Result<Vec<UnixListener>> {
    let mut fds: Vec<RawFd> = Vec::new();
    let mut found = Ok(());
    TAKEN.call_once(|| found = sd_notify::listen_fds().map(|passed| fds.extend(passed)));
    found?;
    // SAFETY: these numbers are this process's by the protocol, nothing else here refers to them, and the `Once` hands
    // them out once.
    let owned = fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let listeners = owned.map(UnixListener::from);
    Ok(listeners.filter(|listener| listener.local_addr().is_ok()).collect())
}
