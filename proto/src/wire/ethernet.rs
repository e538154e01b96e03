//! The Ethernet header (IEEE 802.3 section 3.2) as far as a switch reads it.

use crate::id::MacAddr;

/// Destination, source and EtherType.
pub const HEADER_BYTES: usize = 14;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const ETHERTYPE_VLAN: u16 = 0x8100;
pub const ETHERTYPE_QINQ: u16 = 0x88a8;
pub const ETHERTYPE_IPV6: u16 = 0x86dd;

/// A frame that has a whole header.
#[derive(Debug, Clone, Copy)]
pub struct Ethernet<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_BYTES],
}

impl<'a> Ethernet<'a> {
    /// `None` for a runt that cannot hold the header.
    pub fn new(bytes: &'a [u8]) -> Option<Ethernet<'a>> {
        Some(Ethernet { bytes, header: bytes.first_chunk()? })
    }

    #[inline]
    pub fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    #[inline]
    pub fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The outermost EtherType; values below 1536 are 802.3 lengths.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        u16::from_be_bytes([self.header[12], self.header[13]])
    }

    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_request() {
        let bytes = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0x42, 172, 17, 0, 2, 8, 6, 0, 1];
        let frame = Ethernet::new(&bytes).unwrap();
        assert_eq!(frame.destination(), MacAddr::BROADCAST);
        assert_eq!(frame.source(), MacAddr([2, 0x42, 172, 17, 0, 2]));
        assert_eq!(frame.ethertype(), ETHERTYPE_ARP);
        assert_eq!(frame.payload(), [0, 1]);
        assert!(Ethernet::new(&bytes[..13]).is_none());
    }
}
