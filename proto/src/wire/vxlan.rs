//! The VXLAN header (RFC 7348 section 5): eight bytes between UDP and the inner Ethernet frame.
//!
//! ```text
//! |R|R|R|R|I|R|R|R|            Reserved             |
//! |                VXLAN Network Identifier (VNI) |   Reserved    |
//! ```

use core::net::IpAddr;

use crate::id::Vni;

/// Size of the header, bytes.
pub const HEADER_BYTES: usize = 8;

/// Destination port that IANA has assigned.
pub const PORT: u16 = 4789;

/// What a tunnel to `vtep` adds to an inner IP packet: outer IP and UDP headers, this one, and the inner Ethernet
/// header. So the MTU of a container is this much smaller than that of the underlay.
pub const fn overhead_bytes(vtep: IpAddr) -> u32 {
    let ip = if vtep.is_ipv6() { 40 } else { 20 };
    ip + 8 + HEADER_BYTES as u32 + 14
}

const FLAG_VNI: u8 = 0x08;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VxlanError {
    #[error("shorter than a VXLAN header")]
    Short,
    #[error("the I flag, which says that there is a VNI, is not set")]
    NoVni,
}

/// A packet with a valid header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan<'a> {
    /// `None` for 0, which no network here has.
    pub vni: Option<Vni>,
    pub inner: &'a [u8],
}

impl<'a> Vxlan<'a> {
    /// Reserved bits are ignored, as section 5 has it.
    pub fn parse(bytes: &'a [u8]) -> Result<Vxlan<'a>, VxlanError> {
        let (header, inner) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(VxlanError::Short)?;
        if header[0] & FLAG_VNI == 0 {
            return Err(VxlanError::NoVni);
        }
        let vni = u32::from_be_bytes([0, header[4], header[5], header[6]]);
        Ok(Vxlan { vni: Vni::new(vni), inner })
    }
}

/// Reserved bits are zero.
pub fn header(vni: Vni) -> [u8; HEADER_BYTES] {
    let [_, a, b, c] = vni.get().to_be_bytes();
    [FLAG_VNI, 0, 0, 0, a, b, c, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_and_its_frame() {
        let bytes = [8, 0, 0, 0, 0x12, 0x34, 0x56, 0, 0xaa, 0xbb];
        let vni = Vni::new(0x12_3456).unwrap();
        assert_eq!(Vxlan::parse(&bytes), Ok(Vxlan { vni: Some(vni), inner: &[0xaa, 0xbb] }));
        assert_eq!(header(vni), bytes[..8]);
    }

    #[test]
    fn what_a_tunnel_costs() {
        assert_eq!(["10.8.0.1", "fd00::1"].map(|vtep| overhead_bytes(vtep.parse().unwrap())), [50, 70]);
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0, 0, 1, 0xff];
        assert_eq!(Vxlan::parse(&bytes), Ok(Vxlan { vni: Vni::new(1), inner: &[] }));
    }

    #[test]
    fn what_is_no_header() {
        let bytes = [8, 0, 0, 0, 0, 0, 1, 0];
        (0..8).for_each(|n| assert_eq!(Vxlan::parse(&bytes[..n]), Err(VxlanError::Short)));
        assert_eq!(Vxlan::parse(&[0xf7, 0, 0, 0, 0, 0, 1, 0]), Err(VxlanError::NoVni));
        assert_eq!(Vxlan::parse(&[8, 0, 0, 0, 0, 0, 0, 0]).map(|packet| packet.vni), Ok(None));
    }
}
