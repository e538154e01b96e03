//! Two hosts, each with a bridge and a vxlan device of the kernel, and a veth pair as the wire between them.

use super::bridge::{add_bridge, plug};
use super::{Parts, Unavailable, configure, container, host, need_program};
use crate::lab::process::{self, SHORT};
use crate::lab::{Lab, Netns};
use crate::machine;

const UNDERLAY_MTU: usize = 1500;
/// Less the headers of VXLAN over IPv4.
const MTU: usize = UNDERLAY_MTU - 50;

/// What the wire takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Underlay {
    /// A frame that stands for many segments stays one from container to container, which only a virtual wire can do.
    PassesGso,
    /// Segments of the MTU, with their checksums, as for a network card without offloads for tunnels.
    MustSegment,
}

pub(super) fn set_up(lab: &Lab, underlay: Underlay) -> anyhow::Result<Parts> {
    let (left, right) = (host(lab, 0), host(lab, 1));
    left.ip(&[format!(
        "link add wire mtu {UNDERLAY_MTU} type veth peer name wire netns {}",
        right.path().display()
    )])?;
    for (index, host) in [left, right].into_iter().enumerate() {
        if underlay == Underlay::MustSegment {
            cut_segments(host)?;
        }
        let (own, other) = (index + 1, 2 - index);
        host.ip(&[
            format!("address add 192.168.99.{own}/24 dev wire"),
            format!("link set dev wire mtu {UNDERLAY_MTU} up"),
        ])?;
        host.ip(&[format!(
            "link add vxlan0 type vxlan id 99 local 192.168.99.{own} remote 192.168.99.{other} dstport 4789 dev wire"
        )])
        .map_err(|error| Unavailable(format!("this kernel makes no vxlan device ({error})")))?;
        add_bridge(host, MTU)?;
        host.ip(&[format!("link set dev vxlan0 mtu {MTU} master br0 up")])?;
        plug(host, container(lab, index), "port0")?;
        configure(lab, index, MTU)?;
    }
    Ok(Parts { version: Some(machine::kernel_release()?), switch: Vec::new(), helpers: Vec::new() })
}

fn cut_segments(host: &Netns) -> anyhow::Result<()> {
    let ethtool = need_program("ethtool", "ethtool")?;
    let mut command = host.command(ethtool);
    command.args(["-K", "wire", "tx-udp_tnl-segmentation", "off", "tx-udp_tnl-csum-segmentation", "off"]);
    command.args(["tso", "off", "gso", "off", "gro", "off", "tx", "off"]);
    process::run(command, SHORT)?;
    Ok(())
}
