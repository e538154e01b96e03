//! Containers that are stopped: what stays theirs, and what may be gone when they start again.

use anyhow::ensure;
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab};

/// Addresses of both families and the MAC address.
fn addresses(lab: &Lab, container: &str, network: &str) -> [String; 3] {
    let settings = lab.inspect(container).network_settings;
    let endpoint = &settings.networks[network];
    [endpoint.ip_address.clone(), endpoint.global_ipv6_address.clone(), endpoint.mac_address.clone()]
}

fn wait_until_gone(lab: &Lab, network: &str) {
    eventually(&format!("network {network} is gone"), || {
        let names = lab.ok(&["network", "ls", "--format={{.Name}}"]);
        ensure!(!names.lines().any(|name| name == network), "{names}");
        Ok(())
    });
}

#[test]
fn addresses_stay_over_stop_and_start() {
    let mut lab = Lab::new();
    let small = ["network", "create", "--ipv6", "--subnet=10.6.0.0/29", "--subnet=fd00:6::/125", "net"];
    lab.ok(&small);
    lab.run_idle("a", &["--net=net"]);
    lab.run_idle("b", &["--net=net", "--mac-address=02:00:00:00:00:0b"]);
    let before = ["a", "b"].map(|name| addresses(&lab, name, "net"));
    lab.ok(&["stop", "--time=0", "a", "b"]);
    // As many others as there are addresses, and once around.
    for n in 0..6 {
        let name = format!("other{n}");
        lab.run_idle(&name, &["--net=net"]);
        let given = addresses(&lab, &name, "net");
        assert!(before.iter().flatten().all(|one| !given.contains(one)), "{given:?} beside {before:?}");
        lab.ok(&["rm", "-f", &name]);
    }
    assert_eq!(lab.term(), 0);
    lab.start();
    lab.ok(&["start", "b", "a"]);
    assert_eq!(["a", "b"].map(|name| addresses(&lab, name, "net")), before);
    lab.assert_reaches("a", "b");
    // Whoever asks for an address of one that is stopped gets it, and that one another.
    lab.ok(&["stop", "--time=0", "a"]);
    lab.run_idle("thief", &["--net=net", &format!("--ip={}", before[0][0])]);
    lab.ok(&["start", "a"]);
    assert_ne!(addresses(&lab, "a", "net")[0], before[0][0]);
    lab.assert_reaches("a", "b");
}

#[test]
fn leased_addresses_stay_over_stop_and_start() {
    let cluster = Cluster::joined(2);
    let [here, there] = [&cluster.labs[0], &cluster.labs[1]];
    here.ok(&["network", "create", "-d", "overlay", "--ipv6", "net"]);
    here.run_idle("a", &["--net=net"]);
    let before = addresses(here, "a", "net");
    here.ok(&["stop", "--time=0", "a"]);
    eventually("the other host knows the network", || {
        let names = there.ok(&["network", "ls", "--format={{.Name}}"]);
        ensure!(names.lines().any(|name| name == "net"), "{names}");
        Ok(())
    });
    for name in ["b", "c"] {
        there.run_idle(name, &["--net=net"]);
    }
    here.ok(&["start", "a"]);
    assert_eq!(addresses(here, "a", "net"), before);
    here.ok(&["stop", "--time=0", "a"]);
    there.run_idle("thief", &["--net=net", &format!("--ip={}", before[0])]);
    here.ok(&["start", "a"]);
    assert_ne!(addresses(here, "a", "net")[0], before[0]);
}

#[test]
fn one_whose_overlay_network_was_removed_elsewhere_does_not_start() {
    let cluster = Cluster::joined(2);
    let [here, there] = [&cluster.labs[0], &cluster.labs[1]];
    for (name, command) in
        [("removed", &["network", "rm", "removed"][..]), ("pruned", &["network", "prune", "-f"][..])]
    {
        here.ok(&["network", "create", "-d", "overlay", name]);
        here.run_idle("c", &[&format!("--net={name}")]);
        here.ok(&["stop", "--time=0", "c"]);
        eventually("nobody uses the network", || {
            let network = there.inspect_network(name);
            ensure!(network.containers.is_empty(), "{network:?}");
            Ok(())
        });
        there.ok(command);
        wait_until_gone(here, name);
        let refused = here.fails(&["start", "c"], 3);
        assert!(
            refused.contains(&format!("network {name} that container c was connected to is gone")),
            "{refused}"
        );
        assert!(!here.inspect("c").state.running);
        // Another one of the same name is another one.
        here.ok(&["network", "create", name]);
        here.fails(&["start", "c"], 3);
        here.ok(&["network", "disconnect", "-f", name, "c"]);
        here.ok(&["network", "connect", name, "c"]);
        here.ok(&["start", "c"]);
        here.ok(&["rm", "-f", "c"]);
    }
}

#[test]
fn one_whose_network_is_gone_is_disconnected_by_name() {
    let mut lab = Lab::new();
    lab.ok(&["network", "create", "net"]);
    lab.run_idle("c", &["--net=net"]);
    lab.ok(&["stop", "--time=0", "c"]);
    lab.ok(&["network", "rm", "net"]);
    let refused = lab.fails(&["start", "c"], 3);
    assert!(refused.contains("network net that container c was connected to is gone"), "{refused}");
    // It is known after a restart as well.
    lab.kill9();
    lab.start();
    lab.ok(&["network", "disconnect", "-f", "net", "c"]);
    lab.ok(&["network", "connect", "bridge", "c"]);
    lab.ok(&["start", "c"]);
    lab.assert_reaches("c", "172.17.0.1");
    // The id goes on working.
    let id = lab.ok(&["network", "create", "other"]);
    lab.ok(&["network", "connect", "other", "c"]);
    lab.ok(&["stop", "--time=0", "c"]);
    lab.ok(&["network", "rm", "other"]);
    lab.ok(&["network", "disconnect", id.trim_end(), "c"]);
    lab.ok(&["start", "c"]);
}
