//! `struct virtio_net_hdr_v1` (include/uapi/linux/virtio_net.h): the 12 bytes that a TAP with IFF_VNET_HDR and a
//! header size of 12 puts before every frame. All fields are little-endian here, as on every host we run on.

/// Size of the header, bytes.
pub const HEADER_BYTES: usize = 12;

pub const F_NEEDS_CSUM: u8 = 1;
pub const F_DATA_VALID: u8 = 2;

pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_UDP: u8 = 3;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
pub const GSO_ECN: u8 = 0x80;

/// A header whose fields fit the frame that follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VnetHdr {
    pub flags: u8,
    /// `GSO_*` without `GSO_ECN`.
    pub gso_type: u8,
    pub ecn: bool,
    /// Advisory only: the kernel documents it as a hint. Parse the headers instead.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksum begins, bytes from the start of the Ethernet header.
    pub csum_start: u16,
    /// Where it is stored, bytes from `csum_start`.
    pub csum_offset: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    #[error("shorter than the 12 bytes of the header")]
    Short,
    #[error("segmentation type {0} is unknown")]
    GsoType(u8),
    #[error("segmentation with a segment size of 0")]
    GsoSize,
    #[error("segmentation without a partial checksum")]
    GsoWithoutChecksum,
    #[error("the checksum field lies outside the frame")]
    Checksum,
}

impl VnetHdr {
    /// Splits what a TAP gave into its header and the frame, with every field checked against the frame's length.
    pub fn parse(bytes: &[u8]) -> Result<(VnetHdr, &[u8]), VnetError> {
        let (raw, frame) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(VnetError::Short)?;
        let u16_at = |i: usize| u16::from_le_bytes([raw[i], raw[i + 1]]);
        let hdr = VnetHdr {
            flags: raw[0],
            gso_type: raw[1] & !GSO_ECN,
            ecn: raw[1] & GSO_ECN != 0,
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
        };
        hdr.check(frame.len())?;
        Ok((hdr, frame))
    }

    fn check(&self, frame_bytes: usize) -> Result<(), VnetError> {
        let segments = match self.gso_type {
            GSO_NONE => false,
            GSO_TCPV4 | GSO_TCPV6 | GSO_UDP | GSO_UDP_L4 => true,
            other => return Err(VnetError::GsoType(other)),
        };
        if segments && self.gso_size == 0 {
            return Err(VnetError::GsoSize);
        }
        if segments && !self.needs_csum() {
            return Err(VnetError::GsoWithoutChecksum);
        }
        let csum_end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        if self.needs_csum() && csum_end > frame_bytes {
            return Err(VnetError::Checksum);
        }
        Ok(())
    }

    /// The L4 checksum field holds only the pseudo-header's sum.
    pub fn needs_csum(&self) -> bool {
        self.flags & F_NEEDS_CSUM != 0
    }

    /// One frame that stands for several segments.
    pub fn is_gso(&self) -> bool {
        self.gso_type != GSO_NONE
    }

    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut raw = [0; HEADER_BYTES];
        raw[0] = self.flags;
        raw[1] = self.gso_type | if self.ecn { GSO_ECN } else { 0 };
        raw[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        raw[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        raw[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        raw[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn with_frame(header: [u8; 12], frame_bytes: usize) -> alloc::vec::Vec<u8> {
        let mut bytes = header.to_vec();
        bytes.extend(vec![0; frame_bytes]);
        bytes
    }

    #[test]
    fn a_tso_frame() {
        let raw = [1, 1, 66, 0, 0xb4, 5, 34, 0, 16, 0, 1, 0];
        let bytes = with_frame(raw, 4000);
        let (hdr, frame) = VnetHdr::parse(&bytes).unwrap();
        assert_eq!(frame.len(), 4000);
        assert!(hdr.is_gso() && hdr.needs_csum() && !hdr.ecn);
        assert_eq!((hdr.gso_size, hdr.csum_start, hdr.csum_offset), (1460, 34, 16));
        assert_eq!(hdr.to_bytes()[..10], raw[..10]);
    }

    #[test]
    fn impossible_headers() {
        for (raw, error) in [
            ([0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], VnetError::GsoType(2)),
            ([1, 1, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0], VnetError::GsoSize),
            ([0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], VnetError::GsoWithoutChecksum),
            ([1, 0, 0, 0, 0, 0, 99, 0, 0, 0, 0, 0], VnetError::Checksum),
            ([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], VnetError::Checksum),
        ] {
            assert_eq!(VnetHdr::parse(&with_frame(raw, 100)), Err(error));
        }
        assert_eq!(VnetHdr::parse(&[0; 11]), Err(VnetError::Short));
        // A checksum field that ends with the frame fits.
        assert!(VnetHdr::parse(&with_frame([1, 0, 0, 0, 0, 0, 98, 0, 0, 0, 0, 0], 100)).is_ok());
    }
}
