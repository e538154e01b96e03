//! A frame as it passes through the switch.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use vswitch_proto::wire::ethernet::Ethernet;
use vswitch_proto::wire::vnet_hdr::{self, VnetError, VnetHdr};

/// Largest frame a TAP hands over: an IP packet of 65,535 bytes behind an Ethernet header with two VLAN tags.
pub const FRAME_BYTES_MAX: usize = 65_535 + 14 + 8;

/// The virtio-net header and the frame behind it, as one read from a TAP returns them.
pub const BUFFER_BYTES: usize = vnet_hdr::HEADER_BYTES + FRAME_BYTES_MAX;

/// A checked frame: it has a whole Ethernet header, and its offload metadata fits its length.
///
/// `raw` is what was read, virtio-net header included. A frame that goes from one TAP to another is written back
/// as it came, partial checksum and all.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    raw: &'a [u8],
    vnet: VnetHdr,
    ethernet: Ethernet<'a>,
}

/// Why bytes are not a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("impossible virtio-net header: {0}")]
    Vnet(#[from] VnetError),
    #[error("shorter than an Ethernet header")]
    Runt,
    #[error("longer than {FRAME_BYTES_MAX} bytes")]
    Oversized,
}

impl<'a> Frame<'a> {
    /// Checks what a TAP gave, once.
    pub fn parse(raw: &'a [u8]) -> Result<Frame<'a>, FrameError> {
        let (vnet, bytes) = VnetHdr::parse(raw)?;
        if bytes.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Oversized);
        }
        let ethernet = Ethernet::new(bytes).ok_or(FrameError::Runt)?;
        Ok(Frame { raw, vnet, ethernet })
    }

    /// With the virtio-net header, as a TAP takes it.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// Without the virtio-net header.
    pub fn bytes(&self) -> &'a [u8] {
        &self.raw[vnet_hdr::HEADER_BYTES..]
    }

    pub fn vnet(&self) -> &VnetHdr {
        &self.vnet
    }

    pub fn ethernet(&self) -> &Ethernet<'a> {
        &self.ethernet
    }
}
