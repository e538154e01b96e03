//! Numbers for IPv6 tunnel endpoints, of which an entry of the database has no room for the address.
//!
//! A number is never given to another address, since a reader may hold it: so these numbers can run out, after
//! [`VTEPS_MAX`] different addresses in the life of a process. Only endpoints that the tables accept come here, nodes of
//! the cluster and static ones, of which there are at most half as many at a time.

use std::collections::HashMap;
use std::net::Ipv6Addr;
use std::sync::{Mutex, OnceLock, PoisonError};

pub(super) const VTEPS_MAX: usize = CHUNKS * CHUNK;

const CHUNKS: usize = 512;
const CHUNK: usize = 256;

#[derive(Debug)]
pub(super) struct Vteps {
    /// For readers, who lock nothing.
    addresses: [OnceLock<Box<[OnceLock<Ipv6Addr>; CHUNK]>>; CHUNKS],
    numbers: Mutex<HashMap<Ipv6Addr, u32>>,
}

impl Default for Vteps {
    fn default() -> Vteps {
        Vteps { addresses: [const { OnceLock::new() }; CHUNKS], numbers: Mutex::default() }
    }
}

impl Vteps {
    /// The same for the same address. `None` if there is none left for a new one.
    pub(super) fn number(&self, vtep: Ipv6Addr) -> Option<u32> {
        let mut numbers = self.numbers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(&number) = numbers.get(&vtep) {
            return Some(number);
        }
        let at = numbers.len();
        if at == VTEPS_MAX {
            return None;
        }
        let chunk = self.addresses[at / CHUNK].get_or_init(|| Box::new([const { OnceLock::new() }; CHUNK]));
        chunk[at % CHUNK].get_or_init(|| vtep);
        numbers.insert(vtep, at as u32);
        Some(at as u32)
    }

    /// # Panics
    /// If [`Vteps::number`] never gave this number.
    pub(super) fn get(&self, number: u32) -> Ipv6Addr {
        let at = number as usize;
        let address = self.addresses[at / CHUNK].get().and_then(|chunk| chunk[at % CHUNK].get());
        *address.expect("a number stands for an address")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_number_until_there_are_none_left() {
        let vteps = Vteps::default();
        let address = |at: usize| Ipv6Addr::from_bits(0xfd00 << 112 | at as u128);
        for at in 0..VTEPS_MAX {
            assert_eq!(vteps.number(address(at)), Some(at as u32));
        }
        assert_eq!(vteps.number(address(VTEPS_MAX)), None);
        for at in (0..VTEPS_MAX).step_by(97) {
            assert_eq!((vteps.number(address(at)), vteps.get(at as u32)), (Some(at as u32), address(at)));
        }
    }
}
