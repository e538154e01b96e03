//! The hash of the forwarding database, into which frames insert: keyed, since whoever sends frames chooses their
//! addresses, and short, since it is computed some times for each of them.
//!
//! Each word costs one multiplication, of which both halves are folded, where SipHash, the standard library's, has some
//! dozens of steps. Who does not know the key cannot choose addresses that collide, and nothing that depends on it leaves
//! the process. It is no cryptography; that a place has a bounded number of addresses bounds what a collision costs.

use std::hash::{BuildHasher, RandomState};

/// Made with a random key.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
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

impl Keyed {
    pub(super) fn of(&self, words: [u64; 2]) -> u64 {
        let state = words.into_iter().fold(self.start, |state, word| fold(state ^ word, self.factor));
        // Once more, so that addresses in a row spread with any key.
        fold(state, 0x9e37_79b9_7f4a_7c15)
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

    #[test]
    fn addresses_spread_whatever_their_order_and_key() {
        for _ in 0..20 {
            let key = Keyed::default();
            for step in [1, 256, 65_536] {
                let hashes = (0..4096_u64).map(|n| key.of([0x0200_0000_0000 + n * step, 7]));
                let slots: HashSet<u64> = hashes.map(|hash| hash & 4095).collect();
                // Random hashes would fill 1 - 1/e of the slots, 2589 of them.
                assert!(slots.len() > 2000, "{} slots of steps of {step} with {key:?}", slots.len());
            }
        }
    }

    #[test]
    fn another_key_is_another_hash() {
        assert_ne!(Keyed::default().of([7, 7]), Keyed::default().of([7, 7]));
    }
}
