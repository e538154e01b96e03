//! The switches that are measured side by side. Each one connects two namespaces, "containers" as far as it can tell,
//! whose interface is called `eth0`.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::lab::process::{self, Process};
use crate::lab::{Lab, Netns, find_program};
use crate::machine;
use crate::probe::frames;

mod bare;
mod bridge;
mod hosts;
mod ovs;
mod vde;
pub mod vswitch;
mod vxlan;
mod wire;

use wire::Wire;

/// Of every container.
pub const INTERFACE: &str = "eth0";

/// How long a peer may take until its containers reach each other.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    Vswitch,
    Bridge,
    Bare,
    VswitchEpoll,
    Ovs,
    OvsTso,
    Vde,
    VswitchVxlan,
    KernelVxlan,
    VswitchVxlanSeg,
    KernelVxlanSeg,
}

impl PeerKind {
    pub const ALL: [PeerKind; 11] = [
        PeerKind::Vswitch,
        PeerKind::Bridge,
        PeerKind::Bare,
        PeerKind::VswitchEpoll,
        PeerKind::Ovs,
        PeerKind::OvsTso,
        PeerKind::Vde,
        PeerKind::VswitchVxlan,
        PeerKind::KernelVxlan,
        PeerKind::VswitchVxlanSeg,
        PeerKind::KernelVxlanSeg,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            PeerKind::Vswitch => "vswitch",
            PeerKind::Bridge => "bridge",
            PeerKind::Bare => "bare",
            PeerKind::VswitchEpoll => "vswitch-epoll",
            PeerKind::Ovs => "ovs",
            PeerKind::OvsTso => "ovs-tso",
            PeerKind::Vde => "vde",
            PeerKind::VswitchVxlan => "vswitch-vxlan",
            PeerKind::KernelVxlan => "kernel-vxlan",
            PeerKind::VswitchVxlanSeg => "vswitch-vxlan-seg",
            PeerKind::KernelVxlanSeg => "kernel-vxlan-seg",
        }
    }

    pub const fn about(self) -> &'static str {
        match self {
            PeerKind::Vswitch => "vswitchd with its defaults, two adopted namespaces",
            PeerKind::Bridge => "the kernel's bridge, with veth pairs",
            PeerKind::Bare => "a loop of read and write between two TAPs with vnet_hdr, no lookup",
            PeerKind::VswitchEpoll => "the same as vswitch, with `--engine epoll`",
            PeerKind::Ovs => "Open vSwitch in userspace (netdev), TAPs, TSO off as by default",
            PeerKind::OvsTso => "Open vSwitch in userspace (netdev), TAPs, TSO on",
            PeerKind::Vde => "vde_switch with vde_plug2tap",
            PeerKind::VswitchVxlan => {
                "two hosts with vswitchd, joined, a container each in an overlay network; the wire passes GSO"
            }
            PeerKind::VswitchVxlanSeg => "two hosts with vswitchd, joined; segments are cut before the wire",
            PeerKind::KernelVxlan => {
                "two hosts with the kernel's bridge and vxlan; the wire between passes GSO"
            }
            PeerKind::KernelVxlanSeg => {
                "two hosts with the kernel's bridge and vxlan; segments are cut before the wire"
            }
        }
    }

    /// Whether it is this project's.
    pub const fn is_ours(self) -> bool {
        matches!(
            self,
            PeerKind::Vswitch | PeerKind::VswitchEpoll | PeerKind::VswitchVxlan | PeerKind::VswitchVxlanSeg
        )
    }

    /// Whether the first goals of the project are about it: it is repeated more often.
    pub const fn is_main(self) -> bool {
        matches!(self, PeerKind::Vswitch | PeerKind::Bridge | PeerKind::Bare)
    }

    /// Whether a goal compares it, or compares another with it.
    pub const fn is_in_goals(self) -> bool {
        !matches!(self, PeerKind::OvsTso)
    }

    /// What of this project's is to be compared with it, beside vswitch with its defaults.
    pub const fn counterpart(self) -> Option<PeerKind> {
        match self {
            PeerKind::Bare => Some(PeerKind::VswitchEpoll),
            PeerKind::KernelVxlan => Some(PeerKind::VswitchVxlan),
            PeerKind::KernelVxlanSeg => Some(PeerKind::VswitchVxlanSeg),
            _ => None,
        }
    }
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a peer cannot take part, through no fault of anybody: it is not installed, or the kernel lacks it.
#[derive(Debug)]
pub struct Unavailable(pub String);

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}

/// Finds a program or says which package has it.
fn need_program(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    find_program(name)
        .ok_or_else(|| anyhow!(Unavailable(format!("{name} is not installed (apt install {package})"))))
}

/// One end of what is measured.
#[derive(Debug, Clone)]
pub struct Station {
    pub netns: Netns,
    pub ip: Ipv4Addr,
    pub mac: [u8; 6],
    pub mtu: usize,
}

impl Station {
    /// Reads what a namespace's `eth0` has.
    pub fn of(netns: &Netns) -> anyhow::Result<Station> {
        Station::of_interface(netns, INTERFACE)
    }

    pub fn of_interface(netns: &Netns, interface: &str) -> anyhow::Result<Station> {
        let found = netns.ip_json(&["address", "show", "dev", interface])?;
        let link = &found[0];
        let address =
            link["addr_info"].as_array().into_iter().flatten().find(|info| info["family"] == "inet");
        let ip =
            address.and_then(|info| info["local"].as_str()).context("an interface without an address")?;
        let mac = link["address"].as_str().context("an interface without a MAC address")?;
        Ok(Station {
            netns: netns.clone(),
            ip: ip.parse()?,
            mac: frames::parse_mac(mac).map_err(|error| anyhow!(error))?,
            mtu: link["mtu"].as_u64().context("an interface without an MTU")? as usize,
        })
    }

    /// Frames that arrived here.
    pub fn received_frames(&self) -> anyhow::Result<u64> {
        self.netns.enter(|| machine::received_frames(INTERFACE))
    }

    /// Waits until another station answers.
    pub fn reach(&self, other: &Station, patience: Duration) -> anyhow::Result<()> {
        let mut command = self.netns.rig();
        command.args(["ping", "--first", "--to", &other.ip.to_string()]);
        command.args(["--seconds", &patience.as_secs_f64().to_string()]);
        process::run(command, patience + process::SHORT)?;
        Ok(())
    }
}

/// A peer that is set up. Dropping it takes it down.
#[derive(Debug)]
pub struct Peer {
    pub kind: PeerKind,
    pub version: Option<String>,
    pub a: Station,
    pub b: Station,
    /// What forwards, and nothing else. Empty where the kernel does.
    switch: Vec<Process>,
    // Fields are dropped in this order: helpers, namespaces, files.
    _helpers: Vec<Process>,
    _lab: Lab,
    _dir: TempDir,
}

/// What a peer's module has made before its stations are known.
struct Parts {
    version: Option<String>,
    switch: Vec<Process>,
    helpers: Vec<Process>,
}

/// Where the rig finds what belongs to this project.
#[derive(Debug, Clone)]
pub struct Setting {
    pub bin_dir: PathBuf,
}

impl Peer {
    pub fn set_up(kind: PeerKind, setting: &Setting) -> anyhow::Result<Peer> {
        let dir = tempfile::Builder::new().prefix("vswitch-perf-").tempdir()?;
        // Two containers, and the host or hosts of the switch.
        let lab = Lab::new(4, dir.path())?;
        let parts = match kind {
            PeerKind::Vswitch => vswitch::set_up(&lab, dir.path(), setting, &[]),
            PeerKind::VswitchEpoll => vswitch::set_up(&lab, dir.path(), setting, &["--engine", "epoll"]),
            PeerKind::Bridge => bridge::set_up(&lab),
            PeerKind::Bare => bare::set_up(&lab, dir.path()),
            PeerKind::Ovs => ovs::set_up(&lab, dir.path(), false),
            PeerKind::OvsTso => ovs::set_up(&lab, dir.path(), true),
            PeerKind::Vde => vde::set_up(&lab, dir.path()),
            PeerKind::VswitchVxlan => hosts::set_up(&lab, dir.path(), setting, Wire::PassesGso),
            PeerKind::VswitchVxlanSeg => hosts::set_up(&lab, dir.path(), setting, Wire::MustSegment),
            PeerKind::KernelVxlan => vxlan::set_up(&lab, Wire::PassesGso),
            PeerKind::KernelVxlanSeg => vxlan::set_up(&lab, Wire::MustSegment),
        }?;
        let (a, b) = (Station::of(container(&lab, 0))?, Station::of(container(&lab, 1))?);
        a.reach(&b, PATIENCE).context("its containers do not reach each other")?;
        b.reach(&a, PATIENCE).context("its containers do not reach each other")?;
        let Parts { version, switch, helpers } = parts;
        Ok(Peer { kind, version, a, b, switch, _helpers: helpers, _lab: lab, _dir: dir })
    }

    /// Refreshes what the switch has learned and what the stations know of each other.
    pub fn warm(&mut self) -> anyhow::Result<()> {
        self.switch.iter_mut().try_for_each(Process::check_running)?;
        self.a.reach(&self.b, Duration::from_secs(5))
    }

    /// Processor time that the processes of the switch used, seconds; `None` where there are none.
    pub fn switch_cpu_s(&self) -> anyhow::Result<Option<f64>> {
        self.sum(machine::process_cpu_s)
    }

    /// Resident memory of the switch's processes, KiB; `None` where there are none.
    pub fn switch_rss_kib(&self) -> anyhow::Result<Option<f64>> {
        self.sum(|pid| Ok(machine::process_rss_kib(pid)? as f64))
    }

    fn sum(&self, of: impl Fn(u32) -> anyhow::Result<f64>) -> anyhow::Result<Option<f64>> {
        if self.switch.is_empty() {
            return Ok(None);
        }
        let mut sum = 0.0;
        for process in &self.switch {
            sum += of(process.pid())?;
        }
        Ok(Some(sum))
    }
}

fn container(lab: &Lab, index: usize) -> &Netns {
    &lab.namespaces[index]
}

fn host(lab: &Lab, index: usize) -> &Netns {
    &lab.namespaces[2 + index]
}

/// The address of a container where the peer does not give it one.
fn address(index: usize) -> String {
    format!("10.99.0.{}/24", index + 1)
}

/// Gives a container's interface its address and brings it up.
fn configure(lab: &Lab, index: usize, mtu: usize) -> anyhow::Result<()> {
    container(lab, index).ip(&[
        format!("address add {} dev {INTERFACE}", address(index)),
        format!("link set dev {INTERFACE} mtu {mtu} up"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn names_are_the_same_everywhere() {
        for kind in PeerKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
            assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.name());
        }
    }
}
