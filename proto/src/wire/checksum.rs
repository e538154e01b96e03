//! The Internet checksum: RFC 1071, and the pseudo-headers of RFC 9293 section 3.1 and RFC 8200 section 8.1.
//!
//! A sum does not depend on the order of its words, nor, but for a swap at the end, on the order of their bytes
//! (RFC 1071 section 2). So it is taken over little-endian words of 32 bits in independent lanes, which compilers turn
//! into vector instructions, and is folded and swapped once.

/// A one's complement sum that is not folded yet. 2^30 bytes fit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

const LANES: usize = 8;
const WORD_BYTES: usize = 4;

impl Sum {
    /// Adds bytes that begin at an even place of what is summed. Only the last piece may have an odd length.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Sum {
        let mut lanes = [0u64; LANES];
        let (blocks, rest) = bytes.as_chunks::<{ LANES * WORD_BYTES }>();
        for block in blocks {
            let (words, _) = block.as_chunks::<WORD_BYTES>();
            for (lane, word) in lanes.iter_mut().zip(words) {
                *lane += u64::from(u32::from_le_bytes(*word));
            }
        }
        let mut sum = self.0 + lanes.iter().sum::<u64>();
        let (words, tail) = rest.as_chunks::<WORD_BYTES>();
        for word in words {
            sum += u64::from(u32::from_le_bytes(*word));
        }
        let mut word = [0; WORD_BYTES];
        word[..tail.len()].copy_from_slice(tail);
        Sum(sum + u64::from(u32::from_le_bytes(word)))
    }

    /// Adds a number as it stands in a header.
    #[must_use]
    pub fn number(self, value: u16) -> Sum {
        Sum(self.0 + u64::from(value.swap_bytes()))
    }

    /// The pseudo-header: both addresses in one piece, which no header has between, the protocol, and the length of
    /// the transport header and what follows it.
    pub fn pseudo_header(addresses: &[u8], protocol: u8, bytes: usize) -> Sum {
        // The upper half of IPv6's 32-bit length is not zero for what is longer than a packet.
        let (high, low) = ((bytes >> 16) as u16, bytes as u16);
        Sum::default().bytes(addresses).number(protocol.into()).number(high).number(low)
    }

    /// The sum itself, as a partial checksum is stored.
    pub fn folded(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).swap_bytes()
    }

    /// What goes into the checksum field, which was zero or not part of the sum.
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The same where zero says that there is no checksum (RFC 768).
    pub fn checksum_not_zero(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether what was summed, checksum included, is intact.
    pub fn is_intact(self) -> bool {
        self.folded() == 0xffff
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// RFC 1071 section 4.1, word by word.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_the_rfc() {
        // RFC 1071 section 3.
        let sum = Sum::default().bytes(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(sum.checksum(), 0x220d);
        assert!(sum.number(0x220d).is_intact());
    }

    #[test]
    fn a_udp_datagram_over_ipv4() {
        let addresses = [10, 0, 0, 1, 10, 0, 0, 2];
        let datagram = [0x30, 0x39, 0, 53, 0, 10, 0, 0, b'h', b'i'];
        let sum = Sum::pseudo_header(&addresses, 17, datagram.len()).bytes(&datagram);
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 000a + 3039 + 0035 + 000a + 6869
        assert_eq!(sum.checksum(), !0xacff);
    }

    #[test]
    fn zero_is_spelled_differently_where_it_means_something_else() {
        let sum = Sum::default().number(0xffff);
        assert_eq!((sum.checksum(), sum.checksum_not_zero()), (0, 0xffff));
        assert_eq!(Sum::default().checksum_not_zero(), 0xffff);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn lanes_sum_what_words_do(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..150) {
            prop_assert_eq!(Sum::default().bytes(&bytes).folded(), naive(&bytes));
            let (head, tail) = bytes.split_at((2 * cut).min(bytes.len()));
            prop_assert_eq!(Sum::default().bytes(head).bytes(tail).folded(), naive(&bytes));
            let checksum = Sum::default().bytes(&bytes).checksum();
            let mut whole: Vec<u8> = bytes.clone();
            whole.resize(bytes.len().next_multiple_of(2), 0);
            whole.extend(checksum.to_be_bytes());
            prop_assert!(Sum::default().bytes(&whole).is_intact());
        }
    }
}
