//! The kernel's bridge: a veth pair for each container.

use super::{INTERFACE, Parts, configure, container, host};
use crate::lab::{Lab, Netns};
use crate::machine;

const MTU: usize = 1500;

pub(super) fn set_up(lab: &Lab) -> anyhow::Result<Parts> {
    let host = host(lab, 0);
    add_bridge(host, MTU)?;
    for index in 0..2 {
        plug(host, container(lab, index), &format!("port{index}"))?;
        configure(lab, index, MTU)?;
    }
    Ok(Parts { version: Some(machine::kernel_release()?), switch: Vec::new(), helpers: Vec::new() })
}

/// A bridge `br0` that only forwards: no spanning tree, no snooping.
pub(super) fn add_bridge(host: &Netns, mtu: usize) -> anyhow::Result<()> {
    host.ip(&[
        String::from("link add br0 type bridge stp_state 0 forward_delay 0 mcast_snooping 0"),
        format!("link set dev br0 mtu {mtu} up"),
    ])
}

/// Connects a container to the host's bridge.
pub(super) fn plug(host: &Netns, container: &Netns, port: &str) -> anyhow::Result<()> {
    host.ip(&[
        format!("link add {port} type veth peer name {INTERFACE} netns {}", container.path().display()),
        format!("link set dev {port} master br0 up"),
    ])
}
