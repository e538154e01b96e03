//! The hash of the forwarding database, into which frames insert: keyed, since whoever sends frames chooses their
//! addresses, and short, since it is computed for each of them.
//!
//! Each word costs one multiplication, of which both halves are folded, where SipHash, the standard library's, has some
//! dozens of steps. Who does not know the key cannot choose addresses that collide, and nothing that depends on it leaves
//! the process. It is no cryptography; that a place has a bounded number of addresses bounds what a collision costs.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

use std::hash::{BuildHasher, Hasher, RandomState};

/// Made with a random key.
#[derive(Debug, Clone)]
pub struct Keyed {
    start: u64,
    factor: u64,
}

impl Default for Keyed {
    fn default() -> Keyed {
        let random = RandomState::new();
        // An even factor would lose the lowest bits.
        Keyed { start: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Keyed {
    type Hasher = KeyedHasher;

    fn build_hasher(&self) -> KeyedHasher {
        KeyedHasher { state: self.start, factor: self.factor }
    }
}

#[derive(Debug)]
pub struct KeyedHasher {
    state: u64,
    factor: u64,
}

impl Hasher for KeyedHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_u64(&mut self, value: u64) {
        self.state = fold(self.state ^ value, self.factor);
    }

    /// Once more, so that addresses in a row spread with any key.
    fn finish(&self) -> u64 {
        fold(self.state, 0x9e37_79b9_7f4a_7c15)
    }
}

/// Both halves of the product.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use vswitch_proto::id::{MacAddr, Vni};

    #[test]
    fn addresses_spread_whatever_their_order_and_key() {
        for _ in 0..20 {
            let key = Keyed::default();
            for step in [1, 256, 65_536] {
                let macs = (0..4096u32).map(|n| {
                    let [a, b, c, d] = (n * step).to_be_bytes();
                    MacAddr([2, 0, a, b, c, d])
                });
                let hashes: Vec<u64> = macs.map(|mac| key.hash_one((Vni::new(7), mac))).collect();
                let slots: HashSet<u64> = hashes.iter().map(|hash| hash & 4095).collect();
                let shards: HashSet<u64> = hashes.iter().map(|hash| hash >> 51 & 63).collect();
                // Random hashes would fill 1 - 1/e of the slots, 2589 of them.
                assert!(slots.len() > 2000, "{} slots of steps of {step} with {key:?}", slots.len());
                assert_eq!(shards.len(), 64);
            }
        }
    }

    #[test]
    fn another_key_is_another_hash() {
        assert_ne!(Keyed::default().hash_one(7_u64), Keyed::default().hash_one(7_u64));
    }
}
