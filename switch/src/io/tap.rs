//! TAP devices: the interface of a container, and the descriptor through which the switch is at its other end.
//!
//! Every frame has the 12-byte virtio-net header before it, in both directions, and with the offloads granted a
//! frame of up to 64 KiB with an unfinished checksum passes as one read and one write. What is granted belongs to
//! the device, not to the descriptor, and outlives it: it is set anew at each attachment.
//!
//! # Lifetime
//! A persistent device outlives the switch, and is attached to again by its name.
//!
//! A descriptor of `/dev/net/tun` keeps the namespace alive in which it was opened, which is the only one whose
//! devices it can reach. So a container's namespace does not end before its TAPs are closed, and says nothing when
//! the last process has left it: whoever owns the TAP watches the process or the path that the namespace belongs to.
//! (Made outside and moved in, a device would not hold the namespace. But a move makes the kernel wait for all its
//! processors several times, 20 ms against 0.2 ms, and finding the device again would hold the namespace all the
//! same.) A device that is removed from inside is reported at once: its descriptor answers EBADFD, and EPOLLERR
//! when polled.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::thread;
use std::time::{Duration, Instant};

use vswitch_proto::wire::vnet_hdr;

use nix::net::if_::if_nametoindex;

use super::netns::{NetNs, NetNsId};
use super::sys::tun;

const DEVICE: &str = "/dev/net/tun";

/// Checks that the device that makes interfaces is there and may be used. Makes none.
pub fn check_device() -> io::Result<()> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map(drop)
}

/// Between two attempts.
const RELEASE_PAUSE: Duration = Duration::from_millis(2);

const FLAGS: libc::c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TapConfig {
    /// The device outlives the descriptor.
    pub persistent: bool,
    /// A device of this name that is there already is somebody else's.
    pub must_be_new: bool,
    pub offloads: Offloads,
    /// How long to wait for a device that is in use.
    pub patience: Duration,
}

impl TapConfig {
    /// For how long a device may be in use by a process that has just ended. A process that read it with io_uring gives it
    /// up some grace periods of the kernel after its end, 30 to 60 ms where this was measured, and nobody promises how
    /// many.
    pub const PATIENCE: Duration = Duration::from_secs(3);
}

impl Default for TapConfig {
    fn default() -> TapConfig {
        TapConfig {
            persistent: false,
            must_be_new: false,
            offloads: Offloads::default(),
            patience: TapConfig::PATIENCE,
        }
    }
}

/// Which offloads not to ask for; by default all that the kernel knows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offloads {
    /// No partial checksums, and so no segmentation either.
    pub no_csum: bool,
    pub no_tso: bool,
    pub no_uso: bool,
}

/// The `TUN_F_*` bits that a device has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Granted(libc::c_uint);

/// An attached TAP. Dropped, it is closed; the device goes unless it is persistent.
#[derive(Debug)]
pub struct Tap {
    file: File,
    granted: Granted,
}

#[derive(Debug, thiserror::Error)]
pub enum TapError {
    #[error("{0:?} cannot name an interface: 1 to 15 printable characters without '/', ':' and '%'")]
    Name(String),
    #[error("{DEVICE} cannot be opened: {0}; load the module tun, or make the device accessible")]
    Device(io::Error),
    #[error("this kernel's TAP devices lack virtio-net headers; a newer kernel is needed")]
    Unsupported,
    #[error("the interface {0} exists and is not a TAP of vswitch; remove or rename it")]
    NotOurs(String),
    #[error("there is an interface {0} in the network namespace already; remove or rename it")]
    Taken(String),
    #[error("the TAP {0} is in use by another process; stop that one first")]
    InUse(String),
    #[error("the interface {name} cannot be made: {source}")]
    Create { name: String, source: io::Error },
    #[error("the interface {name} cannot be set up: {source}")]
    Setup { name: String, source: io::Error },
    #[error("the network namespace cannot be entered: {0}")]
    Namespace(io::Error),
}

impl Tap {
    /// Attaches to the device of this name in `ns`, which is created when there is none.
    pub fn open(ns: &NetNs, name: &str, config: TapConfig) -> Result<Tap, TapError> {
        let wire_name = wire_name(name)?;
        let made = ns.run(|| {
            if config.must_be_new && if_nametoindex(name).is_ok() {
                return Err(TapError::Taken(name.into()));
            }
            attach(&wire_name, config.patience).map_err(|e| e.named(name))
        });
        let file = made.map_err(TapError::Namespace)??;
        let setup = |source| TapError::Setup { name: name.into(), source };
        let header_bytes = vnet_hdr::HEADER_BYTES as libc::c_int;
        tun::set_vnet_hdr_bytes(file.as_fd(), header_bytes).map_err(setup)?;
        let granted = grant(file.as_fd(), config.offloads).map_err(setup)?;
        tun::set_persist(file.as_fd(), config.persistent).map_err(setup)?;
        Ok(Tap { file, granted })
    }

    /// One frame with its virtio-net header; `WouldBlock` when there is none. A frame longer than `buffer` is cut.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// One frame with its virtio-net header.
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        (&self.file).write(frame)
    }

    /// One frame with its virtio-net header, gathered from pieces.
    pub fn write_gathered(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(pieces)
    }

    pub fn granted(&self) -> Granted {
        self.granted
    }

    pub fn set_persistent(&self, persistent: bool) -> io::Result<()> {
        tun::set_persist(self.file.as_fd(), persistent)
    }

    /// The namespace that the device is in: not the one that it was made in, after it was moved. Since Linux 5.2.
    pub fn namespace(&self) -> io::Result<NetNsId> {
        let metadata = File::from(tun::device_namespace(self.file.as_fd())?).metadata()?;
        Ok(NetNsId { device: metadata.dev(), inode: metadata.ino() })
    }

    /// Closes the descriptor and removes the device with it. A device whose namespace has ended is gone already.
    pub fn delete(self) -> io::Result<()> {
        match self.set_persistent(false) {
            Err(e) if e.raw_os_error() == Some(libc::EBADFD) => Ok(()),
            done => done,
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Granted {
    pub fn csum(self) -> bool {
        self.has(libc::TUN_F_CSUM)
    }

    pub fn tso4(self) -> bool {
        self.has(libc::TUN_F_TSO4)
    }

    pub fn tso6(self) -> bool {
        self.has(libc::TUN_F_TSO6)
    }

    pub fn tso_ecn(self) -> bool {
        self.has(libc::TUN_F_TSO_ECN)
    }

    pub fn uso(self) -> bool {
        self.has(libc::TUN_F_USO4 | libc::TUN_F_USO6)
    }

    fn has(self, bits: libc::c_uint) -> bool {
        self.0 & bits == bits
    }
}

impl std::fmt::Display for Granted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = [
            (self.csum(), "csum"),
            (self.tso4(), "tso4"),
            (self.tso6(), "tso6"),
            (self.tso_ecn(), "tso_ecn"),
            (self.uso(), "uso"),
        ];
        let names: Vec<&str> = names.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join(" "))
    }
}

/// What TUNSETIFF and the way to it can answer, before the caller puts the interface's name to it.
enum AttachError {
    Device(io::Error),
    Unsupported,
    Iff(io::Error),
}

impl AttachError {
    fn named(self, name: &str) -> TapError {
        match self {
            AttachError::Device(e) => TapError::Device(e),
            AttachError::Unsupported => TapError::Unsupported,
            AttachError::Iff(e) => match e.raw_os_error() {
                Some(libc::EINVAL) => TapError::NotOurs(name.into()),
                Some(libc::EBUSY) => TapError::InUse(name.into()),
                _ => TapError::Create { name: name.into(), source: e },
            },
        }
    }
}

/// In the namespace of the calling thread.
fn attach(name: &[u8; tun::NAME_BYTES], patience: Duration) -> Result<File, AttachError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(DEVICE)
        .map_err(AttachError::Device)?;
    let known = tun::features(file.as_fd()).map_err(AttachError::Device)?;
    if known as libc::c_int & FLAGS != FLAGS {
        return Err(AttachError::Unsupported);
    }
    set_iff_when_released(file.as_fd(), name, patience).map_err(AttachError::Iff)?;
    Ok(file)
}

/// Whoever crashed and was started again finds its devices as soon as the kernel has let them go.
fn set_iff_when_released(
    fd: BorrowedFd<'_>,
    name: &[u8; tun::NAME_BYTES],
    patience: Duration,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match tun::set_iff(fd, name, FLAGS) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                thread::sleep(RELEASE_PAUSE);
            }
            done => return done,
        }
    }
}

/// Asks for everything wanted at once, and only where the kernel refuses piece by piece: each attempt makes the
/// kernel renegotiate the device's features.
fn grant(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<Granted> {
    let mut wanted = Vec::new();
    if !offloads.no_csum {
        wanted.push(libc::TUN_F_CSUM);
        if !offloads.no_tso {
            wanted.extend([libc::TUN_F_TSO4, libc::TUN_F_TSO6, libc::TUN_F_TSO_ECN]);
        }
        if !offloads.no_uso {
            // The kernel takes both or neither.
            wanted.push(libc::TUN_F_USO4 | libc::TUN_F_USO6);
        }
    }
    let all = wanted.iter().fold(0, |mask, bits| mask | bits);
    if tun::set_offload(fd, all).is_ok() {
        return Ok(Granted(all));
    }
    let mut granted = 0;
    tun::set_offload(fd, granted)?;
    for bits in wanted {
        if tun::set_offload(fd, granted | bits).is_ok() {
            granted |= bits;
        }
    }
    Ok(Granted(granted))
}

/// The kernel's rule (dev_valid_name in net/core/dev.c), and no `%`, which would make the name a pattern.
fn wire_name(name: &str) -> Result<[u8; tun::NAME_BYTES], TapError> {
    let fits = (1..tun::NAME_BYTES).contains(&name.len()) && name != "." && name != "..";
    let clean = name.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':' | b'%'));
    if !fits || !clean {
        return Err(TapError::Name(name.into()));
    }
    let mut bytes = [0; tun::NAME_BYTES];
    bytes[..name.len()].copy_from_slice(name.as_bytes());
    Ok(bytes)
}

#[cfg(test)]
mod tests;
