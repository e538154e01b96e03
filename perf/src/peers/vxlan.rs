//! Two hosts, each with a bridge and a vxlan device of the kernel, and a wire between them.

use super::bridge::{add_bridge, plug};
use super::wire::{self, INNER_MTU, INTERFACE, Wire};
use super::{Parts, Unavailable, configure, container, host};
use crate::lab::Lab;
use crate::machine;

pub(super) fn set_up(lab: &Lab, wire: Wire) -> anyhow::Result<Parts> {
    wire::lay(lab, wire)?;
    for index in 0..2 {
        let (host, own, other) = (host(lab, index), wire::address(index), wire::address(1 - index));
        host.ip(&[format!(
            "link add vxlan0 type vxlan id 99 local {own} remote {other} dstport 4789 dev {INTERFACE}"
        )])
        .map_err(|error| Unavailable(format!("this kernel makes no vxlan device ({error})")))?;
        add_bridge(host, INNER_MTU)?;
        host.ip(&[format!("link set dev vxlan0 mtu {INNER_MTU} master br0 up")])?;
        plug(host, container(lab, index), "port0")?;
        configure(lab, index, INNER_MTU)?;
    }
    Ok(Parts { version: Some(machine::kernel_release()?), switch: Vec::new(), helpers: Vec::new() })
}
