//! The bare forwarder, a process of this program: see [`crate::probe::bare`].

use std::path::Path;

use vswitch::io::netlink::TX_QUEUE_FRAMES;

use super::{INTERFACE, Parts, configure, container, host};
use crate::lab::Lab;
use crate::lab::process::{Process, SHORT};

pub(super) fn set_up(lab: &Lab, dir: &Path) -> anyhow::Result<Parts> {
    let mut command = host(lab, 0).rig();
    command.args(["bare", "--interface", INTERFACE, "--between"]);
    command.arg(container(lab, 0).path()).arg(container(lab, 1).path());
    let mut forwarder = Process::start("the bare forwarder", command, dir)?;
    forwarder.wait_for_line("ready", SHORT)?;
    for index in 0..2 {
        configure(lab, index, 1500)?;
        // As long as those of vswitch: a queue that is full drops.
        container(lab, index).ip(&[format!("link set dev {INTERFACE} txqueuelen {TX_QUEUE_FRAMES}")])?;
    }
    Ok(Parts { version: None, switch: vec![forwarder], helpers: Vec::new() })
}
