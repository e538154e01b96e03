//! Raw Ethernet frames, sent and seen by AF_PACKET sockets inside a namespace.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::ensure;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use vswitch_proto::id::MacAddr;

use crate::netns::inside;
use crate::wait::eventually;

/// For local experiments (IEEE 802): no host answers it.
pub const ETHERTYPE: u16 = 0x88b5;

/// A frame may be as long as this, bytes.
const FRAME_BYTES_MAX: usize = 65_600;

const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// An AF_PACKET socket on one interface. It sees everything that the interface receives from its creation on, and
/// what the namespace's own processes send through it.
pub struct Packet(OwnedFd);

impl Packet {
    pub fn open(netns: &Path, interface: &str) -> Packet {
        inside(netns, || open(interface)).unwrap_or_else(|e| panic!("{interface}: {e}"))
    }

    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty())?;
        Ok(())
    }

    /// Everything that has arrived and was not taken yet.
    pub fn drain(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(bytes) => frames.push(buffer[..bytes].into()),
                Err(Errno::EAGAIN) => return frames,
                // The interface went down; what it had received is still there.
                Err(Errno::ENETDOWN) => {}
                Err(error) => panic!("an AF_PACKET socket can be read: {error}"),
            }
        }
    }

    /// Waits for a frame that holds `marker`, and returns everything that arrived up to then.
    pub fn drain_until(&self, marker: &[u8]) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        eventually(&format!("`{}` arrives", marker.escape_ascii()), || {
            seen.extend(self.drain());
            ensure!(seen.iter().any(|frame| holds(frame, marker)), "{} other frames arrived", seen.len());
            Ok(())
        });
        seen
    }

    /// Frames are sent behind a `struct virtio_net_hdr` from now on.
    pub fn expect_vnet_headers(&self) {
        vnet::enable(&self.0).expect("the kernel has PACKET_VNET_HDR");
    }
}

fn open(interface: &str) -> nix::Result<Packet> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|a| a.interface_name == interface)
        .find_map(|a| a.address.and_then(|a| a.as_link_addr().copied()))
        .ok_or(Errno::ENODEV)?;
    // The address has no protocol of its own, so the socket keeps its one (packet(7)).
    bind(fd.as_raw_fd(), &address)?;
    Ok(Packet(fd))
}

/// Does the frame hold these bytes anywhere?
pub fn holds(frame: &[u8], marker: &[u8]) -> bool {
    frame.windows(marker.len()).any(|window| window == marker)
}

/// A frame with a payload that is padded to the shortest one that Ethernet allows.
pub fn frame(destination: MacAddr, source: MacAddr, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [&destination.0[..], &source.0[..], &ethertype.to_be_bytes(), payload].concat();
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

#[expect(unsafe_code, reason = "no crate has this socket option")]
mod vnet {
    use super::{AsRawFd, OwnedFd, io};

    const PACKET_VNET_HDR: libc::c_int = 15;

    pub(super) fn enable(fd: &OwnedFd) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the option's value is a C int, and it lives as long as the call.
        let result = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_VNET_HDR,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
