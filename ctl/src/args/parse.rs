//! Values of flags.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::signal::Signal;
use vswitch_proto::api::{EndpointConfig, RunNetwork};
use vswitch_proto::id::{MacAddr, Name};

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
