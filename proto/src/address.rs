//! Where nodes are, as people write it.

use alloc::string::String;
use core::fmt;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};
use core::str::FromStr;

use serde::Deserialize;

/// Where nodes listen for each other unless they are told otherwise.
pub const NODE_PORT: u16 = 7946;

/// `HOST[:PORT]`: an IP address or a host name. An IPv6 address with a port is in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostPortError {
    #[error("HOST or HOST:PORT is wanted, as 10.8.0.1, host1:7946 or [fd00::1]:7946")]
    Malformed,
    #[error("a port lies between 1 and 65535")]
    Port,
}

impl HostPort {
    /// Unless the host is given by its name.
    pub fn as_ip(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> HostPort {
        HostPort { host: alloc::format!("{}", address.ip()), port: address.port() }
    }
}

impl FromStr for HostPort {
    type Err = ParseHostPortError;

    fn from_str(text: &str) -> Result<HostPort, ParseHostPortError> {
        if text.parse::<Ipv6Addr>().is_ok() {
            return Ok(HostPort { host: text.into(), port: NODE_PORT });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(ParseHostPortError::Malformed)?;
                host.parse::<Ipv6Addr>().map_err(|_| ParseHostPortError::Malformed)?;
                (host, port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                if !is_host_name(host) {
                    return Err(ParseHostPortError::Malformed);
                }
                (host, port)
            }
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => NODE_PORT,
            Some(digits) if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port != 0).ok_or(ParseHostPortError::Port)?
            }
            _ => return Err(ParseHostPortError::Malformed),
        };
        Ok(HostPort { host: host.into(), port })
    }
}

/// RFC 1123 section 2.1, and the underscores that some networks have.
fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(is_label)
}

impl TryFrom<String> for HostPort {
    type Error = ParseHostPortError;

    fn try_from(text: String) -> Result<HostPort, ParseHostPortError> {
        text.parse()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_ip() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn the_port_may_be_left_out() {
        for (text, shown) in [
            ("10.8.0.1", "10.8.0.1:7946"),
            ("10.8.0.1:80", "10.8.0.1:80"),
            ("fd00::1", "[fd00::1]:7946"),
            ("[fd00::1]", "[fd00::1]:7946"),
            ("[fd00::1]:80", "[fd00::1]:80"),
            ("host-1.example.org", "host-1.example.org:7946"),
            ("host_1:65535", "host_1:65535"),
        ] {
            let parsed: HostPort = text.parse().unwrap();
            assert_eq!(parsed.to_string(), shown, "{text}");
            assert_eq!(shown.parse(), Ok(parsed), "{text}");
        }
        assert_eq!("[fd00::1]:80".parse::<HostPort>().unwrap().as_ip(), "[fd00::1]:80".parse().ok());
        assert_eq!("host1".parse::<HostPort>().unwrap().as_ip(), None);
    }

    #[test]
    fn what_is_no_address() {
        for text in [
            "",
            ":7946",
            "a b",
            "a..b",
            "http://a",
            "[fd00::1",
            "[a]:1",
            "[fd00::1]80",
            "a/b:1",
            "é:1",
            "a:",
            "a:x",
            "a:1:2",
            "a:-1",
            "[fd00::1]:",
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(ParseHostPortError::Malformed), "{text}");
        }
        for text in ["a:0", "a:65536", "[fd00::1]:0"] {
            assert_eq!(text.parse::<HostPort>(), Err(ParseHostPortError::Port), "{text}");
        }
    }
}
