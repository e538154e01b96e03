//! Names that stand for addresses, and the names that these have (RFC 1035 section 3.5, RFC 3596 section 2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_SUFFIX: &str = ".in-addr.arpa";
const IPV6_SUFFIX: &str = ".ip6.arpa";

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for, in lower case.
pub fn address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(IPV4_SUFFIX) {
        // The parser takes no leading zeros, so each address has one name.
        let ip: Ipv4Addr = digits.parse().ok()?;
        let [a, b, c, d] = ip.octets();
        return Some(Ipv4Addr::new(d, c, b, a).into());
    }
    let digits = name.strip_suffix(IPV6_SUFFIX)?;
    let mut bits: u128 = 0;
    let mut count = 0;
    for (place, label) in digits.split('.').enumerate() {
        if label.len() != 1 || place >= 32 {
            return None;
        }
        let digit = u128::from_str_radix(label, 16).ok()?;
        bits |= digit << (4 * place);
        count = place + 1;
    }
    (count == 32).then(|| Ipv6Addr::from(bits).into())
}

/// A name as the labels of a record. `None` if one of them is too long for DNS or empty, as names of containers may be.
pub fn labels(name: &str) -> Option<Vec<u8>> {
    let mut labels = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..64).contains(length))?;
        labels.push(length);
        labels.extend(label.as_bytes());
    }
    labels.push(0);
    (labels.len() <= 255).then_some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_from_names() {
        assert_eq!(address("9.0.17.172.in-addr.arpa"), "172.17.0.9".parse().ok());
        let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(address(six), "fd00::2".parse().ok());
        for other in [
            "17.172.in-addr.arpa",
            "1.9.0.17.172.in-addr.arpa",
            "256.0.17.172.in-addr.arpa",
            "09.0.17.172.in-addr.arpa",
            ".in-addr.arpa",
            "in-addr.arpa",
            "a.d.f.ip6.arpa",
            "web",
            &six[2..],
            &format!("0.{six}"),
            &six.replacen('2', "22", 1),
            &six.replacen('2', "g", 1),
            &six.replacen('2', "+", 1),
        ] {
            assert_eq!(address(other), None, "{other}");
        }
    }

    #[test]
    fn names_as_labels() {
        assert_eq!(labels("web.Blue").unwrap(), b"\x03web\x04Blue\0");
        assert_eq!(labels("a..b"), None);
        assert_eq!(labels(&"x".repeat(64)), None);
        assert_eq!(labels(&[&*"x".repeat(63); 4].join(".")), None);
    }
}
