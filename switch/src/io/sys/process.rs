//! Forking, and what a forked process does to itself before it runs another program.
#![expect(unsafe_code, reason = "fork, signal dispositions and descriptor passing")]

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::signal::SigSet;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg};
use nix::unistd::{ForkResult, Pid};

/// Where [`only_these`] puts its last descriptor.
const CHANNEL_FD: RawFd = 3;

/// Forks. `None` in the child.
///
/// Fails when this process has more than one thread: the child of such a fork may find locks held for ever.
pub fn fork() -> io::Result<Option<Pid>> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("fork needs a process with one thread"));
    }
    // SAFETY: there is one thread, so no lock is held by another one and the child may run any code.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => Ok(None),
    }
}

/// Ends the process at once: no destructor, no flush.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Makes `stdio` the descriptors 0 to 2, keeps `channel` (close-on-exec) and closes every other one.
///
/// For a freshly forked process that afterwards only execs or exits: other owners of descriptors are left with
/// closed ones.
pub fn only_these(stdio: [OwnedFd; 3], channel: OwnedFd) -> io::Result<OwnedFd> {
    // Above the numbers of the results, so that no dup3 overwrites one that is still to be read; the lowest such
    // numbers, which a low limit on descriptors still allows.
    let high = [&stdio[0], &stdio[1], &stdio[2], &channel].map(|fd| {
        // SAFETY: duplicates an open descriptor to a number that is free.
        unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, CHANNEL_FD + 1) }
    });
    for (low, fd) in high.into_iter().enumerate() {
        let flags = if low as RawFd == CHANNEL_FD { libc::O_CLOEXEC } else { 0 };
        // SAFETY: what was open under the low number is replaced, as the contract of this function says.
        if fd < 0 || unsafe { dup_to(fd, low as RawFd, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    std::mem::forget((stdio, channel));
    // SAFETY: closes descriptors that nobody uses any more, as the contract of this function says.
    unsafe { close_from(CHANNEL_FD + 1) }?;
    // SAFETY: made above, and the only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(CHANNEL_FD) })
}

/// Closes every descriptor but the standard ones.
///
/// For a freshly forked process that afterwards only exits: other owners of descriptors are left with closed ones.
pub fn close_all_but_stdio() -> io::Result<()> {
    // SAFETY: closes descriptors that nobody uses any more, as the contract of this function says.
    unsafe { close_from(libc::STDERR_FILENO + 1) }
}

unsafe fn dup_to(from: RawFd, to: RawFd, flags: libc::c_int) -> libc::c_int {
    // SAFETY: the caller says that `to` may be replaced.
    unsafe { libc::dup3(from, to, flags) }
}

unsafe fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller says that these may be closed.
    if unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, 0) } == 0 {
        return Ok(());
    }
    // Before Linux 5.9. The listing's own descriptor is among the numbers and closed by then.
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd >= first)
        .collect();
    for fd in open {
        // SAFETY: the caller says that these may be closed; closing a closed one is an ignored error.
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Every signal at its default disposition and none blocked, as a new program expects it.
pub fn reset_signals() {
    // The kernel's `struct sigaction` on every architecture: SIG_DFL, no flags, an empty mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // Not through libc, which keeps two signals for itself and refuses to reset them.
        // SAFETY: reads `default`, writes nothing, installs no handler. KILL and STOP are refused, which is an
        // ignored error.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8);
        }
    }
    // Fails only for an invalid `how`.
    let _ = SigSet::all().thread_unblock();
}

/// Sends one datagram with at most one descriptor.
pub fn send_message(socket: impl AsFd, message: &[u8], fd: Option<&OwnedFd>) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let data = [io::IoSlice::new(message)];
    sendmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &data, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one datagram into `buffer`: its length, 0 at the end, and the descriptor that came with it.
pub fn receive_message(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; 1]);
    let mut data = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket.as_fd().as_raw_fd(), &mut data, Some(&mut control), flags)?;
    let mut received = None;
    for rights in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = rights {
            for fd in fds {
                // SAFETY: the kernel just installed this descriptor for us; each is taken once.
                received = Some(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    Ok((message.bytes, received))
}

/// Sets the loopback interface of this process's network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all zeros is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Opens a pidfd (pidfd_open(2)), close-on-exec.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes its arguments by value.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us, and a descriptor fits its type.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends a signal by number, the real-time ones too.
pub fn send_signal(pid: Pid, signal: i32) -> io::Result<()> {
    // SAFETY: takes its arguments by value.
    if unsafe { libc::kill(pid.as_raw(), signal) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
