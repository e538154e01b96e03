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

/// Whether `ps` and `port ls` say that it is served.
fn assert_served(lab: &Lab, name: &str, is_served: bool) {
    let state = if is_served { "running" } else { "exited" };
    let row = lab.ok(&["ps", "-a", &format!("--filter=name=^{name}$"), "--format={{.State}}"]);
    assert_eq!(row.trim_end(), state, "{name}");
    let rows = lab.ok(&["port", "ls"]);
    assert_eq!(rows.contains(name), is_served, "{name}: {rows}");
}

#[test]
fn a_namespace_that_is_replaced_while_the_daemon_is_down_is_not_taken_for_the_old_one() {
    let mut lab = Lab::new();
    lab.sh("ip netns add outside; ip netns add kept");
    // The same process has another namespace later.
    let script = "until [ -e /tmp/go ]; do sleep 0.1; done; exec unshare --net sleep 100000";
    let process = Process::spawn(&lab, &["unshare", "--net", "sh", "-c", script]);
    let netns = lab.path(format!("/proc/{}/ns/net", process.pid()));
    let own = fs::read_link(lab.path("/proc/1/ns/net")).unwrap();
    eventually("the process has its namespace", || {
        ensure!(fs::read_link(&netns)? != own);
        Ok(())
    });
    lab.ok(&["adopt", "--netns=/run/netns/kept", "--name=kept"]);
    lab.ok(&["adopt", "--netns=/run/netns/outside", "--name=by-path"]);
    lab.ok(&["adopt", &format!("--pid={}", process.pid()), "--name=by-pid"]);
    let replaced = ["by-path", "by-pid"];
    let addresses = replaced.map(|name| lab.address(name, "bridge"));

    assert_eq!(lab.term(), 0, "{}", lab.log());
    let before = fs::read_link(&netns).unwrap();
    // The new one has the inode number of the old one, as a rule.
    lab.sh("ip netns del outside; ip netns add outside; touch /tmp/go");
    eventually("the process has another namespace", || {
        ensure!(fs::read_link(&netns)? != before);
        Ok(())
    });
    lab.start();
    for name in replaced {
        eventually(&format!("{name} is noticed to be gone"), || {
            let state = lab.inspect(name).state;
            ensure!(!state.running && state.error.contains("namespace is gone"), "{state:?}");
            Ok(())
        });
        assert_served(&lab, name, false);
    }
    let inside = |target: &str| format!("nsenter --net={target} ip -o link");
    let process_netns = format!("/proc/{}/ns/net", process.pid());
    for target in ["/run/netns/outside", &process_netns] {
        let links = lab.sh(&inside(target));
        assert!(!links.contains("eth0"), "the new one is left alone: {links}");
    }
    // The one that was not replaced goes on, and what the others had is free.
    assert_served(&lab, "kept", true);
    lab.sh("ip netns exec kept busybox ping -c 1 -W 10 172.17.0.1");
    lab.run_idle("next", &[&format!("--ip={}", addresses[0])]);
    lab.sh(&format!("ip netns exec kept busybox ping -c 1 -W 10 {}", addresses[0]));

    // Whoever wants the new one says so, and that is kept as well.
    lab.ok(&["start", "by-path", "by-pid"]);
    for _ in 0..2 {
        for name in ["by-path", "by-pid", "kept"] {
            assert_served(&lab, name, true);
        }
        for target in ["/run/netns/outside", &process_netns] {
            lab.sh(&format!("nsenter --net={target} busybox ping -c 1 -W 10 172.17.0.1"));
        }
        lab.kill9();
        lab.start();
    }
    lab.ok(&["rm", "-f", "by-path", "by-pid", "kept"]);
}
