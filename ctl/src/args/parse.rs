//! Values of flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::signal::Signal;
use vswitch_proto::api::{EndpointConfig, RunNetwork};
use vswitch_proto::id::{MacAddr, Name};

/// As glibc numbers the real-time signals that programs may use.
const SIGNAL_RTMIN: i32 = 34;
const SIGNAL_MAX: i32 = 64;

/// Where the daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket(pub PathBuf);

impl Socket {
    pub const DEFAULT: &'static str = "unix:///run/vswitch/vswitchd.sock";
}

impl FromStr for Socket {
    type Err = String;

    /// An empty value, as from `VSWITCH_HOST=`, means the default.
    fn from_str(text: &str) -> Result<Socket, String> {
        let text = if text.is_empty() { Socket::DEFAULT } else { text };
        match text.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => Ok(Socket(path.into())),
            Some(_) => {
                Err("the path of the socket must begin with a slash, as unix:///run/vswitch.sock".into())
            }
            None => Err("only unix:///PATH is served".into()),
        }
    }
}

/// `KEY=VALUE`, or `KEY` with an empty value.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { Err("KEY=VALUE is wanted".into()) } else { Ok((key.into(), value.into())) }
}

pub fn aux_address(text: &str) -> Result<(String, IpAddr), String> {
    let (name, address) = text.split_once('=').ok_or("NAME=IP is wanted")?;
    if name.is_empty() {
        return Err("NAME=IP is wanted".into());
    }
    let address = address.parse().map_err(|_| format!("'{address}' is no IP address"))?;
    Ok((name.into(), address))
}

/// `KEY=VALUE`, or `KEY` for a variable of this environment.
pub fn environment(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('=') {
        return Err("KEY=VALUE or KEY is wanted".into());
    }
    Ok(text.into())
}

/// `TERM`, `SIGTERM` or `15`, to the name without `SIG`.
pub fn signal(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let signal = match upper.parse::<i32>() {
        Ok(number) => Signal::try_from(number),
        Err(_) if upper.starts_with("SIG") => upper.parse(),
        Err(_) => format!("SIG{upper}").parse(),
    };
    match signal {
        Ok(signal) => Ok(signal.as_str().trim_start_matches("SIG").into()),
        Err(_) => Err("no such signal; name it as TERM, SIGTERM or 15".into()),
    }
}

/// `TERM`, `SIGTERM`, `15`, or a real-time signal as `RTMIN+3`, to its number.
pub fn signal_number(text: &str) -> Result<i32, String> {
    let bad = || "no such signal; name it as TERM, SIGTERM, RTMIN+3 or 15".to_owned();
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = if let Ok(number) = upper.parse::<i32>() {
        Some(number)
    } else if let Some(after) = name.strip_prefix("RTMIN") {
        if after.is_empty() { Some(SIGNAL_RTMIN) } else { offset(after, '+').map(|n| SIGNAL_RTMIN + n) }
    } else if let Some(before) = name.strip_prefix("RTMAX") {
        if before.is_empty() { Some(SIGNAL_MAX) } else { offset(before, '-').map(|n| SIGNAL_MAX - n) }
    } else {
        format!("SIG{name}").parse::<Signal>().ok().map(|signal| signal as i32)
    };
    number.filter(|number| (1..=SIGNAL_MAX).contains(number)).ok_or_else(bad)
}

/// The distance from a real-time signal, at most that between the first and the last.
fn offset(text: &str, sign: char) -> Option<i32> {
    text.strip_prefix(sign)?.parse().ok().filter(|offset| (0..=SIGNAL_MAX - SIGNAL_RTMIN).contains(offset))
}

/// Lines of a log: a number, or all of them.
pub fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" => Ok(Tail(None)),
        _ => text.parse().map(|n| Tail(Some(n))).map_err(|_| "a number of lines or 'all' is wanted".into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tail(pub Option<u64>);

/// A network with what is asked of it: `NAME`, or `name=NAME,ip=IP,ip6=IP,mac-address=MAC,alias=ALIAS`.
/// `default` stands for `bridge`, as in docker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkAttachment(pub RunNetwork);

impl FromStr for NetworkAttachment {
    type Err = String;

    fn from_str(text: &str) -> Result<NetworkAttachment, String> {
        if !text.contains('=') {
            return named(text, EndpointConfig::default());
        }
        let mut network = "";
        let mut endpoint = EndpointConfig::default();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("'{field}' is not KEY=VALUE"))?;
            match key {
                "name" => network = value,
                "ip" => endpoint.ipv4 = Some(value.parse::<Ipv4Addr>().map_err(|e| bad(value, e))?),
                "ip6" => endpoint.ipv6 = Some(value.parse::<Ipv6Addr>().map_err(|e| bad(value, e))?),
                "mac-address" => endpoint.mac = Some(value.parse::<MacAddr>().map_err(|e| bad(value, e))?),
                "alias" => endpoint.aliases.push(value.parse::<Name>().map_err(|e| bad(value, e))?),
                _ => {
                    return Err(format!("unknown key '{key}'; known are name, ip, ip6, mac-address, alias"));
                }
            }
        }
        named(network, endpoint)
    }
}

fn named(network: &str, endpoint: EndpointConfig) -> Result<NetworkAttachment, String> {
    if network.is_empty() {
        return Err("the name of a network is wanted".into());
    }
    let network = if network == "default" { "bridge" } else { network };
    Ok(NetworkAttachment(RunNetwork { network: network.into(), endpoint }))
}

fn bad(value: &str, error: impl std::fmt::Display) -> String {
    format!("'{value}': {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers() {
        for (text, number) in [
            ("TERM", 15),
            ("sigint", 2),
            ("9", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(signal_number(text), Ok(number), "{text}");
        }
        for bad in ["", "0", "65", "SIG", "NOPE", "RTMIN+31", "RTMIN-1", "RTMAX+1", "RTMIN+x", "SIGSIGTERM"] {
            assert!(signal_number(bad).is_err(), "{bad}");
        }
    }
}
