use std::collections::BTreeSet;

use nix::ifaddrs::getifaddrs;

use super::*;
use crate::io::tap::{Tap, TapConfig};
use crate::io::test_netns;

fn eth0() -> LinkConfig {
    LinkConfig {
        mac: "02:42:ac:11:00:02".parse().unwrap(),
        mtu: 1400,
        tx_queue_frames: TX_QUEUE_FRAMES,
        gso_bytes: 61_833,
        addresses: vec!["172.17.0.2/16".parse().unwrap(), "fd00:17::2/64".parse().unwrap()],
        gateways: vec!["172.17.0.1".parse().unwrap(), "fd00:17::1".parse().unwrap()],
        route_metric: 100,
    }
}

fn addresses(ns: &NetNs, name: &str) -> BTreeSet<IpAddr> {
    let found = ns.run(|| getifaddrs().unwrap().collect::<Vec<_>>()).unwrap();
    let found = found.into_iter().filter(|a| a.interface_name == name).filter_map(|a| a.address);
    found
        .filter_map(|a| match (a.as_sockaddr_in(), a.as_sockaddr_in6()) {
            (Some(v4), _) => Some(IpAddr::V4(v4.ip())),
            (_, Some(v6)) => Some(IpAddr::V6(v6.ip())),
            _ => None,
        })
        .collect()
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The source address that the kernel would use for this destination, which proves a route and a usable address.
fn source_towards(ns: &NetNs, any: &str, destination: &str) -> io::Result<IpAddr> {
    ns.run(|| {
        let socket = std::net::UdpSocket::bind((any, 0))?;
        socket.connect((destination, 9))?;
        Ok(socket.local_addr()?.ip())
    })
    .unwrap()
}

fn sysctl(ns: &NetNs, key: &str, value: &str) {
    ns.run(|| std::fs::write(format!("/proc/sys/net/{key}"), value)).unwrap().unwrap();
}

#[test]
fn an_interface_is_what_was_asked_for_and_asking_again_changes_nothing() {
    let ns = test_netns();
    let _tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    for _ in 0..2 {
        configure(&ns, "eth0", &eth0()).unwrap();
        let link = links(&ns).unwrap().into_iter().find(|link| link.name == "eth0").unwrap();
        assert_eq!((link.mac, link.mtu, link.tx_queue_frames), (Some(eth0().mac), 1400, TX_QUEUE_FRAMES));
        assert_eq!(link.gso_bytes, 61_833);
        assert!(link.up && link.is_tap);
        let found = addresses(&ns, "eth0");
        assert!(found.contains(&"172.17.0.2".parse().unwrap()), "{found:?}");
        assert!(found.contains(&"fd00:17::2".parse().unwrap()), "{found:?}");
        assert_eq!(source_towards(&ns, "0.0.0.0", "192.0.2.1").unwrap().to_string(), "172.17.0.2");
        assert_eq!(source_towards(&ns, "::", "2001:db8::1").unwrap().to_string(), "fd00:17::2");
    }
}

#[test]
fn the_default_route_of_the_lowest_metric_wins() {
    let ns = test_netns();
    let _taps = ["eth0", "eth1"].map(|name| Tap::open(&ns, name, TapConfig::default()).unwrap());
    let eth1 = LinkConfig {
        mac: "02:42:ac:12:00:02".parse().unwrap(),
        addresses: prefixes(&["172.18.0.2/16"]),
        gateways: vec!["172.18.0.1".parse().unwrap()],
        route_metric: 101,
        ..eth0()
    };
    configure(&ns, "eth1", &eth1).unwrap();
    assert_eq!(source_towards(&ns, "0.0.0.0", "192.0.2.1").unwrap().to_string(), "172.18.0.2");
    configure(&ns, "eth0", &eth0()).unwrap();
    assert_eq!(source_towards(&ns, "0.0.0.0", "192.0.2.1").unwrap().to_string(), "172.17.0.2");
}

#[test]
fn routes_are_connected_and_configured_prefixes_once() {
    let ns = test_netns();
    assert_eq!(routes(&ns).unwrap(), []);
    loopback_up(&ns).unwrap();
    loopback_up(&ns).unwrap();
    assert_eq!(routes(&ns).unwrap(), []);
    let _taps = ["eth0", "eth1"].map(|name| Tap::open(&ns, name, TapConfig::default()).unwrap());
    configure(&ns, "eth0", &eth0()).unwrap();
    let eth1 = LinkConfig {
        mac: "02:42:ac:11:00:03".parse().unwrap(),
        addresses: prefixes(&["172.17.0.3/16", "10.1.2.3/8", "169.254.7.7/16"]),
        gateways: vec![],
        ..eth0()
    };
    configure(&ns, "eth1", &eth1).unwrap();
    assert_eq!(routes(&ns).unwrap(), prefixes(&["10.0.0.0/8", "172.17.0.0/16", "fd00:17::/64"]));
}

#[test]
fn without_ipv6_there_is_ipv4() {
    let ns = test_netns();
    let _tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    sysctl(&ns, "ipv6/conf/eth0/disable_ipv6", "1");
    configure(&ns, "eth0", &eth0()).unwrap();
    assert_eq!(addresses(&ns, "eth0"), BTreeSet::from(["172.17.0.2".parse().unwrap()]));
    assert_eq!(source_towards(&ns, "0.0.0.0", "192.0.2.1").unwrap().to_string(), "172.17.0.2");
    assert_eq!(routes(&ns).unwrap(), prefixes(&["172.17.0.0/16"]));
}

#[test]
fn interfaces_have_the_ipv6_that_they_were_allotted() {
    let ns = test_netns();
    let read = |name: &str, key: &str| {
        ns.run(|| std::fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/{key}"))).unwrap().unwrap()
    };
    let _taps = ["eth0", "eth1"].map(|name| Tap::open(&ns, name, TapConfig::default()).unwrap());
    configure(&ns, "eth0", &eth0()).unwrap();
    assert_eq!((read("eth0", "accept_ra"), read("eth0", "disable_ipv6")), ("0\n".into(), "0\n".into()));
    let ipv4_only = LinkConfig { addresses: prefixes(&["10.1.2.3/8"]), gateways: vec![], ..eth0() };
    configure(&ns, "eth1", &ipv4_only).unwrap();
    assert_eq!(read("eth1", "disable_ipv6"), "1\n");
    assert_eq!(addresses(&ns, "eth1"), BTreeSet::from(["10.1.2.3".parse().unwrap()]), "no link-local one");
    // Somebody wants it all the same; a daemon that starts again does not mind.
    sysctl(&ns, "ipv6/conf/eth1/disable_ipv6", "0");
    configure(&ns, "eth1", &ipv4_only).unwrap();
    assert_eq!(read("eth1", "disable_ipv6"), "0\n");
}

#[test]
fn what_is_absent() {
    let ns = test_netns();
    assert!(!delete_link(&ns, "eth0").unwrap());
    let error = configure(&ns, "eth0", &eth0()).unwrap_err();
    assert_eq!(error.to_string(), "there is no interface eth0 in the network namespace");
    let _tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    assert!(delete_link(&ns, "eth0").unwrap());
    assert!(!delete_link(&ns, "eth0").unwrap());
}

#[test]
fn what_the_kernel_refuses_is_named() {
    let ns = test_netns();
    let _tap = Tap::open(&ns, "eth0", TapConfig::default()).unwrap();
    let unreachable = LinkConfig { gateways: vec!["192.0.2.1".parse().unwrap()], ..eth0() };
    let error = configure(&ns, "eth0", &unreachable).unwrap_err().to_string();
    assert!(error.starts_with("setting the default route via 192.0.2.1 on eth0 failed: "), "{error}");
}
