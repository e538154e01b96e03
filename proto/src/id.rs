//! Checked newtypes for everything that has an identity.

use alloc::string::String;
use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What is wrong with a text that should have been an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("a MAC address is six hexadecimal bytes with colons, as 02:42:ac:11:00:02")]
    Mac,
    #[error("an id is 64 hexadecimal digits")]
    Id,
    #[error("a request id is 32 hexadecimal digits")]
    Request,
    #[error("a cluster id is 32 hexadecimal digits")]
    Cluster,
    #[error(
        "a name starts with a letter or digit, goes on with letters, digits, '_', '.' or '-', and has at most 63 characters"
    )]
    Name,
    #[error("a VNI lies between 1 and 16777215")]
    Vni,
}

/// An IEEE 802 48-bit address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// Docker's scheme: `02:42` and the four bytes of the IPv4 address.
    pub const fn from_ipv4(ip: Ipv4Addr) -> MacAddr {
        let [a, b, c, d] = ip.octets();
        MacAddr([0x02, 0x42, a, b, c, d])
    }

    /// `02:42` and the last four bytes of the IPv6 address, for endpoints without IPv4.
    pub const fn from_ipv6(ip: Ipv6Addr) -> MacAddr {
        let o = ip.octets();
        MacAddr([0x02, 0x42, o[12], o[13], o[14], o[15]])
    }

    /// Group bit (IEEE 802.3 section 3.2.3): multicast, the broadcast address included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// An address that one interface may have: neither multicast nor all zeros.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != MacAddr::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<MacAddr, ParseIdError> {
        let mut mac = [0; 6];
        let mut parts = s.split([':', '-']);
        for byte in &mut mac {
            let part = parts.next().ok_or(ParseIdError::Mac)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseIdError::Mac);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| ParseIdError::Mac)?;
        }
        if parts.next().is_some() { Err(ParseIdError::Mac) } else { Ok(MacAddr(mac)) }
    }
}

/// A VXLAN network identifier (RFC 7348 section 4): 24 bits, never 0 here.
///
/// Every network has one, local networks too: it names the broadcast domain in the data plane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Vni(u32);

impl Vni {
    /// VNIs below this one are for local networks; overlay networks are allocated from here.
    pub const FIRST_OVERLAY: u32 = 4096;
    pub const MAX: u32 = (1 << 24) - 1;

    pub const fn new(vni: u32) -> Option<Vni> {
        if vni >= 1 && vni <= Vni::MAX { Some(Vni(vni)) } else { None }
    }

    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Vni {
    type Error = ParseIdError;

    fn try_from(vni: u32) -> Result<Vni, ParseIdError> {
        Vni::new(vni).ok_or(ParseIdError::Vni)
    }
}

impl From<Vni> for u32 {
    fn from(vni: Vni) -> u32 {
        vni.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A port of this node's switch. Never reused while the state lives, so a late frame cannot reach a successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PortId(pub u32);

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A host that runs vswitchd. Stand-alone daemons are node 1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u64);

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

fn parse_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    if s.len() != 2 * N || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

/// Text in JSON and other readable formats, the plain value in postcard.
macro_rules! serde_as_text {
    ($name:ident, $raw:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                if s.is_human_readable() { s.collect_str(self) } else { self.0.serialize(s) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<$name, D::Error> {
                if d.is_human_readable() {
                    String::deserialize(d)?.parse().map_err(D::Error::custom)
                } else {
                    <$raw>::deserialize(d).map($name)
                }
            }
        }
    };
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $err:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $bytes]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(&self.0[..6], f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<$name, ParseIdError> {
                parse_hex(s).map($name).ok_or($err)
            }
        }

        impl $name {
            /// The first 12 hexadecimal digits, as tables show them.
            pub fn short(&self) -> String {
                alloc::format!("{self:?}")
            }
        }

        serde_as_text!($name, [u8; $bytes]);
    };
}

hex_id!(/// A network. Drawn by the proposer, 64 hexadecimal digits as text.
    NetworkId, 32, ParseIdError::Id);
hex_id!(/// A container, or an adopted namespace.
    ContainerId, 32, ParseIdError::Id);
hex_id!(/// The attachment of one container to one network.
    EndpointId, 32, ParseIdError::Id);
hex_id!(/// Makes a retried command apply once.
    RequestId, 16, ParseIdError::Request);
hex_id!(/// A cluster of hosts. Drawn when it is founded.
    ClusterId, 16, ParseIdError::Cluster);

serde_as_text!(MacAddr, [u8; 6]);

/// The name of a network, a container or an alias: Docker's character set, bounded by a DNS label's 63 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = ParseIdError;

    fn from_str(s: &str) -> Result<Name, ParseIdError> {
        let tail_ok = s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        let head_ok = s.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if head_ok && tail_ok && s.len() <= 63 { Ok(Name(s.into())) } else { Err(ParseIdError::Name) }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Name, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl core::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn mac_of_the_guide() {
        let mac = MacAddr::from_ipv4(Ipv4Addr::new(172, 17, 0, 2));
        assert_eq!(mac.to_string(), "02:42:ac:11:00:02");
        assert_eq!("02:42:AC:11:00:02".parse(), Ok(mac));
        for bad in ["", "02:42", "02:42:ac:11:00:02:03", "0g:42:ac:11:00:02", "+2:42:ac:11:00:02"] {
            assert_eq!(bad.parse::<MacAddr>(), Err(ParseIdError::Mac), "{bad}");
        }
    }

    #[test]
    fn ids_round_trip_as_text_and_as_bytes() {
        let id = NetworkId([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "abababababab");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json.len(), 66);
        assert_eq!(serde_json::from_str::<NetworkId>(&json).unwrap(), id);
        let bytes = postcard::to_allocvec(&id).unwrap();
        assert_eq!(bytes.len(), 32);
        assert_eq!(postcard::from_bytes::<NetworkId>(&bytes).unwrap(), id);
    }

    #[test]
    fn names_and_vnis_are_checked() {
        for good in ["a", "isolated_nw", "web-1.prod", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "é", "a\n", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!(Vni::new(0).is_none() && Vni::new(1 << 24).is_none());
        assert!(serde_json::from_str::<Vni>("0").is_err());
    }
}
