//! vde_switch, and a vde_plug2tap in each container: three processes through which every frame goes.

use std::path::Path;

use super::{INTERFACE, PATIENCE, Parts, configure, container, host, need_program};
use crate::lab::Lab;
use crate::lab::process::{self, Process, SHORT};

pub(super) fn set_up(lab: &Lab, dir: &Path) -> anyhow::Result<Parts> {
    let switch_program = need_program("vde_switch", "vde2")?;
    let plug_program = need_program("vde_plug2tap", "vde2")?;
    let socket = dir.join("vde");

    let mut version = host(lab, 0).command(&switch_program);
    version.arg("--version");
    let version = process::run(version, SHORT)?.lines().next().map(str::to_owned);

    let mut command = host(lab, 0).command(&switch_program);
    // Without a terminal it would end at once if it read its console.
    command.arg("--nostdin").arg("--sock").arg(&socket);
    let mut switch = vec![Process::start("vde_switch", command, dir)?];
    process::wait_until("the socket of vde_switch", PATIENCE, || {
        switch[0].check_running()?;
        Ok(socket.join("ctl").exists().then_some(()))
    })?;
    for index in 0..2 {
        let mut command = container(lab, index).command(&plug_program);
        command.arg("--sock").arg(&socket).arg(INTERFACE);
        let mut plug = Process::start("vde_plug2tap", command, dir)?;
        process::wait_until("the TAP of vde_plug2tap", PATIENCE, || {
            plug.check_running()?;
            Ok(container(lab, index).ip_json(&["link", "show", "dev", INTERFACE]).ok())
        })?;
        switch.push(plug);
        configure(lab, index, 1500)?;
    }
    Ok(Parts { version, switch, helpers: Vec::new() })
}
