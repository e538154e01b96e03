//! Namespaces that somebody else made: given a port, and given back as they were.

use std::fs;

use anyhow::ensure;
use vswitch_tests::Lab;
use vswitch_tests::process::Process;
use vswitch_tests::wait::eventually;

/// A process in a network namespace of its own.
fn process_in_a_namespace(lab: &Lab) -> Process {
    let process = Process::spawn(lab, &["unshare", "--net", "sleep", "100000"]);
    let of = |pid: u32| fs::read_link(lab.path(format!("/proc/{pid}/ns/net")));
    eventually("the process has its namespace", || {
        ensure!(of(process.pid())? != of(1)?);
        Ok(())
    });
    process
}

fn in_netns(lab: &Lab, command: &str) -> String {
    lab.sh(&format!("ip netns exec outside {command}"))
}

#[test]
fn by_path() {
    let lab = Lab::new();
    lab.sh("ip netns add outside; ip -n outside tuntap add own0 mode tap");
    let untouched = in_netns(&lab, "ip addr");
    lab.run_idle("lab", &[]);
    let id = lab.ok(&["adopt", "--netns", "/run/netns/outside", "--name", "outside"]);
    assert_eq!(id.trim_end().len(), 64, "{id}");
    let shown = lab.inspect("outside");
    assert_eq!((shown.kind.as_str(), shown.host_config.netns.as_str()), ("adopted", "/run/netns/outside"));
    assert_eq!(shown.network_settings.networks["bridge"].ip_address, "172.17.0.3");
    let addresses = in_netns(&lab, "ip addr");
    assert!(addresses.contains("172.17.0.3/16") && addresses.contains("02:42:ac:11:00:03"), "{addresses}");
    for target in ["172.17.0.2", "172.17.0.1"] {
        in_netns(&lab, &format!("busybox ping -c 1 -W 10 {target}"));
    }
    lab.assert_reaches("lab", "outside");
    lab.ok(&["network", "create", "net"]);
    lab.ok(&["network", "connect", "net", "outside"]);
    assert!(in_netns(&lab, "ip addr").contains("172.18.0.2/16"));
    lab.ok(&["network", "disconnect", "net", "outside"]);
    assert!(!in_netns(&lab, "ip addr").contains("eth1"));
    // There is no process to end: giving it back is all that removing means.
    assert_eq!(lab.ok(&["rm", "-f", "outside"]), "outside\n");
    assert_eq!(in_netns(&lab, "ip addr"), untouched);
    assert_eq!(in_netns(&lab, "ip route"), "");
}

#[test]
fn by_process() {
    let lab = Lab::new();
    let process = process_in_a_namespace(&lab);
    let pid = process.pid().to_string();
    lab.run_idle("lab", &[]);
    lab.ok(&["network", "create", "--subnet", "10.3.0.0/24", "net"]);
    lab.ok(&["network", "connect", "net", "lab"]);
    lab.ok(&["adopt", "--pid", &pid, "--name", "outside", "--net", "net"]);
    lab.sh(&format!("nsenter --net=/proc/{pid}/ns/net busybox ping -c 1 -W 10 10.3.0.2"));
    lab.assert_reaches("lab", "outside.net");
    let row = lab.ok(&["ps", "--filter=name=outside", "--format={{.Names}} {{.State}}"]);
    assert_eq!(row, "outside running\n");
    lab.ok(&["rm", "-f", "outside"]);
    assert!(lab.path(format!("/proc/{pid}")).exists(), "the process runs on");
    let links = lab.sh(&format!("nsenter --net=/proc/{pid}/ns/net ip -o link"));
    assert!(!links.contains("eth0"), "{links}");
    lab.assert_cannot_reach("lab", "10.3.0.3");
}

#[test]
fn a_namespace_that_dies_is_noticed() {
    let lab = Lab::new();
    let process = process_in_a_namespace(&lab);
    lab.ok(&["adopt", "--pid", &process.pid().to_string(), "--name", "process"]);
    lab.sh("ip netns add outside");
    lab.ok(&["adopt", "--netns", "/run/netns/outside", "--name", "path"]);
    drop(process);
    lab.sh("ip netns del outside");
    for name in ["process", "path"] {
        eventually(&format!("{name} is no longer running"), || {
            let state = lab.inspect(name).state;
            ensure!(!state.running, "{state:?}");
            Ok(())
        });
    }
    assert!(lab.inspect_network("bridge").containers.is_empty());
    lab.ok(&["rm", "process", "path"]);
    lab.run_idle("next1", &["--ip=172.17.0.2"]);
    lab.run_idle("next2", &["--ip=172.17.0.3"]);
}

#[test]
fn adopted_namespaces_survive_a_restart_of_the_daemon() {
    let mut lab = Lab::new();
    let process = process_in_a_namespace(&lab);
    lab.sh("ip netns add outside; ip netns add gone");
    lab.ok(&["adopt", "--pid", &process.pid().to_string(), "--name", "process"]);
    lab.ok(&["adopt", "--netns", "/run/netns/outside", "--name", "path"]);
    lab.ok(&["adopt", "--netns", "/run/netns/gone", "--name", "gone"]);
    let before = [lab.inspect("process"), lab.inspect("path")];
    lab.kill9();
    lab.sh("ip netns del gone");
    lab.start();
    assert_eq!([lab.inspect("process"), lab.inspect("path")], before);
    in_netns(&lab, "busybox ping -c 1 -W 10 172.17.0.2");
    eventually("the one that went is noticed", || {
        ensure!(!lab.inspect("gone").state.running);
        Ok(())
    });
    lab.ok(&["rm", "-f", "process", "path", "gone"]);
    assert!(!in_netns(&lab, "ip -o link").contains("eth0"));
}

#[test]
fn an_interface_name_that_is_taken_is_left_alone() {
    let lab = Lab::new();
    lab.sh("ip netns add outside; ip -n outside tuntap add eth0 mode tap; ip -n outside addr add 10.9.9.9/24 dev eth0");
    let untouched = in_netns(&lab, "ip addr");
    let adopted = lab.ctl(&["adopt", "--netns", "/run/netns/outside", "--name", "outside"]);
    // Another name or a refusal are both fine; taking the interface over is not.
    let addresses = in_netns(&lab, "ip addr show eth0");
    assert!(addresses.contains("10.9.9.9/24") && !addresses.contains("172.17."), "{addresses}");
    if adopted.code == 0 {
        in_netns(&lab, "busybox ping -c 1 -W 10 172.17.0.1");
        lab.ok(&["rm", "-f", "outside"]);
    } else {
        assert_eq!(adopted.stderr.lines().count(), 1, "{adopted:?}");
        assert_eq!(lab.ok(&["ps", "-aq"]), "");
    }
    assert_eq!(in_netns(&lab, "ip addr"), untouched);
}

#[test]
fn a_namespace_that_is_replaced_at_once_is_not_taken_for_the_old_one() {
    let lab = Lab::new();
    for round in 0..5 {
        lab.sh("ip netns add outside");
        lab.ok(&["adopt", "--netns", "/run/netns/outside", "--name", "first"]);
        lab.sh("ip netns del outside; ip netns add outside");
        eventually(&format!("the first one is noticed to be gone, round {round}"), || {
            let state = lab.inspect("first").state;
            ensure!(!state.running, "{state:?}");
            Ok(())
        });
        assert!(!in_netns(&lab, "ip -o link").contains("eth0"), "the second one is left alone");
        lab.ok(&["rm", "first"]);
        lab.sh("ip netns del outside");
    }
}

#[test]
fn a_network_is_not_connected_in_the_namespace_that_has_replaced_another() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "net"]);
    lab.sh("ip netns add outside");
    lab.ok(&["adopt", "--netns", "/run/netns/outside", "--name", "first"]);
    lab.sh("ip netns del outside; ip netns add outside");
    // Refused, or carried out for one that has ended by then.
    lab.ctl(&["network", "connect", "net", "first"]);
    assert!(!in_netns(&lab, "ip -o link").contains("eth"), "the second one is left alone");
}
