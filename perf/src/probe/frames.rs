//! The frames of a packet generator.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use serde::{Deserialize, Serialize};

/// Shortest frame without its check sequence: the "64-byte frame" of RFC 2544.
pub const FRAME_BYTES_MIN: usize = 60;

/// Of an Ethernet header.
pub const HEADER_BYTES: usize = 14;

/// IEEE 802 Std 802-2014, 9.2.3: for local experiments. A receiver has no protocol for it and stops at once, so that
/// it is the switch that is measured.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mix {
    /// 64 bytes on the wire.
    Small,
    /// 28 of 64, 16 of 570 and 4 of 1518 bytes.
    Imix,
    /// As long as the MTU allows.
    Large,
}

/// An IMIX in the order it is sent: seven small ones, four middle ones and a large one, four times over.
const IMIX: [usize; 12] = [0, 1, 0, 1, 0, 0, 1, 0, 0, 1, 0, 2];

impl Mix {
    /// Bytes of the frames of one period, in order, without check sequences and within an MTU.
    pub fn lengths(self, mtu: usize) -> Vec<usize> {
        let large = HEADER_BYTES + mtu;
        match self {
            Mix::Small => vec![FRAME_BYTES_MIN],
            Mix::Large => vec![large],
            Mix::Imix => IMIX.iter().map(|&size| [FRAME_BYTES_MIN, 566, 1514][size].min(large)).collect(),
        }
    }
}

/// A frame of zeros behind its header.
pub fn frame(destination: [u8; 6], source: [u8; 6], bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes);
    frame.extend(destination);
    frame.extend(source);
    frame.extend(ETHERTYPE);
    frame.resize(bytes.max(HEADER_BYTES), 0);
    frame
}

/// The `index`-th of many addresses: unicast, locally administered, and none that a peer uses itself.
pub fn numbered_mac(index: u32) -> [u8; 6] {
    let [a, b, c, d] = index.to_be_bytes();
    [0x06, 0x5b, a, b, c, d]
}

pub fn parse_mac(text: &str) -> Result<[u8; 6], String> {
    let parts: Vec<&str> = text.split(':').collect();
    let bytes: Option<Vec<u8>> =
        parts.iter().map(|part| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| format!("{text} is not a MAC address"))
}

pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imix_is_seven_to_four_to_one() {
        let lengths = Mix::Imix.lengths(1500);
        let count = |bytes| lengths.iter().filter(|&&length| length == bytes).count();
        assert_eq!((count(60), count(566), count(1514)), (7, 4, 1));
        assert_eq!(lengths.len(), 12);
    }

    #[test]
    fn no_frame_is_longer_than_the_mtu_allows() {
        assert_eq!(Mix::Large.lengths(1450), [1464]);
        assert_eq!(Mix::Imix.lengths(1450).into_iter().max(), Some(1464));
    }

    #[test]
    fn a_frame_has_its_header_and_length() {
        let frame = frame([1; 6], [2; 6], 60);
        assert_eq!(frame.len(), 60);
        assert_eq!(frame[..14], [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x88, 0xb5]);
    }

    #[test]
    fn macs() {
        assert_eq!(parse_mac("02:42:0a:63:00:02"), Ok([2, 0x42, 10, 0x63, 0, 2]));
        for wrong in ["", "02:42:0a:63:00", "02:42:0a:63:00:02:03", "g2:42:0a:63:00:02", "2:42:0a:63:00:02"] {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
        assert_eq!(format_mac(numbered_mac(0x0102_0304)), "06:5b:01:02:03:04");
        assert_eq!(numbered_mac(9)[0] & 3, 2, "local and unicast");
    }
}
