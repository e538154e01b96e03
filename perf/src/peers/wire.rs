//! The wire between two hosts: a veth pair `wire`, addresses 192.168.99.1 and .2.

use super::{host, need_program};
use crate::lab::process::{self, SHORT};
use crate::lab::{Lab, Netns};

/// Its interface on either host.
pub(super) const INTERFACE: &str = "wire";

const MTU: usize = 1500;

/// Of a container behind it: less the headers of VXLAN over IPv4.
pub(super) const INNER_MTU: usize = MTU - 50;

/// What the wire takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    /// A frame that stands for many segments stays one from host to host, which only a virtual wire can do.
    PassesGso,
    /// Packets of the MTU with their checksums, cut and summed by the sender's kernel (or switch), as for a network
    /// card without any offload for tunnels. What arrives may be put together by the receiver's kernel (GRO), as any
    /// card's driver has it.
    MustSegment,
}

/// The features of the device that go off for [`Wire::MustSegment`], on both hosts; GRO goes on.
const CUT: [&str; 12] = [
    "tx-udp_tnl-segmentation",
    "off",
    "tx-udp_tnl-csum-segmentation",
    "off",
    "tso",
    "off",
    "gso",
    "off",
    "tx",
    "off",
    "gro",
    "on",
];

/// Joins the two hosts.
pub(super) fn lay(lab: &Lab, wire: Wire) -> anyhow::Result<()> {
    let (left, right) = (host(lab, 0), host(lab, 1));
    left.ip(&[format!(
        "link add {INTERFACE} mtu {MTU} type veth peer name {INTERFACE} netns {}",
        right.path().display()
    )])?;
    for (index, host) in [left, right].into_iter().enumerate() {
        if wire == Wire::MustSegment {
            cut_segments(host)?;
        }
        host.ip(&[
            format!("address add {}/24 dev {INTERFACE}", address(index)),
            format!("link set dev {INTERFACE} mtu {MTU} up"),
        ])?;
    }
    Ok(())
}

/// Of a host on the wire.
pub(super) fn address(index: usize) -> String {
    format!("192.168.99.{}", index + 1)
}

fn cut_segments(host: &Netns) -> anyhow::Result<()> {
    let ethtool = need_program("ethtool", "ethtool")?;
    let mut command = host.command(ethtool);
    command.args(["-K", INTERFACE]).args(CUT);
    process::run(command, SHORT)?;
    Ok(())
}
