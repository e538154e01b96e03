//! The TAP of a Docker container.

use vswitch_proto::id::{ContainerId, MacAddr};

use super::sandbox::Sandbox;
use crate::io::netlink::{self, Link, LinkConfig};
use crate::io::netns::NetNs;
use crate::io::tap::{Tap, TapConfig};

const PREFIX: &str = "vs";

/// What the interface is called while it is not in a container.
pub fn name(endpoint: &ContainerId) -> String {
    format!("{PREFIX}{}", endpoint.short())
}

/// Whether an interface of the host has such a name.
fn is_ours(interface: &str) -> bool {
    let digits = interface.strip_prefix(PREFIX);
    digits.is_some_and(|digits| digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What an interface shall be, and where it may be.
pub struct Wanted {
    pub endpoint: ContainerId,
    pub mac: MacAddr,
    pub mtu: u32,
    pub gso_bytes: u32,
    /// The network namespace that the engine has put it into.
    pub sandbox: Option<Sandbox>,
}

/// Makes the interface beside the host's own, or takes over the one that is there already: that of an earlier daemon,
/// wherever it is, and in a container also one that was kept while its lease was not in effect.
pub fn open(wanted: &Wanted, config: TapConfig) -> Result<Tap, String> {
    let host = NetNs::current().map_err(|e| e.to_string())?;
    let name = name(&wanted.endpoint);
    // A leave makes the engine move it back, which it may have done by now or not.
    if let Some(sandbox) = &wanted.sandbox
        && !has(&host, &name)?
    {
        let (mac, kept) = (wanted.mac, TapConfig { must_be_new: false, ..config });
        match sandbox.open().map(|ns| find(&ns, mac, kept)).transpose()?.flatten() {
            Some(tap) => return Ok(tap),
            None if config.must_be_new => {}
            None => return Err(absent(sandbox, mac)),
        }
    }
    let tap = Tap::open(&host, &name, config).map_err(|e| e.to_string())?;
    let link = LinkConfig {
        mac: wanted.mac,
        mtu: wanted.mtu,
        tx_queue_frames: netlink::TX_QUEUE_FRAMES,
        gso_bytes: wanted.gso_bytes,
        addresses: Vec::new(),
        gateways: Vec::new(),
        route_metric: netlink::ROUTE_METRIC,
    };
    let Err(error) = netlink::prepare(&host, &name, &link) else { return Ok(tap) };
    // What is reported is the first failure.
    let _ = tap.delete();
    Err(error.to_string())
}

fn has(ns: &NetNs, name: &str) -> Result<bool, String> {
    let links = netlink::links(ns).map_err(|e| e.to_string())?;
    Ok(links.iter().any(|link| link.is_tap && link.name == name))
}

fn absent(sandbox: &Sandbox, mac: MacAddr) -> String {
    let Sandbox { path, .. } = sandbox;
    match sandbox.open() {
        Some(_) => format!("there is no TAP with the address {mac} in {path}"),
        None => format!(
            "{path} is no network namespace here, as where the engine has mounts of its own; the container's is looked \
             for by its process, for which the engine has to answer (--docker-host)"
        ),
    }
}

/// In a container the engine has renamed it.
fn find(ns: &NetNs, mac: MacAddr, config: TapConfig) -> Result<Option<Tap>, String> {
    let links = netlink::links(ns).map_err(|e| e.to_string())?;
    let found: Option<&Link> = links.iter().find(|link| link.is_tap && link.mac == Some(mac));
    found.map(|link| Tap::open(ns, &link.name, config).map_err(|e| e.to_string())).transpose()
}

/// An interface gets the default queueing discipline again where the engine sets it up, and need not keep it; one
/// that somebody has chosen stays. `false`: it is not up in the container so far.
pub fn take_queue(sandbox: &Sandbox, mac: MacAddr) -> Result<bool, String> {
    let Some(ns) = sandbox.open() else { return Ok(false) };
    let links = netlink::links(&ns).map_err(|e| e.to_string())?;
    let found = links.iter().find(|link| link.is_tap && link.up && link.mac == Some(mac));
    let Some(link) = found else { return Ok(false) };
    netlink::take_qdisc(&ns, link).map_err(|e| e.to_string())?;
    Ok(true)
}

/// One that was kept in a container until its end, after which the engine has moved it back.
pub fn remove(endpoint: &ContainerId) -> Result<(), String> {
    let host = NetNs::current().map_err(|e| e.to_string())?;
    let name = name(endpoint);
    if !has(&host, &name)? {
        return Ok(());
    }
    let tap = Tap::open(&host, &name, TapConfig::default()).map_err(|e| e.to_string())?;
    tap.delete().map_err(|e| e.to_string())
}

/// Interfaces beside the host's own that a crash has left: of our names, of no endpoint, and of no other process.
pub fn remove_unknown(known: &[String]) {
    let Ok(host) = NetNs::current() else { return };
    for link in netlink::links(&host).unwrap_or_default() {
        if !link.is_tap || !is_ours(&link.name) || known.contains(&link.name) {
            continue;
        }
        let attached = Tap::open(&host, &link.name, TapConfig::default());
        if attached.is_ok_and(|tap| tap.delete().is_ok()) {
            tracing::info!(interface = link.name, "removed an interface that a crash has left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_enough_and_recognised() {
        let name = name(&ContainerId([0xab; 32]));
        assert_eq!(name, "vsabababababab");
        assert!(name.len() < 16 && is_ours(&name));
        for other in ["vs", "vsx", "vsabababababag", "veth12345678901", "eth0"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
