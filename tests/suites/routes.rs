//! Subnets beside the routes of the host: a VPN's routes keep no network from being made.

use vswitch_tests::cluster::Cluster;
use vswitch_tests::{Host, Lab};

/// A machine whose VPN has these routes.
fn with_vpn(routes: &[&str]) -> Host {
    let host = Host::new();
    host.sh("ip tuntap add vpn0 mode tun && ip addr add 192.0.2.1/24 dev vpn0 && ip link set vpn0 up");
    for route in routes {
        host.sh(&format!("ip route add {route} dev vpn0"));
    }
    host
}

const EVERYTHING: &[&str] = &["0.0.0.0/1", "128.0.0.0/1"];
const PRIVATE: &[&str] = &["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];

fn subnet(lab: &Lab, network: &str) -> String {
    lab.inspect_network(network).ipam.config[0].subnet.clone()
}

#[test]
fn the_daemon_starts_beside_a_vpn_and_makes_networks() {
    for routes in [EVERYTHING, PRIVATE] {
        let mut lab = Lab::with(with_vpn(routes), &[]);
        assert_eq!(subnet(&lab, "bridge"), "172.17.0.0/16");
        assert!(lab.log().contains("overlaps with the route"), "{}", lab.log());
        let chosen = lab.ctl(&["network", "create", "chosen"]);
        assert_eq!((chosen.code, subnet(&lab, "chosen").as_str()), (0, "172.18.0.0/16"), "{chosen:?}");
        let asked = lab.ctl(&["network", "create", "--subnet=10.99.0.0/24", "asked"]);
        assert_eq!((asked.code, asked.stderr.lines().count()), (0, 1), "{asked:?}");
        let warning = "warning: subnet 10.99.0.0/24 overlaps with the route";
        assert!(asked.stderr.contains(warning), "{asked:?}");
        // Another network of ours is in the way all the same.
        let error = lab.fails(&["network", "create", "--subnet=10.99.0.0/16", "wider"], 4);
        assert!(error.contains("overlaps with 10.99.0.0/24 of network asked"), "{error}");
        for network in ["bridge", "chosen", "asked"] {
            let names = ["one", "two"].map(|name| format!("{name}-{network}"));
            names.iter().for_each(|name| drop(lab.run_idle(name, &[&format!("--net={network}")])));
            lab.assert_reaches(&names[0], &names[1]);
        }
        assert_eq!(lab.term(), 0);
        lab.start();
        assert_eq!(subnet(&lab, "chosen"), "172.18.0.0/16");
    }
}

#[test]
fn a_route_of_the_hosts_own_is_passed_over() {
    let lab = Lab::with(with_vpn(&["0.0.0.0/1", "128.0.0.0/1", "172.17.40.0/24", "172.18.0.0/16"]), &[]);
    assert_eq!(subnet(&lab, "bridge"), "172.19.0.0/16");
    let lab = Lab::with(with_vpn(&["172.17.40.0/24"]), &[]);
    assert_eq!(subnet(&lab, "bridge"), "172.18.0.0/16");
    assert!(!lab.log().contains("overlaps with the route"), "{}", lab.log());
}

#[test]
fn pools_and_the_bridge_address_are_the_operators_to_choose() {
    let flags = [
        "--bip=10.200.0.1/24",
        "--default-address-pool=base=10.210.0.0/23,size=24",
        "--default-address-pool=base=fd00:210::/48,size=64",
    ];
    let lab = Lab::with(Host::new(), &flags);
    let bridge = lab.inspect_network("bridge").ipam;
    assert_eq!(
        (bridge.config[0].subnet.as_str(), bridge.config[0].gateway.as_str()),
        ("10.200.0.0/24", "10.200.0.1")
    );
    lab.run_idle("c", &[]);
    assert_eq!(lab.address("c", "bridge"), "10.200.0.2");
    lab.assert_reaches("c", "10.200.0.1");
    for (name, expected) in [("a", "10.210.0.0/24"), ("b", "10.210.1.0/24")] {
        lab.ok(&["network", "create", name]);
        assert_eq!(subnet(&lab, name), expected);
    }
    let error = lab.fails(&["network", "create", "more"], 4);
    assert!(error.contains("give a --subnet"), "{error}");
    lab.ok(&["network", "rm", "a"]);
    lab.ok(&["network", "create", "--ipv6", "six"]);
    let subnets: Vec<String> =
        lab.inspect_network("six").ipam.config.iter().map(|config| config.subnet.clone()).collect();
    assert_eq!(subnets, ["10.210.0.0/24", "fd00:210::/64"]);
}

/// Docker makes its bridge anew at each start. Here the network is kept with its containers.
#[test]
fn a_bridge_address_that_comes_too_late_is_said_to_have_no_effect() {
    let mut lab = Lab::new();
    assert!(!lab.ok(&["info"]).contains("--bip"));
    assert_eq!(lab.term(), 0);
    lab.start_with(&["--bip=10.200.0.1/24"]);
    assert_eq!(subnet(&lab, "bridge"), "172.17.0.0/16");
    let info = lab.ctl(&["info"]);
    let said = "--bip 10.200.0.1/24 has no effect: network bridge was made with 172.17.0.0/16";
    assert!([info.stdout, info.stderr].concat().contains(said), "{}", lab.log());
    assert!(lab.log().contains(said), "{}", lab.log());
}

#[test]
fn overlay_networks_are_made_beside_a_vpn() {
    let cluster = Cluster::joined(2);
    for lab in &cluster.labs {
        for route in ["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/9"] {
            lab.sh(&format!("ip route add {route} dev lo"));
        }
    }
    let lab = &cluster.labs[0];
    lab.ok(&["network", "create", "-d", "overlay", "chosen"]);
    assert_eq!(subnet(lab, "chosen"), "10.0.0.0/24");
    let asked = lab.ctl(&["network", "create", "-d", "overlay", "--subnet=10.99.0.0/24", "asked"]);
    assert!(asked.code == 0 && asked.stderr.contains("overlaps with the route"), "{asked:?}");
    let error = lab.fails(&["network", "create", "-d", "overlay", "--subnet=172.17.0.0/24", "local"], 4);
    assert!(error.contains("overlaps with 172.17.0.0/16 of network bridge"), "{error}");
    let error = lab.fails(&["network", "create", "--subnet=10.99.0.0/16", "other"], 4);
    assert!(error.contains("overlaps with 10.99.0.0/24 of network asked"), "{error}");
}
