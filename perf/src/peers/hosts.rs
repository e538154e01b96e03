//! Two hosts with a daemon each, joined in a cluster as their users join them, and one overlay network.

use std::fs;
use std::path::Path;

use super::vswitch::{Daemon, NETWORK, version};
use super::wire::{self, Wire};
use super::{PATIENCE, Parts, Setting, container, host};
use crate::lab::Lab;
use crate::lab::process;

/// Of the cluster's port.
const PORT: u16 = 7946;

pub(super) fn set_up(lab: &Lab, dir: &Path, setting: &Setting, wire: Wire) -> anyhow::Result<Parts> {
    wire::lay(lab, wire)?;
    let mut daemons = Vec::with_capacity(2);
    for index in 0..2 {
        let own = dir.join(format!("host{index}"));
        fs::create_dir(&own)?;
        let listen = format!("{}:{PORT}", wire::address(index));
        let name = format!("host{index}");
        let args = ["--listen", &listen, "--node-name", &name];
        daemons.push(Daemon::start(host(lab, index), &own, setting, &args)?);
    }
    let token = dir.join("token").display().to_string();
    let founder = format!("{}:{PORT}", wire::address(0));
    let [one, two] = [0, 1].map(|index: usize| daemons[index].control().clone());
    one.ctl(&["cluster", "init"])?;
    one.ctl(&["cluster", "token", "show", "--output", &token])?;
    two.ctl(&["cluster", "join", "--token-file", &token, &founder])?;
    one.ctl(&["network", "create", "-d", "overlay", "--subnet", "10.99.0.0/16", NETWORK])?;
    // The second host hears of the network in its own time.
    process::wait_until("the network on the other host", PATIENCE, || {
        Ok(two.ctl(&["network", "inspect", NETWORK]).ok())
    })?;
    one.adopt(container(lab, 0), "a")?;
    two.adopt(container(lab, 1), "b")?;
    let switch = daemons.into_iter().map(|daemon| daemon.process).collect();
    Ok(Parts { version: version(host(lab, 0), setting)?, switch, helpers: Vec::new() })
}
