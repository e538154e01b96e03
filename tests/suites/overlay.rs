//! Overlay networks: what a user gets with hosts that are joined.

use std::collections::HashSet;
use std::net::UdpSocket;

use anyhow::ensure;
use vswitch_proto::api::{ClusterFounded, ClusterJoined, FdbEntry, FdbKind, Stats};
use vswitch_proto::id::MacAddr;
use vswitch_tests::cluster::{address, address_v6, join_request_to};
use vswitch_tests::packet::{ETHERTYPE, Packet, holds};
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab, netns};

/// Of IANA.
const VXLAN_PORT: u16 = 4789;

/// Until a name means something in a container.
fn wait_for_name(cluster: &Cluster, host: usize, container: &str, name: &str) {
    eventually(&format!("{container} knows {name}"), || {
        let hosts = cluster.labs[host].exec_ok(container, &["cat", "/etc/hosts"]);
        ensure!(hosts.lines().any(|line| line.ends_with(&format!("\t{name}"))), "{hosts}");
        Ok(())
    });
}

#[test]
fn containers_on_three_hosts_are_in_one_network() {
    let cluster = Cluster::joined(3);
    let [one, two, three] = &cluster.labs[..] else { panic!("there are three") };
    let id = one.ok(&["network", "create", "-d", "overlay", "multi-host-network"]);
    one.run_idle("c1", &["--net=multi-host-network"]);
    two.run_idle("c2", &["--net=multi-host-network"]);
    three.run_idle("c3", &["--net=multi-host-network"]);
    for (host, container) in ["c1", "c2", "c3"].into_iter().enumerate() {
        for name in ["c1", "c2", "c3", "c1.multi-host-network"] {
            wait_for_name(&cluster, host, container, name);
            cluster.labs[host].assert_reaches(container, name);
        }
    }
    // Each host shows the same network, with the containers of all.
    for lab in &cluster.labs {
        let network = lab.inspect_network("multi-host-network");
        assert_eq!((network.id.as_str(), network.scope.as_str()), (id.trim_end(), "global"));
        let mut rows: Vec<_> =
            network.containers.values().map(|c| (c.name.as_str(), c.ipv4_address.as_str())).collect();
        rows.sort_unstable();
        assert_eq!(rows, [("c1", "10.0.0.2/24"), ("c2", "10.0.0.3/24"), ("c3", "10.0.0.4/24")]);
        let table =
            lab.ok(&["network", "ls", "--filter", "driver=overlay", "--format", "{{.Name}} {{.Scope}}"]);
        assert_eq!(table, "multi-host-network global\n");
    }
    // The underlay takes 1500 bytes, of which the tunnel needs 50.
    assert_eq!(one.exec_ok("c1", &["cat", "/sys/class/net/eth0/mtu"]), "1450\n");
    let c1 = one.exec_ok("c1", &["ip", "-details", "link", "show", "dev", "eth0"]);
    assert!(c1.contains(" gso_max_size 61833 "), "what leaves in one send: {c1}");
    // Who is where is known, not learned.
    let entries: Vec<FdbEntry> = one.http("GET", "/v1/fdb?network=multi-host-network", "").parsed();
    let places: Vec<_> = entries.iter().map(|e| (e.kind, e.vtep.map(|v| v.to_string()))).collect();
    let far = |index: usize| (FdbKind::Endpoint, Some(address(index).to_string()));
    assert_eq!(places, [(FdbKind::Endpoint, None), far(1), far(2)]);
    let error = two.fails(&["network", "rm", "multi-host-network"], 4);
    assert!(error.contains("c1 on node host0") && error.contains("c3 on node host2"), "{error}");
    cluster.wait_until_equal();
}

#[test]
fn a_container_that_moves_takes_its_address_along() {
    let cluster = Cluster::joined(3);
    let [one, two, three] = &cluster.labs[..] else { panic!("there are three") };
    one.ok(&["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "net"]);
    one.run_idle("watcher", &["--net=net"]);
    two.run_idle("service", &["--net=net", "--ip=10.9.0.77"]);
    wait_for_name(&cluster, 0, "watcher", "service");
    one.assert_reaches("watcher", "service");
    for (from, to) in [(two, three), (three, two)] {
        from.ok(&["rm", "-f", "service"]);
        to.run_idle("service", &["--net=net", "--ip=10.9.0.77"]);
        // By its address: the watcher has it among its neighbours.
        one.assert_reaches("watcher", "10.9.0.77");
    }
    let taken = one.fails(&["run", "-d", "--net=net", "--ip=10.9.0.77", "--name=thief", "--", "true"], 4);
    assert!(taken.contains("10.9.0.77") && taken.contains("service on node host1"), "{taken}");
    // Nothing of the attempt is left: the same name and another address are free.
    one.run_idle("thief", &["--net=net", "--ip=10.9.0.78"]);
}

#[test]
fn an_address_that_comes_back_with_another_mac_is_announced() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&[
        "network",
        "create",
        "-d",
        "overlay",
        "--ipv6",
        "--subnet=10.9.0.0/24",
        "--subnet=fd09::/64",
        "net",
    ]);
    one.run_idle("watcher", &["--net=net"]);
    let known = |address: &str| one.exec_ok("watcher", &["ip", "neighbor", "show", "to", address]);
    for (host, mac) in [(one, "02:00:00:00:00:01"), (two, "02:00:00:00:00:02"), (one, "02:00:00:00:00:03")] {
        host.run_idle("service", &["--net=net", "--ip=10.9.0.77", "--ip6=fd09::77", "--mac-address", mac]);
        // Nobody asks: only the first time there is nothing to correct.
        for address in ["10.9.0.77", "fd09::77"] {
            eventually("the watcher knows the new MAC address", || {
                let entry = known(address);
                ensure!(entry.is_empty() || entry.contains(mac), "{entry}");
                Ok(())
            });
        }
        one.assert_reaches("watcher", "10.9.0.77");
        let ping = one.ping6("watcher", "fd09::77");
        assert_eq!(ping.received, 1, "{:?}", ping.output);
        assert!(known("10.9.0.77").contains(mac) && known("fd09::77").contains(mac));
        host.ok(&["rm", "-f", "service"]);
    }
}

#[test]
fn containers_connect_and_disconnect_while_they_run() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    one.run_idle("a", &[]);
    two.run_idle("b", &["--net=net"]);
    one.ok(&["network", "connect", "--ip=10.0.0.9", "--alias=db", "net", "a"]);
    wait_for_name(&cluster, 1, "b", "db.net");
    two.assert_reaches("b", "db");
    one.ok(&["stop", "-t", "0", "a"]);
    eventually("the names of a stopped container go", || {
        let hosts = two.exec_ok("b", &["cat", "/etc/hosts"]);
        ensure!(!hosts.contains("\tdb"), "{hosts}");
        Ok(())
    });
    // A stopped container holds no address.
    two.run_idle("c", &["--net=net", "--ip=10.0.0.9"]);
    let error = one.fails(&["start", "a"], 4);
    assert!(error.contains("10.0.0.9") && error.contains("c on node host1"), "{error}");
    two.ok(&["rm", "-f", "c"]);
    one.ok(&["start", "a"]);
    wait_for_name(&cluster, 1, "b", "db");
    two.assert_reaches("b", "db");
    one.ok(&["network", "disconnect", "net", "a"]);
    two.ok(&["network", "disconnect", "net", "b"]);
    two.ok(&["network", "rm", "net"]);
    let id = one.ok(&["network", "create", "-d", "overlay", "other"]);
    one.ok(&["network", "connect", "other", "a"]);
    one.ok(&["stop", "-t", "0", "a"]);
    two.ok(&["network", "rm", "other"]);
    eventually("it is in the removed network no more", || {
        let inspected = one.ok(&["inspect", "a"]);
        ensure!(!inspected.contains(&id[..12]), "{inspected}");
        Ok(())
    });
    let error = one.fails(&["start", "a"], 3);
    assert!(error.contains("network other that container a was connected to is gone"), "{error}");
    one.ok(&["network", "disconnect", "-f", "other", "a"]);
    one.ok(&["start", "a"]);
    let error = one.fails(&["network", "connect", "net", "a"], 3);
    assert!(error.contains("network net not found"), "{error}");
}

#[test]
fn a_host_alone_has_overlay_networks_too() {
    let cluster = Cluster::unjoined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "-o", "vxlan.id=5000", "net"]);
    let error = one.fails(&["network", "create", "-d", "overlay", "-o", "vxlan.id=5000", "other"], 4);
    assert!(error.contains("5000") && error.contains("net"), "{error}");
    let error = one.fails(&["network", "create", "net"], 4);
    assert!(error.contains("net"), "{error}");
    one.run_idle("a", &["--net=net"]);
    one.run_idle("b", &["--net=net"]);
    one.assert_reaches("a", "b");
    // It has founded a cluster of one by that, which others can join.
    let init = one.ok(&["cluster", "init"]);
    assert!(init.contains("10.8.0.1:7946"), "{init}");
    two.ok(&["network", "create", "-d", "overlay", "mine"]);
    let token = cluster.token();
    let file = two.path("/tmp/token");
    std::fs::write(file, token).unwrap();
    let join = ["cluster", "join", "10.8.0.1:7946", "--token-file=/tmp/token"];
    let error = two.fails(&join, 4);
    assert!(error.contains("mine") && error.contains("--discard"), "{error}");
    two.ok(&[&join[..], &["--discard"]].concat());
    two.run_idle("c", &["--net=net"]);
    two.assert_reaches("c", "b");
    two.fails(&["network", "inspect", "mine"], 3);
}

#[test]
fn what_has_ended_does_not_start_without_a_network_that_was_removed() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    one.ok(&["network", "create", "-d", "overlay", "kept"]);
    one.run_idle("a", &["--net=net"]);
    one.ok(&["network", "connect", "kept", "a"]);
    one.ok(&["kill", "a"]);
    one.wait_until_exited("a");
    eventually("nobody holds a lease", || {
        let removed = two.ctl(&["network", "rm", "net"]);
        ensure!(removed.code == 0, "{removed:?}");
        Ok(())
    });
    eventually("its own host knows", || {
        let names = one.ok(&["network", "ls", "--format={{.Name}}"]);
        ensure!(!names.lines().any(|name| name == "net"), "{names}");
        Ok(())
    });
    let error = one.fails(&["start", "a"], 3);
    assert!(error.contains("network net that container a was connected to is gone"), "{error}");
    one.ok(&["network", "disconnect", "net", "a"]);
    one.ok(&["start", "a"]);
    assert_eq!(one.inspect("a").network_settings.networks.into_keys().collect::<Vec<_>>(), ["kept"]);
}

#[test]
fn the_containers_of_other_hosts_are_found_again_by_a_new_daemon() {
    let mut cluster = Cluster::joined(3);
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "net"]);
    cluster.labs[0].run_idle("a", &["--net=net"]);
    cluster.labs[1].run_idle("b", &["--net=net"]);
    wait_for_name(&cluster, 0, "a", "b");
    cluster.labs[0].kill9();
    cluster.labs[0].start();
    // What was agreed on in the last moment, the others have to tell.
    wait_for_name(&cluster, 0, "a", "b");
    cluster.labs[0].assert_reaches("a", "b");
    assert_eq!(cluster.labs[0].term(), 0);
    cluster.labs[0].start();
    cluster.labs[1].assert_reaches("b", "a");
    cluster.wait_until_settled();
    cluster.wait_until_equal();
}

#[test]
fn nothing_is_answered_on_the_vxlan_port_without_a_cluster() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    one.run_idle("a", &["--net=net"]);
    two.run_idle("b", &["--net=net"]);
    wait_for_name(&cluster, 0, "a", "b");
    one.assert_reaches("a", "b");
    let stranger = cluster.plug(5);
    let drops = |name: &str| one.http("GET", "/v1/stats", "").parsed::<Stats>().drops[name];
    let before = drops("unknown_vtep");
    // A VXLAN header with the VNI of the network, and a frame of zeros.
    let packet = [&[8, 0, 0, 0, 0, 0x10, 0, 0], &[0; 60][..]].concat();
    let namespace = stranger.path("/proc/1/ns/net");
    let sender = netns::inside(&namespace, || UdpSocket::bind("0.0.0.0:0").unwrap());
    sender.send_to(&packet, (address(0), VXLAN_PORT)).unwrap();
    eventually("packets of strangers are counted", || {
        ensure!(drops("unknown_vtep") == before + 1);
        Ok(())
    });
}

#[test]
fn hosts_are_joined_over_ipv6() {
    let mut cluster = Cluster::without_daemons();
    for index in 0..2 {
        let listen = format!("--listen=[{}]", address_v6(index));
        let lab = Lab::with(cluster.plug(index), &[&listen, &format!("--node-name=host{index}")]);
        cluster.labs.push(lab);
    }
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    let founded: ClusterFounded = one.http("POST", "/v1/cluster/init", "{}").parsed();
    let request = join_request_to(founded.address, &founded.token.0);
    two.http("POST", "/v1/cluster/join", &request).parsed::<ClusterJoined>();
    two.ok(&["network", "create", "-d", "overlay", "--ipv6", "--subnet=fd09::/64", "net"]);
    one.run_idle("a", &["--net=net"]);
    two.run_idle("b", &["--net=net"]);
    wait_for_name(&cluster, 0, "a", "b");
    cluster.labs[0].assert_reaches("a", "b");
    let inside = &cluster.labs[1].inspect("b").network_settings.networks["net"];
    assert_eq!(cluster.labs[0].ping6("a", &inside.global_ipv6_address).received, 1);
    // An IPv6 header more than IPv4's.
    assert_eq!(cluster.labs[0].exec_ok("a", &["cat", "/sys/class/net/eth0/mtu"]), "1430\n");
}

#[test]
fn a_remote_that_is_not_ours_is_in_the_network() {
    let cluster = Cluster::with(1, &[]);
    let ours = &cluster.labs[0];
    let kernel = cluster.plug(7);
    kernel.sh(&format!(
        "ip link add vxlan0 type vxlan id 5000 dstport {VXLAN_PORT} local {} remote {} dev u0
         ip address add 10.9.0.200/24 dev vxlan0
         ip link set vxlan0 up",
        address(7),
        address(0)
    ));
    let remote = format!("vxlan.remote={}", address(7));
    let create = ["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "-o", "vxlan.id=5000", "-o"];
    ours.ok(&[&create[..], &[&remote, "mixed"]].concat());
    ours.run_idle("a", &["--net=mixed"]);
    ours.assert_reaches("a", "10.9.0.200");
    let a = ours.address("a", "mixed");
    kernel.sh(&format!("busybox ping -c 1 -W 10 {a}"));
    // Its address was learned from the tunnel.
    let entries: Vec<FdbEntry> = ours.http("GET", "/v1/fdb?network=mixed", "").parsed();
    let learned: Vec<_> = entries.iter().filter(|e| e.kind == FdbKind::Learned).map(|e| e.vtep).collect();
    assert_eq!(learned, [Some(address(7).into())]);
}

/// EtherTypes and tags in front of a frame's own EtherType: VLAN 5, and VLAN 7 in VLAN 6 (QinQ).
const TAGS: [&[u8]; 2] = [&[0x81, 0, 0, 5], &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 7]];

/// Ends what is sent, so that its arrival is seen.
const END: &[u8] = b"<the end>";

fn dropped(lab: &Lab, reason: &str) -> u64 {
    lab.http("GET", "/v1/stats", "").parsed::<Stats>().drops[reason]
}

fn mac_of(lab: &Lab, container: &str, network: &str) -> MacAddr {
    let settings = lab.inspect(container).network_settings.networks.remove(network);
    settings.expect("it is in the network").mac_address.parse().expect("it is a MAC address")
}

fn tagged(destination: MacAddr, source: MacAddr, tags: &[u8], payload: &[u8]) -> Vec<u8> {
    let frame = [&destination.0[..], &source.0, tags, &ETHERTYPE.to_be_bytes(), payload].concat();
    [&frame[..], &vec![0; 60_usize.saturating_sub(frame.len())]].concat()
}

/// A frame of TCP for several segments of 1,000 bytes, behind the virtio-net header of a packet socket. Its payload ends
/// with [`END`].
fn tagged_segments(destination: MacAddr, source: MacAddr, tags: &[u8]) -> Vec<u8> {
    let payload = [&[7; 20_000][..], END].concat();
    let mut ip = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 55, 0, 1, 10, 55, 0, 2];
    ip[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
    let sum = |bytes: &[u8]| bytes.chunks(2).map(|b| u32::from(b[0]) << 8 | u32::from(b[1])).sum::<u32>();
    let fold = |sum: u32| (((sum >> 16) + (sum & 0xffff)) % 0xffff) as u16;
    let checksum = !fold(sum(&ip));
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // The sum of the pseudo-header: addresses, protocol, length.
    let partial = fold(sum(&ip[12..20]) + 6 + 20 + payload.len() as u32).to_be_bytes();
    let tcp = [0x9c, 0x40, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, partial[0], partial[1], 0, 0];
    let network_at = 14 + tags.len() as u8;
    // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4; header, segment, checksum's start and place.
    let vnet = [1, 1, network_at + 40, 0, 0xe8, 3, network_at + 20, 0, 16, 0];
    [&vnet[..], &destination.0, &source.0, tags, &[8, 0], &ip, &tcp, &payload].concat()
}

#[test]
fn tagged_frames_pass_between_our_hosts() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    one.run_idle("a", &["--net=net"]);
    two.run_idle("b", &["--net=net"]);
    wait_for_name(&cluster, 0, "a", "b");
    one.assert_reaches("a", "b");
    let (a, b) = (mac_of(one, "a", "net"), mac_of(two, "b", "net"));
    let cable = Packet::open(&cluster.fabric().path("/proc/1/ns/net"), "port0");
    let receiver = Packet::open(&two.netns("b"), "eth0");
    for (tags, name) in TAGS.into_iter().zip(["vlan", "qinq"]) {
        for (destination, how) in [(b, "unicast"), (MacAddr::BROADCAST, "broadcast")] {
            let marker = format!("<{name} {how}>");
            let frame = tagged(destination, a, tags, marker.as_bytes());
            Packet::open(&one.netns("a"), "eth0").send(&frame).expect("it is sent");
            // A packet socket is not shown the outer tag of what it receives, but the cable carries all of them.
            receiver.drain_until(marker.as_bytes());
            assert!(
                cable.drain_until(marker.as_bytes()).iter().any(|packet| holds(packet, &frame)),
                "{marker}"
            );
        }
        let sender = Packet::open(&one.netns("a"), "eth0");
        sender.expect_vnet_headers();
        sender.send(&tagged_segments(b, a, tags)).expect("it is sent");
        let arrived = receiver.drain_until(END);
        let inner_tag = &tags[4..];
        let sevens: usize = arrived.iter().flatten().filter(|&&byte| byte == 7).count();
        let has_tag = inner_tag.is_empty() || arrived.iter().any(|frame| holds(frame, inner_tag));
        assert!(sevens >= 20_000 && has_tag, "{name}: {sevens} bytes in {} frames", arrived.len());
    }
    assert_eq!([one, two].map(|lab| dropped(lab, "inner_vlan")), [0, 0]);
    let stats: [Stats; 2] = [one, two].map(|lab| lab.http("GET", "/v1/stats", "").parsed());
    assert!(stats[0].tunnel.segmented_sends > 0, "{:?}", stats[0].tunnel);
    assert!(stats[1].tunnel.coalesced_frames > 0, "{:?}", stats[1].tunnel);
    // A frame of the container's whole MTU and a tag has no room in the underlay, which is counted.
    let longest = tagged(b, a, TAGS[0], &[7; 1450]);
    Packet::open(&one.netns("a"), "eth0").send(&longest).expect("it is sent");
    eventually("what does not fit is counted", || {
        ensure!(dropped(one, "tunnel_too_big") > 0, "it is not");
        Ok(())
    });
}

#[test]
fn tagged_frames_pass_to_other_tunnel_endpoints_if_the_network_says_so() {
    for is_allowed in [false, true] {
        let cluster = Cluster::with(1, &[]);
        let ours = &cluster.labs[0];
        let kernel = cluster.plug(7);
        kernel.sh(&format!(
            "ip link add vxlan0 type vxlan id 5000 dstport {VXLAN_PORT} local {} remote {} dev u0
             ip address add 10.9.0.200/24 dev vxlan0
             ip link set vxlan0 up",
            address(7),
            address(0)
        ));
        let remote = format!("vxlan.remote={}", address(7));
        let create = ["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "-o", "vxlan.id=5000"];
        let vlan = format!("vxlan.inner-vlan={is_allowed}");
        ours.ok(&[&create[..], &["-o", &remote, "-o", &vlan, "mixed"]].concat());
        ours.run_idle("a", &["--net=mixed"]);
        ours.assert_reaches("a", "10.9.0.200");
        let (a, other) = (mac_of(ours, "a", "mixed"), MacAddr([2, 0, 0, 0, 0, 9]));
        let here = Packet::open(&ours.netns("a"), "eth0");
        let there = Packet::open(&kernel.path("/proc/1/ns/net"), "vxlan0");
        for tags in TAGS {
            let before = dropped(ours, "inner_vlan");
            let out = tagged(MacAddr::BROADCAST, a, tags, b"<outwards>");
            here.send(&out).expect("it is sent");
            there.send(&tagged(a, other, tags, b"<inwards>")).expect("it is sent");
            if is_allowed {
                there.drain_until(b"<outwards>");
                here.drain_until(b"<inwards>");
                assert_eq!(dropped(ours, "inner_vlan"), 0);
            } else {
                eventually("both are counted", || {
                    let now = dropped(ours, "inner_vlan") - before;
                    ensure!(now == 2, "{now} are");
                    Ok(())
                });
            }
        }
    }
}

#[test]
fn many_containers_start_and_end_at_once_on_all_hosts() {
    const EACH: usize = 8;
    let cluster = Cluster::joined(3);
    cluster.labs[0].ok(&["network", "create", "-d", "overlay", "net"]);
    let everywhere = |work: &(dyn Fn(&Lab, &str) + Sync)| {
        std::thread::scope(|scope| {
            for (index, lab) in cluster.labs.iter().enumerate() {
                for number in 0..EACH {
                    scope.spawn(move || work(lab, &format!("c{index}-{number}")));
                }
            }
        });
    };
    everywhere(&|lab, name| {
        lab.run_idle(name, &["--net=net"]);
    });
    let network = cluster.labs[1].inspect_network("net");
    let addresses: HashSet<_> = network.containers.values().map(|c| &c.ipv4_address).collect();
    assert_eq!((network.containers.len(), addresses.len()), (3 * EACH, 3 * EACH));
    for host in 0..3 {
        for other in 0..3 {
            wait_for_name(&cluster, host, &format!("c{host}-0"), &format!("c{other}-{}", EACH - 1));
        }
    }
    cluster.labs[0].assert_reaches("c0-0", "c2-7");
    everywhere(&|lab, name| {
        lab.ok(&["rm", "-f", name]);
    });
    cluster.labs[2].ok(&["network", "rm", "net"]);
    cluster.wait_until_equal();
}
