//! Addresses of networks that ask for none.

use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigError, Raw};

/// Docker's `base=PREFIX,size=LENGTH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct AddressPool {
    pub base: IpNet,
    /// Prefix length of the subnets that the base is cut into.
    pub size: u8,
}

impl FromStr for AddressPool {
    type Err = String;

    fn from_str(text: &str) -> Result<AddressPool, String> {
        let (mut base, mut size) = (None, None);
        for field in text.split(',') {
            match field.split_once('=') {
                Some(("base", value)) => base = value.parse::<IpNet>().ok(),
                Some(("size", value)) => size = value.parse::<u8>().ok(),
                _ => return Err(format!("{field:?} is neither base=PREFIX nor size=LENGTH")),
            }
        }
        let how = || format!("{text:?} is no address pool; write it as base=10.10.0.0/16,size=24");
        let (base, size) = base.zip(size).ok_or_else(how)?;
        let sizes = match base {
            IpNet::V4(_) => 8..=30,
            IpNet::V6(_) => 16..=126,
        };
        if base.trunc() != base {
            return Err(format!("the base {base} has host bits set, did you mean {}?", base.trunc()));
        }
        if !sizes.contains(&size) || size < base.prefix_len() {
            return Err(format!("the size {size} is none for subnets of {base}"));
        }
        Ok(AddressPool { base, size })
    }
}

impl TryFrom<String> for AddressPool {
    type Error = String;

    fn try_from(text: String) -> Result<AddressPool, String> {
        text.parse()
    }
}

/// The address of the gateway of the default network, with the prefix length of its subnet.
pub(super) fn bip(raw: &Raw) -> Result<Option<IpNet>, ConfigError> {
    let Some(bip) = raw.bip else { return Ok(None) };
    let is_host = match bip {
        IpNet::V4(net) => {
            (8..=30).contains(&net.prefix_len())
                && net.addr() != net.network()
                && net.addr() != net.broadcast()
        }
        IpNet::V6(_) => false,
    };
    if is_host { Ok(Some(bip)) } else { Err(ConfigError::Bip(bip)) }
}
