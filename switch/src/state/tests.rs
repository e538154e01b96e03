use std::net::IpAddr;

use ipnet::IpNet;

use vswitch_proto::api::ErrorKind;
use vswitch_proto::command::{Attachment, Command, ContainerKind, CreateNetwork, Driver, LabSpec, Start};
use vswitch_proto::id::{ContainerId, MacAddr, NetworkId, Vni};
use vswitch_proto::security::{PortSecurity, Servers};

use super::testing::{Lab, adopted, pool, to};
use super::*;

/// The rejection's only line, as a person sees it.
fn line<T: std::fmt::Debug>(result: Result<T, Rejected>) -> String {
    let text = result.unwrap_err().to_string();
    assert!(!text.contains('\n'), "{text}");
    text
}

fn at(network: NetworkId, ip: &str) -> Attachment {
    match ip.parse().unwrap() {
        IpAddr::V4(ip) => Attachment { ipv4: Some(ip), ..to(network) },
        IpAddr::V6(ip) => Attachment { ipv6: Some(ip), ..to(network) },
    }
}

fn with_mac(network: NetworkId, mac: &str) -> Attachment {
    Attachment { mac: Some(mac.parse().unwrap()), ..to(network) }
}

#[test]
fn addresses_and_macs_are_those_of_the_guide() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let c1 = lab.run("container1", vec![to(bridge)]).unwrap();
    let c2 = lab.run("container2", vec![to(bridge)]).unwrap();
    assert_eq!(lab.ipv4(c1, bridge), "172.17.0.2");
    assert_eq!(lab.ipv4(c2, bridge), "172.17.0.3");
    assert_eq!(lab.wire(c2, bridge).mac.to_string(), "02:42:ac:11:00:03");
    assert_eq!(lab.wire(c1, bridge).interface_name(), "eth0");
    assert_ne!(lab.wire(c1, bridge).port, lab.wire(c2, bridge).port);
    let isolated = lab.create("isolated_nw", |_| ()).unwrap();
    assert_eq!(lab.state.network(&isolated).unwrap().pools[0].subnet.to_string(), "172.18.0.0/16");
    lab.connect(c2, to(isolated)).unwrap();
    assert_eq!(lab.wire(c2, isolated).interface_name(), "eth1");
    let names: Vec<_> = lab.state.endpoints_of(&c2).map(|e| e.network).collect();
    assert_eq!(names, [bridge, isolated]);
    lab.disconnect(c2, bridge).unwrap();
    lab.connect(c2, to(bridge)).unwrap();
    assert_eq!(lab.wire(c2, bridge).interface_name(), "eth0", "the lowest free number");
    let names: Vec<_> = lab.state.endpoints_of(&c2).map(|e| e.network).collect();
    assert_eq!(names, [bridge, isolated], "in the order of the interfaces");
}

#[test]
fn released_addresses_come_back_last() {
    let mut lab = Lab::new();
    let small = lab.subnet("small", "10.0.0.0/29").unwrap();
    let ids: Vec<_> = (0..3).map(|i| lab.run(&format!("c{i}"), vec![to(small)]).unwrap()).collect();
    lab.exit(ids[0]).unwrap();
    let late = lab.run("late", vec![to(small)]).unwrap();
    assert_eq!(lab.ipv4(late, small), "10.0.0.5", "not the one just released");
    let last = lab.run("last", vec![to(small)]).unwrap();
    assert_eq!(lab.ipv4(last, small), "10.0.0.6");
    lab.start(ids[0]).unwrap();
    assert_eq!(lab.ipv4(ids[0], small), "10.0.0.2", "around");
    let text = line(lab.run("one-too-many", vec![to(small)]));
    assert!(text.starts_with("no available IPv4 addresses in 10.0.0.0/29 of network small:"), "{text}");
    assert!(lab.state.find_container("one-too-many").is_err(), "all or nothing");
}

#[test]
fn default_pools_skip_networks_and_routes() {
    let mut lab = Lab::new();
    let subnet = |lab: &Lab, id: NetworkId| lab.state.network(&id).unwrap().pools[0].subnet.to_string();
    lab.subnet("mine", "172.18.128.0/17").unwrap();
    let occupied = |request: &mut CreateNetwork| request.occupied = vec!["172.19.4.0/24".parse().unwrap()];
    let next = lab.create("next", occupied).unwrap();
    assert_eq!(subnet(&lab, next), "172.20.0.0/16");
    let mut subnets = Vec::new();
    let refused = loop {
        match lab.create(&format!("n{}", subnets.len()), occupied) {
            Ok(id) => subnets.push(subnet(&lab, id)),
            Err(refused) => break refused,
        }
    };
    assert_eq!(subnets.len(), 11 + 16);
    assert_eq!((subnets[10].as_str(), subnets[11].as_str()), ("172.31.0.0/16", "192.168.0.0/20"));
    assert_eq!(subnets[26], "192.168.240.0/20");
    assert_eq!(refused, Rejected::NoFreePool { ipv6: false });
}

#[test]
fn ipv6_networks() {
    let mut lab = Lab::new();
    let given = lab.create("given", |r| {
        r.ipv6 = true;
        r.pools = vec![pool("fd00:1::/64"), pool("10.1.0.0/16")];
    });
    let given = given.unwrap();
    let pools = &lab.state.network(&given).unwrap().pools;
    assert_eq!(pools[0].gateway.to_string(), "10.1.0.1", "IPv4 first");
    assert_eq!(pools[1].gateway.to_string(), "fd00:1::1");
    let c = lab.run("c", vec![to(given)]).unwrap();
    let wire = lab.wire(c, given);
    assert_eq!(wire.ipv6.unwrap().to_string(), "fd00:1::2");
    assert_eq!(wire.mac, MacAddr::from_ipv4(wire.ipv4.unwrap()));
    let d = lab.run("d", vec![at(given, "fd00:1::ffff")]).unwrap();
    assert_eq!(lab.wire(d, given).ipv6.unwrap().to_string(), "fd00:1::ffff");

    let own = lab.create("own", |r| r.ipv6 = true).unwrap();
    let subnet = lab.state.network(&own).unwrap().pools[1].subnet;
    let [a, b, c, d, e, f, g, ..] = own.0;
    let IpNet::V6(net) = subnet else { panic!("{subnet}") };
    assert_eq!(net.addr().octets()[..8], [0xfd, a, b, c, d, e, f, g]);
    assert_eq!(net.prefix_len(), 64);
    let refused = lab.create("none-free", |r| {
        r.ipv6 = true;
        r.occupied = vec!["fd00::/8".parse().unwrap()];
    });
    assert_eq!(refused, Err(Rejected::NoFreePool { ipv6: true }));
    let text = line(lab.create("v4only", |r| r.pools = vec![pool("fd00:2::/64")]));
    assert!(text.contains("add --ipv6"), "{text}");
}

#[test]
fn bad_subnets_say_what_is_wrong() {
    let mut lab = Lab::new();
    lab.subnet("taken", "10.9.0.0/16").unwrap();
    let before = lab.state.networks().count();
    for (subnet, said) in [
        ("10.1.2.3/16", "did you mean 10.1.0.0/16?"),
        ("10.1.0.0/31", "between 8 and 30"),
        ("0.0.0.0/0", "between 8 and 30"),
        ("127.1.0.0/16", "127.0.0.0/8 is for loopback"),
        ("169.254.8.0/24", "for link-local"),
        ("239.0.0.0/16", "for multicast"),
        ("250.0.0.0/16", "is reserved"),
        ("0.1.0.0/16", "not for hosts"),
        ("10.9.1.0/24", "overlaps with 10.9.0.0/16 of network taken"),
        ("10.0.0.0/8", "overlaps with 10.9.0.0/16 of network taken"),
        ("10.77.0.0/16", "overlaps with the route 10.77.8.0/24 of this host"),
        ("fe80::/64", "for link-local"),
        ("ff05::/64", "for multicast"),
        ("::/64", "not for hosts"),
        ("fd00::/127", "an IPv6 one between 16 and 126"),
        ("fd00::1/64", "did you mean fd00::/64?"),
    ] {
        let result = lab.create("bad", |r| {
            r.ipv6 = true;
            r.occupied = vec!["10.77.8.0/24".parse().unwrap()];
            r.pools = vec![pool(subnet)];
        });
        let text = line(result);
        assert!(text.contains(said), "{subnet}: {text}");
    }
    let text = line(lab.create("bad", |r| r.pools = vec![pool("10.1.0.0/16"), pool("10.2.0.0/16")]));
    assert!(text.starts_with("more than one IPv4 subnet"), "{text}");
    assert_eq!(lab.state.networks().count(), before);
}

#[test]
fn reserved_addresses_lie_inside_and_are_not_given() {
    let mut lab = Lab::new();
    let mut refused = |change: &dyn Fn(&mut vswitch_proto::command::PoolRequest)| {
        let mut request = pool("10.0.0.0/28");
        change(&mut request);
        line(lab.create("bad", |r| r.pools = vec![request]))
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    for (text, said) in [
        (refused(&|p| p.gateway = Some(ip("10.0.1.1"))), "invalid gateway 10.0.1.1: it is not in the subnet"),
        (refused(&|p| p.gateway = Some(ip("fd00::1"))), "invalid gateway fd00::1: it is not in the subnet"),
        (refused(&|p| p.gateway = Some(ip("10.0.0.0"))), "it is the network address"),
        (refused(&|p| p.gateway = Some(ip("10.0.0.15"))), "it is the broadcast address"),
        (
            refused(&|p| p.ip_range = Some("10.0.1.0/30".parse().unwrap())),
            "not within the subnet 10.0.0.0/28",
        ),
        (refused(&|p| p.ip_range = Some("10.0.0.5/30".parse().unwrap())), "did you mean 10.0.0.4/30?"),
        (refused(&|p| p.aux_addresses = [("a".into(), ip("10.0.0.1"))].into()), "it is the gateway already"),
        (
            refused(&|p| {
                p.aux_addresses = [("a".into(), ip("10.0.0.9")), ("b".into(), ip("10.0.0.9"))].into();
            }),
            "invalid auxiliary address b 10.0.0.9: it is the auxiliary address a already",
        ),
    ] {
        assert!(text.contains(said), "{text}");
    }
    let network = lab.create("n", |r| {
        let mut p = pool("10.0.0.0/28");
        p.gateway = Some(ip("10.0.0.6"));
        p.ip_range = Some("10.0.0.4/30".parse().unwrap());
        p.aux_addresses.insert("router".into(), ip("10.0.0.4"));
        r.pools = vec![p];
    });
    let network = network.unwrap();
    let a = lab.run("a", vec![to(network)]).unwrap();
    let b = lab.run("b", vec![to(network)]).unwrap();
    assert_eq!((lab.ipv4(a, network), lab.ipv4(b, network)), ("10.0.0.5".into(), "10.0.0.7".into()));
    assert!(line(lab.run("c", vec![to(network)])).contains("10.0.0.4/30 of network n"));
    lab.run("c", vec![at(network, "10.0.0.9")]).expect("what is asked for may lie outside the range");
    for (ip, said) in [
        ("10.0.0.4", "reserved in network n as auxiliary address router"),
        ("10.0.0.6", "reserved in network n as gateway"),
        ("10.0.0.5", "already in use in network n by container a"),
        ("10.0.0.15", "it is the broadcast address"),
        ("10.0.0.16", "not in the subnet 10.0.0.0/28"),
        ("fd00::5", "network n has no IPv6 subnet"),
    ] {
        let text = line(lab.run("d", vec![at(network, ip)]));
        assert!(text.contains(said), "{ip}: {text}");
    }
}

#[test]
fn macs_are_unicast_and_unique_in_a_network() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let a = lab.run("a", vec![with_mac(bridge, "02:42:ac:11:00:03")]).unwrap();
    assert_eq!(lab.ipv4(a, bridge), "172.17.0.2");
    let b = lab.run("b", vec![to(bridge)]).unwrap();
    assert_eq!(lab.ipv4(b, bridge), "172.17.0.4", "the address whose MAC is taken is passed over");
    for (mac, said) in [
        ("02:42:ac:11:00:03", "already in use in network bridge by container a"),
        ("02:42:ac:11:00:01", "already in use in network bridge by the gateway"),
        ("ff:ff:ff:ff:ff:ff", "invalid MAC address"),
        ("01:00:5e:00:00:01", "invalid MAC address"),
        ("00:00:00:00:00:00", "invalid MAC address"),
    ] {
        let text = line(lab.run("c", vec![with_mac(bridge, mac)]));
        assert!(text.contains(said), "{mac}: {text}");
    }
    assert!(line(lab.run("c", vec![at(bridge, "172.17.0.3")])).contains("already in use"), "its MAC is a's");
    let other = lab.create("other", |_| ()).unwrap();
    lab.run("c", vec![with_mac(other, "02:42:ac:11:00:03")])
        .expect("another network, another broadcast domain");
}

#[test]
fn names_are_unique() {
    let mut lab = Lab::new();
    lab.run("c", vec![]).unwrap();
    assert!(line(lab.run("c", vec![])).starts_with("the container name c is already in use by container "));
    assert_eq!(
        line(lab.create("host", |_| ())),
        "network with name host already exists: choose another name or remove it first"
    );
    let id = lab.named("bridge");
    assert!(matches!(lab.create("x", |r| r.id = id), Err(Rejected::IdTaken(_))));
}

#[test]
fn networks_none_and_host_stand_alone() {
    let mut lab = Lab::new();
    let (bridge, none, host) = (lab.named("bridge"), lab.named("none"), lab.named("host"));
    let n = lab.run("n", vec![to(none)]).unwrap();
    let h = lab.run("h", vec![to(host)]).unwrap();
    assert!(lab.state.endpoints_of(&n).all(|e| e.wire.is_none()));
    assert!(line(lab.connect(n, to(bridge))).contains("on the null network is on no other one"));
    assert!(line(lab.connect(h, to(bridge))).contains("on the host network is on no other one"));
    assert!(line(lab.disconnect(h, host)).contains("the host network"));
    let b = lab.run("b", vec![to(bridge)]).unwrap();
    for network in [none, host] {
        assert!(matches!(lab.connect(b, to(network)), Err(Rejected::Exclusive { .. })));
        assert!(matches!(lab.run("x", vec![to(bridge), to(network)]), Err(Rejected::Exclusive { .. })));
    }
    lab.disconnect(n, none).unwrap();
    assert_eq!(lab.connect(n, to(host)), Err(Rejected::HostMode("n".parse().unwrap())));
    lab.connect(n, to(bridge)).expect("free again");
    assert_eq!(lab.wire(n, bridge).interface, 0);
    assert!(matches!(lab.container("ad", adopted(7), vec![to(host)]), Err(Rejected::AdoptedOnHost(_))));
    for driver in [Driver::None, Driver::Host] {
        assert!(line(lab.create("second", |r| r.driver = driver)).starts_with("only one network of driver"));
    }
    assert!(matches!(lab.run("x", vec![at(none, "10.0.0.1")]), Err(Rejected::NoSubnetFor { .. })));
}

#[test]
fn networks_in_use_and_defaults_stay() {
    let mut lab = Lab::new();
    let network = lab.create("n", |_| ()).unwrap();
    let remove = |network| Command::RemoveNetwork { network };
    let a = lab.run("web", vec![to(network)]).unwrap();
    lab.container("db", ContainerKind::Lab(LabSpec::default()), vec![to(network)]).unwrap();
    assert_eq!(
        line(lab.apply(remove(network))),
        "network n is in use by db, web: disconnect or remove them first"
    );
    for i in 0..10 {
        lab.run(&format!("x{i}"), vec![to(network)]).unwrap();
    }
    assert!(
        line(lab.apply(remove(network))).contains("x6, x7 and 2 more: "),
        "{}",
        line(lab.apply(remove(network)))
    );
    let bridge = lab.named("bridge");
    assert_eq!(line(lab.apply(remove(bridge))), "network bridge is a default network and cannot be removed");
    let gone = lab.network_id();
    let refused = lab.apply(remove(gone)).unwrap_err();
    assert_eq!((refused.kind(), refused), (ErrorKind::NotFound, Rejected::UnknownNetwork(gone)));
    lab.disconnect(a, network).unwrap();
    assert!(line(lab.disconnect(a, network)).starts_with("container web is not connected to network n"));
    assert!(line(lab.apply(remove(network))).starts_with("network n is in use by db, x0"));
}

#[test]
fn a_container_lives_dies_and_lives_again() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let other = lab.create("other", |_| ()).unwrap();
    let c =
        lab.container("c", ContainerKind::Lab(LabSpec::default()), vec![at(bridge, "172.17.0.9")]).unwrap();
    assert_eq!(lab.ipv4(c, bridge), "172.17.0.9", "created has its endpoints");
    let endpoint = lab.state.endpoint_at(&c, &bridge).unwrap().id;
    lab.start(c).unwrap();
    assert_eq!(lab.state.endpoint_at(&c, &bridge).unwrap().id, endpoint, "and keeps them when it starts");
    assert_eq!(line(lab.start(c)), "container c is running already");
    assert_eq!(
        line(lab.apply(Command::RemoveContainer { container: c })),
        "container c is running: stop it first, or use rm -f"
    );
    lab.apply(Command::ContainerExited { container: c, exit_code: 137, error: "killed".into() }).unwrap();
    assert_eq!(line(lab.exit(c)), "container c is not running");
    let container = lab.state.container(&c).unwrap();
    assert_eq!(container.phase, Phase::Exited { code: 137, error: "killed".into() });
    assert!(
        container.finished_at_ms > container.started_at_ms
            && container.started_at_ms > Some(container.created_at_ms)
    );
    assert_eq!(lab.state.endpoints_of(&c).count(), 0);
    assert_eq!(container.attachments.len(), 1);

    lab.connect(c, to(other)).unwrap();
    assert_eq!(lab.state.endpoints_of(&c).count(), 0, "an attachment only");
    let thief = lab.run("thief", vec![at(bridge, "172.17.0.9")]).unwrap();
    assert!(line(lab.start(c)).contains("172.17.0.9 is already in use in network bridge by container thief"));
    assert_eq!(lab.state.endpoints_of(&c).count(), 0, "all or nothing");
    lab.exit(thief).unwrap();
    let count = lab.apply(Command::StartContainer { container: c, endpoints: vec![], start: Start::Asked });
    assert!(line(count).starts_with("0 endpoint ids for 2 attachments"));
    lab.start(c).unwrap();
    assert_eq!(lab.wire(c, other).interface, 1);

    lab.exit(c).unwrap();
    lab.apply(Command::RemoveNetwork { network: other }).expect("an exited container does not hold it");
    assert!(line(lab.start(c)).contains("network other that container c was connected to is gone"));
    let short = &other.short()[..5];
    let leftover = lab.state.find_attached(&c, short).unwrap();
    assert_eq!(leftover, other);
    lab.disconnect(c, leftover).unwrap();
    lab.start(c).unwrap();
    lab.exit(c).unwrap();
    lab.apply(Command::RemoveContainer { container: c }).unwrap();
    assert_eq!(lab.apply(Command::RemoveContainer { container: c }), Err(Rejected::UnknownContainer(c)));
}

#[test]
fn a_namespace_is_adopted_once() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let a = lab.container("a", adopted(7), vec![to(bridge)]).unwrap();
    lab.start(a).unwrap();
    assert_eq!(
        line(lab.container("b", adopted(7), vec![])),
        "namespace is adopted already as container a: remove that one first"
    );
    lab.container("b", adopted(8), vec![to(bridge)]).unwrap();
    lab.exit(a).unwrap();
    lab.container("c", adopted(7), vec![]).unwrap();
    assert_eq!(lab.start(a), Err(Rejected::AlreadyAdopted("c".parse().unwrap())));
}

#[test]
fn options_and_hostnames_are_checked() {
    let mut lab = Lab::new();
    let mut with = |key: &str, value: &str, ipv6| {
        lab.create("n", |r| {
            r.ipv6 = ipv6;
            r.options.insert(key.into(), value.into());
        })
    };
    for (value, ipv6) in
        [("67", false), ("65536", false), ("+1500", false), ("", false), ("1279", true), ("x", false)]
    {
        assert_eq!(with(MTU_OPTION, value, ipv6), Err(Rejected::InvalidMtu(value.into())));
    }
    for option in ["mtu", VXLAN_ID_OPTION] {
        let refused = with(option, "1500", false);
        assert_eq!(refused, Err(Rejected::UnknownOption { option: option.into(), driver: Driver::Bridge }));
    }
    for value in ["", "on", "Strict", "registered,off"] {
        let refused = with(PORT_SECURITY_OPTION, value, false);
        assert_eq!(refused, Err(Rejected::InvalidPortSecurity(value.into())));
        let told = "give registered (the default), strict or off";
        assert!(refused.unwrap_err().to_string().contains(told));
    }
    for value in ["", "ra", "dhcp,"] {
        assert_eq!(with(SERVERS_OPTION, value, false), Err(Rejected::InvalidServers(value.into())));
    }
    let id = with(MTU_OPTION, "1280", true).unwrap();
    let network = lab.state.network(&id).unwrap();
    assert_eq!((network.mtu(), network.port_security()), (Some(1280), PortSecurity::Registered));
    let strict = lab.create("strict", |r| {
        r.options.insert(PORT_SECURITY_OPTION.into(), "strict".into());
        r.options.insert(SERVERS_OPTION.into(), "dhcp".into());
    });
    let network = lab.state.network(&strict.unwrap()).unwrap();
    assert_eq!(network.port_security(), PortSecurity::Strict);
    assert_eq!(network.servers(), Servers { dhcp: true, router: false });
    for hostname in ["", "a b", "a\n127.0.0.1\tbank.example", "-a", "a.", &"x".repeat(64)] {
        let spec = LabSpec { hostname: Some(hostname.into()), ..LabSpec::default() };
        let refused = lab.container("c", ContainerKind::Lab(spec), vec![]);
        assert_eq!(refused, Err(Rejected::InvalidHostname(hostname.into())));
        assert!(!refused.unwrap_err().to_string().contains('\n'));
    }
}

#[test]
fn every_collection_has_its_bound() {
    let mut lab = Lab::new();
    let mut networks = Vec::new();
    let refused = loop {
        let n = networks.len();
        match lab.subnet(&format!("n{n}"), &format!("10.{}.{}.0/24", n / 256, n % 256)) {
            Ok(id) => networks.push(id),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, lab.state.networks().count()), (Rejected::TooManyNetworks, NETWORKS_MAX));
    let c = lab.run("c", networks[..INTERFACES_MAX].iter().map(|n| to(*n)).collect()).unwrap();
    let refused = lab.connect(c, to(networks[INTERFACES_MAX])).unwrap_err();
    assert_eq!(
        (refused.kind(), refused),
        (ErrorKind::Conflict, Rejected::TooManyInterfaces("c".parse().unwrap()))
    );
    let aliases = (0..=ALIASES_MAX).map(|i| format!("a{i}").parse().unwrap()).collect();
    let refused = lab.run("d", vec![Attachment { aliases, ..to(networks[0]) }]);
    assert_eq!(refused, Err(Rejected::TooManyAliases("d".parse().unwrap())));
    let vnis: std::collections::BTreeSet<Vni> = lab.state.networks().map(|n| n.vni).collect();
    assert!(vnis.len() == NETWORKS_MAX && vnis.last().unwrap().get() < Vni::FIRST_OVERLAY);

    let small = networks[1];
    lab.disconnect(c, small).unwrap();
    let vni = lab.state.network(&small).unwrap().vni;
    lab.apply(Command::RemoveNetwork { network: small }).unwrap();
    let again = lab.subnet("again", "10.99.0.0/24").unwrap();
    assert_ne!(lab.state.network(&again).unwrap().vni, vni, "not at once");

    let aux = (0..=AUX_ADDRESSES_MAX)
        .map(|i| (format!("a{i}"), IpAddr::from([10, 98, 1, (i % 256) as u8])))
        .collect();
    lab.apply(Command::RemoveNetwork { network: again }).unwrap();
    let refused = lab.create("aux", |r| {
        r.pools = vec![vswitch_proto::command::PoolRequest { aux_addresses: aux, ..pool("10.98.0.0/16") }];
    });
    assert!(matches!(refused, Err(Rejected::TooManyAuxAddresses(_))));
}

#[test]
fn containers_and_endpoints_are_bounded() {
    let mut lab = Lab::new();
    let bridge = lab.named("bridge");
    let other = lab.create("other", |_| ()).unwrap();
    let third = lab.create("third", |_| ()).unwrap();
    let mut first = None;
    let refused = loop {
        let n = lab.state.containers().count();
        match lab.container(&format!("c{n}"), adopted(n as u32), vec![to(bridge), to(other)]) {
            Ok(id) => first = first.or(Some(id)),
            Err(refused) => break refused,
        }
    };
    assert_eq!((refused, lab.state.containers().count()), (Rejected::TooManyContainers, CONTAINERS_MAX));
    assert_eq!(lab.state.endpoints().count(), ENDPOINTS_MAX);
    assert_eq!(lab.connect(first.unwrap(), to(third)), Err(Rejected::TooManyEndpoints));
    lab.state.next_port = u32::MAX;
    lab.apply(Command::RemoveContainer { container: first.unwrap() }).unwrap();
    assert_eq!(lab.run("last", vec![to(bridge)]), Err(Rejected::PortsExhausted));
}

#[test]
fn a_request_applies_once() {
    let mut lab = Lab::new();
    let network = lab.network_id();
    let create = lab.envelope(Command::CreateNetwork(super::testing::bridge(network, "n")));
    let first = lab.state.apply(&create);
    assert_eq!(first, Ok(Applied::NetworkCreated { network }));
    let missing = ContainerId([1; 32]);
    let rejected = lab.envelope(Command::RemoveContainer { container: missing });
    let refusal = lab.state.apply(&rejected);
    lab.apply(Command::RemoveNetwork { network }).unwrap();
    let digest = lab.state.digest();
    assert_eq!(lab.state.apply(&create), first, "answered as then, although it is gone");
    assert_eq!(lab.state.apply(&rejected), refusal);
    assert_eq!(lab.state.digest(), digest);
    assert!(lab.state.network(&network).is_none());

    for _ in 0..4096 - 3 {
        let _refused = lab.apply(Command::RemoveContainer { container: missing });
    }
    assert!(lab.state.outcome(&create.request_id).is_some(), "the last 4096 are remembered");
    for _ in 0..600 {
        let _refused = lab.apply(Command::RemoveContainer { container: missing });
    }
    assert!(lab.state.outcome(&create.request_id).is_none(), "and no more than 4608");
}
