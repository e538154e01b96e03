//! Port security with real kernels: a hostile container sends raw frames, and others must not notice.

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::ensure;
use vswitch_proto::api::{FdbEntry, FdbKind, Stats};
use vswitch_proto::id::MacAddr;
use vswitch_proto::wire::ethernet::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6};
use vswitch_tests::cluster::address;
use vswitch_tests::packet::{self, ETHERTYPE, Packet, holds};
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab, netns};

#[path = "port_security/frames.rs"]
mod frames;

use frames::{advertisement, arp, group_of_all_nodes, router_advertisement};

const VXLAN_PORT: u16 = 4789;

/// The virtual MAC address of VRRP with the virtual router id 51 (RFC 9568 section 7.3).
const VIRTUAL_MAC: MacAddr = MacAddr([0, 0, 0x5e, 0, 1, 51]);

/// An interface of a container.
struct Interface<'a> {
    lab: &'a Lab,
    container: &'a str,
    mac: MacAddr,
    ipv4: Ipv4Addr,
    ipv6: Option<Ipv6Addr>,
    socket: Packet,
}

impl<'a> Interface<'a> {
    fn of(lab: &'a Lab, container: &'a str, network: &str) -> Interface<'a> {
        let settings = lab.inspect(container).network_settings.networks.remove(network);
        let settings = settings.expect("the container is in the network");
        Interface {
            lab,
            container,
            mac: settings.mac_address.parse().expect("a MAC address"),
            ipv4: settings.ip_address.parse().expect("an IPv4 address"),
            ipv6: settings.global_ipv6_address.parse().ok(),
            socket: Packet::open(&lab.netns(container), "eth0"),
        }
    }

    /// Runs a script in the container's network namespace, with the rights of the machine's root.
    fn sh(&self, script: &str) -> String {
        let pid = self.lab.inspect(self.container).state.pid;
        self.lab.sh(&format!("nsenter --net=/proc/{pid}/ns/net sh -ec '{script}'"))
    }

    /// Has the kernel believe each claim at once, even if it has heard another one just before.
    fn believe_at_once(&self) {
        self.sh("echo 0 > /proc/sys/net/ipv4/neigh/eth0/locktime");
    }

    fn send(&self, destination: MacAddr, source: MacAddr, ethertype: u16, payload: &[u8]) {
        self.socket.send(&packet::frame(destination, source, ethertype, payload)).expect("it is sent");
    }

    /// Frames that hold a ping to this address.
    fn pings_seen(&self, to: Ipv4Addr) -> usize {
        let is_ping = |frame: &&Vec<u8>| {
            frame[12..14] == ETHERTYPE_IPV4.to_be_bytes() && frame[30..34] == to.octets() && frame[34] == 8
        };
        self.socket.drain().iter().filter(is_ping).count()
    }

    /// Five pings, all of which are answered.
    fn pings(&self, to: Ipv4Addr) {
        let to = to.to_string();
        let command = ["busybox", "ping", "-c", "5", "-i", "0.05", "-w", "20", &to];
        let output = self.lab.exec_ok(self.container, &command);
        assert!(output.contains("5 packets transmitted, 5 packets received"), "{output}");
    }
}

fn drops(lab: &Lab, reason: &str) -> u64 {
    lab.http("GET", "/v1/stats", "").parsed::<Stats>().drops[reason]
}

/// Until this many more frames than `before` were dropped for a reason.
fn wait_for_drops(lab: &Lab, reason: &str, before: u64, more: usize) {
    eventually(&format!("{more} frames are dropped: {reason}"), || {
        let count = drops(lab, reason) - before;
        ensure!(count >= more as u64, "{count} were");
        Ok(())
    });
}

/// Claims of an IPv4 address for `mac`: replies and requests, to one host and to all.
fn claims(mac: MacAddr, ip: Ipv4Addr, victim: &Interface<'_>) -> Vec<(MacAddr, Vec<u8>)> {
    vec![
        (victim.mac, arp(2, mac, ip, victim.ipv4)),
        (MacAddr::BROADCAST, arp(2, mac, ip, ip)),
        (MacAddr::BROADCAST, arp(1, mac, ip, ip)),
        (victim.mac, arp(1, mac, ip, victim.ipv4)),
    ]
}

/// The attacker claims the server's address, and gets none of the client's five requests.
fn attack(attacker: &Interface<'_>, client: &Interface<'_>, server: &Interface<'_>) {
    client.believe_at_once();
    client.pings(server.ipv4);
    attacker.socket.drain();
    let before = drops(attacker.lab, "guard_arp");
    let claims = claims(attacker.mac, server.ipv4, client);
    for (destination, claim) in &claims {
        attacker.send(*destination, attacker.mac, ETHERTYPE_ARP, claim);
    }
    wait_for_drops(attacker.lab, "guard_arp", before, claims.len());
    client.pings(server.ipv4);
    assert_eq!(attacker.pings_seen(server.ipv4), 0);

    let stolen_mac = drops(attacker.lab, "guard_mac");
    client.socket.drain();
    for _ in 0..10 {
        attacker.send(client.mac, server.mac, ETHERTYPE, b"from the server, it says");
    }
    attacker.send(client.mac, attacker.mac, ETHERTYPE, b"the last one");
    let seen = client.socket.drain_until(b"the last one");
    assert!(!seen.iter().any(|frame| holds(frame, b"it says")), "{seen:02x?}");
    wait_for_drops(attacker.lab, "guard_mac", stolen_mac, 10);
    client.pings(server.ipv4);
}

#[test]
fn a_neighbours_address_cannot_be_claimed_on_one_host() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--ipv6", "--subnet=10.1.0.0/24", "--subnet=fd01::/64", "net"]);
    for name in ["client", "server", "attacker"] {
        lab.run_idle(name, &["--net=net"]);
    }
    let [client, server, attacker] =
        ["client", "server", "attacker"].map(|name| Interface::of(&lab, name, "net"));
    attack(&attacker, &client, &server);
    // The gateway's address is nobody's, either.
    let before = drops(&lab, "guard_arp");
    let gateway = Ipv4Addr::new(10, 1, 0, 1);
    let claims = claims(attacker.mac, gateway, &client);
    for (destination, claim) in &claims {
        attacker.send(*destination, attacker.mac, ETHERTYPE_ARP, claim);
    }
    wait_for_drops(&lab, "guard_arp", before, claims.len());
    client.pings(gateway);
    assert_eq!(attacker.pings_seen(gateway), 0);
    // IPv6: an unsolicited advertisement that overrides what was known.
    let (client_v6, server_v6) = (client.ipv6.expect("IPv6"), server.ipv6.expect("IPv6"));
    assert_eq!(lab.ping6("client", &server_v6.to_string()).received, 1);
    let before = drops(&lab, "guard_nd");
    for (destination, to) in [(client.mac, client_v6), group_of_all_nodes()] {
        let claim = advertisement(attacker.ipv6.expect("IPv6"), to, server_v6, attacker.mac);
        attacker.send(destination, attacker.mac, ETHERTYPE_IPV6, &claim);
        let claim = advertisement(server_v6, to, server_v6, attacker.mac);
        attacker.send(destination, attacker.mac, ETHERTYPE_IPV6, &claim);
    }
    wait_for_drops(&lab, "guard_nd", before, 4);
    let known = client.sh("ip -6 neigh show dev eth0");
    assert!(known.contains(&server.mac.to_string()) && !known.contains(&attacker.mac.to_string()), "{known}");
    assert_eq!(lab.ping6("client", &server_v6.to_string()).received, 1);
}

#[test]
fn a_neighbours_address_cannot_be_claimed_on_two_hosts() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "-o", "vxlan.id=5000", "net"]);
    for name in ["client", "server"] {
        one.run_idle(name, &["--net=net"]);
    }
    two.run_idle("attacker", &["--net=net"]);
    let [client, server] = ["client", "server"].map(|name| Interface::of(one, name, "net"));
    let attacker = Interface::of(two, "attacker", "net");
    eventually("both hosts know the attacker", || {
        ensure!(one.inspect_network("net").containers.len() == 3);
        Ok(())
    });
    attack(&attacker, &client, &server);
    // The same from the other host itself, past its own switch.
    let sender = netns::inside(&two.path("/proc/1/ns/net"), || UdpSocket::bind("0.0.0.0:0").unwrap());
    let header = [8, 0, 0, 0, 0, 0x13, 0x88, 0];
    let before = ["guard_arp", "guard_mac"].map(|reason| drops(one, reason));
    let claims = claims(attacker.mac, server.ipv4, &client);
    for (destination, claim) in &claims {
        let frame = packet::frame(*destination, attacker.mac, ETHERTYPE_ARP, claim);
        sender.send_to(&[&header[..], &frame].concat(), (address(0), VXLAN_PORT)).unwrap();
    }
    let frame = packet::frame(client.mac, server.mac, ETHERTYPE, b"from the server, it says");
    sender.send_to(&[&header[..], &frame].concat(), (address(0), VXLAN_PORT)).unwrap();
    wait_for_drops(one, "guard_arp", before[0], claims.len());
    wait_for_drops(one, "guard_mac", before[1], 1);
    client.pings(server.ipv4);
    assert_eq!(attacker.pings_seen(server.ipv4), 0);
}

/// Without port security the same claims work, so the tests above can fail.
#[test]
fn without_port_security_the_attack_succeeds() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "-o", "vswitch.port-security=off", "--subnet=10.1.0.0/24", "net"]);
    for name in ["client", "server", "attacker"] {
        lab.run_idle(name, &["--net=net"]);
    }
    let [client, server, attacker] =
        ["client", "server", "attacker"].map(|name| Interface::of(&lab, name, "net"));
    client.believe_at_once();
    client.pings(server.ipv4);
    for (destination, claim) in claims(attacker.mac, server.ipv4, &client) {
        attacker.send(destination, attacker.mac, ETHERTYPE_ARP, &claim);
    }
    eventually("the attacker gets requests", || {
        lab.ping_in_vain("client", &server.ipv4.to_string());
        ensure!(attacker.pings_seen(server.ipv4) > 0);
        Ok(())
    });
    client.socket.drain();
    attacker.send(client.mac, server.mac, ETHERTYPE, b"from the server, it says");
    client.socket.drain_until(b"it says");
    // The gateway's MAC address is protected all the same.
    let before = drops(&lab, "bad_source");
    attacker.send(client.mac, MacAddr([2, 0x42, 10, 1, 0, 1]), ETHERTYPE, b"from the gateway");
    wait_for_drops(&lab, "bad_source", before, 1);
}

#[test]
fn router_advertisements_configure_nobody() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--internal", "--subnet=10.1.0.0/24", "internal"]);
    lab.ok(&["network", "create", "--ipv6", "--subnet=10.2.0.0/24", "--subnet=fd02::/64", "both"]);
    let servers = ["network", "create", "--ipv6", "--subnet=10.3.0.0/24", "--subnet=fd03::/64"];
    lab.ok(&[&servers[..], &["-o", "vswitch.servers=router", "allowed"]].concat());
    for network in ["internal", "both", "allowed"] {
        let [router, victim] = ["router", "victim"].map(|role| format!("{role}-{network}"));
        for name in [&router, &victim] {
            lab.run_idle(name, &["--net", network]);
        }
        let [router, victim] = [&router, &victim].map(|name| Interface::of(&lab, name, network));
        let before = drops(&lab, "guard_router");
        let (group, _) = group_of_all_nodes();
        router.send(group, router.mac, ETHERTYPE_IPV6, &router_advertisement(router.mac));
        router.send(group, router.mac, ETHERTYPE, b"the last one");
        let seen = victim.socket.drain_until(b"the last one");
        let is_allowed = network == "allowed";
        let advertised = |frame: &Vec<u8>| frame[12..14] == ETHERTYPE_IPV6.to_be_bytes() && frame[54] == 134;
        assert_eq!(seen.iter().any(advertised), is_allowed, "{network}");
        assert_eq!(drops(&lab, "guard_router") - before, u64::from(!is_allowed), "{network}");
        // Not even where they are let through: the lab runner's containers have been given their addresses.
        assert_eq!(victim.sh("ip -6 route show default proto ra"), "", "{network}");
        let disabled = victim.sh("cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6");
        assert_eq!(disabled.trim(), if network == "internal" { "1" } else { "0" });
        assert_eq!(
            victim.sh("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim() == "0",
            network != "internal"
        );
    }
}

/// VRRP with a virtual MAC address, and keepalived's default, the interface's own.
#[test]
fn floating_addresses_move() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet=10.1.0.0/24", "net"]);
    for name in ["client", "one", "two"] {
        lab.run_idle(name, &["--net=net"]);
    }
    let [client, one, two] = ["client", "one", "two"].map(|name| Interface::of(&lab, name, "net"));
    client.believe_at_once();
    let (with_virtual_mac, with_own) = (Ipv4Addr::new(10, 1, 0, 200), Ipv4Addr::new(10, 1, 0, 201));
    for owner in [&one, &two, &one] {
        for former in [&one, &two] {
            former.sh("ip link del vrrp0 2>/dev/null || true");
            former.sh(&format!("ip address del {with_own}/24 dev eth0 2>/dev/null || true"));
        }
        owner.sh(&format!(
            "ip link add vrrp0 address {VIRTUAL_MAC} link eth0 type macvlan mode private && \
             ip address add {with_virtual_mac}/24 dev vrrp0 && ip link set vrrp0 up && \
             ip address add {with_own}/24 dev eth0"
        ));
        let claim = arp(1, VIRTUAL_MAC, with_virtual_mac, with_virtual_mac);
        owner.send(MacAddr::BROADCAST, VIRTUAL_MAC, ETHERTYPE_ARP, &claim);
        owner.send(MacAddr::BROADCAST, owner.mac, ETHERTYPE_ARP, &arp(1, owner.mac, with_own, with_own));
        lab.assert_reaches("client", &with_virtual_mac.to_string());
        lab.assert_reaches("client", &with_own.to_string());
    }
    assert_eq!(drops(&lab, "guard_arp") + drops(&lab, "guard_mac") + drops(&lab, "guard_ip"), 0);
}

/// Two networks that a container's own bridge makes one.
#[test]
fn a_container_may_bridge_others() {
    let lab = Lab::new();
    lab.ok(&["network", "create", "--subnet=10.1.0.0/24", "left"]);
    lab.ok(&["network", "create", "--subnet=10.2.0.0/24", "right"]);
    lab.run_idle("bridge", &["--net=left"]);
    lab.ok(&["network", "connect", "right", "bridge"]);
    lab.run_idle("a", &["--net=left"]);
    lab.run_idle("b", &["--net=right"]);
    let bridge = Interface::of(&lab, "bridge", "left");
    bridge.sh("ip link add br0 type bridge forward_delay 0 && ip link set eth0 master br0 && \
         ip link set eth1 master br0 && ip link set br0 up");
    for (name, network, address) in [("a", "left", "10.9.0.1"), ("b", "right", "10.9.0.2")] {
        Interface::of(&lab, name, network).sh(&format!("ip address add {address}/24 dev eth0"));
    }
    lab.assert_reaches("a", "10.9.0.2");
    lab.assert_reaches("b", "10.9.0.1");
}

#[test]
fn strict_networks_take_leased_addresses_only() {
    let lab = Lab::new();
    let create = ["network", "create", "-o", "vswitch.port-security=strict", "--ipv6"];
    lab.ok(&[&create[..], &["--subnet=10.1.0.0/24", "--subnet=fd01::/64", "net"]].concat());
    for name in ["a", "b"] {
        lab.run_idle(name, &["--net=net"]);
    }
    let [a, b] = ["a", "b"].map(|name| Interface::of(&lab, name, "net"));
    a.pings(b.ipv4);
    assert_eq!(lab.ping6("a", &b.ipv6.expect("IPv6").to_string()).received, 1);
    assert_eq!(drops(&lab, "guard_unleased"), 0, "not even what kernels send by themselves");
    a.sh("ip address add 10.1.0.77/24 dev eth0");
    let ping =
        lab.exec("a", &["busybox", "ping", "-I", "10.1.0.77", "-c", "1", "-W", "1", &b.ipv4.to_string()]);
    assert_ne!(ping.code, 0, "{ping:?}");
    lab.assert_cannot_reach("b", "10.1.0.77");
    let before = drops(&lab, "guard_unleased");
    assert!(before > 0);
    a.send(MacAddr::BROADCAST, VIRTUAL_MAC, ETHERTYPE, b"from a virtual router");
    wait_for_drops(&lab, "guard_unleased", before, 1);
    a.pings(b.ipv4);
}

#[test]
fn the_options_are_checked_and_shown() {
    let cluster = Cluster::joined(1);
    let lab = &cluster.labs[0];
    for driver in ["bridge", "overlay"] {
        let own = format!("own-{driver}");
        let create = |options: &[&str], name: &str| {
            let options: Vec<&str> = options.iter().flat_map(|option| ["-o", option]).collect();
            [&["network", "create", "-d", driver], &options[..], &[name]].concat().join(" ")
        };
        let run = |line: String, code: i32| {
            let args: Vec<&str> = line.split(' ').collect();
            if code == 0 { lab.ok(&args) } else { lab.fails(&args, code) }
        };
        let told = run(create(&["vswitch.port-security=on"], "bad"), 2);
        assert!(told.contains("give registered (the default), strict or off"), "{told}");
        let told = run(create(&["vswitch.servers=dns"], "bad"), 2);
        assert!(told.contains("give dhcp, router, or both"), "{told}");
        run(create(&["vswitch.port-security=strict", "vswitch.servers=dhcp"], &own), 0);
        let shown = lab.inspect_network(&own).options;
        assert_eq!(
            (shown["vswitch.port-security"].as_str(), shown["vswitch.servers"].as_str()),
            ("strict", "dhcp")
        );
    }
}

#[test]
fn a_released_address_is_free_for_its_next_owner() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "--subnet=10.9.0.0/24", "net"]);
    one.run_idle("client-1", &["--net=net"]);
    two.run_idle("client-2", &["--net=net"]);
    let service = Ipv4Addr::new(10, 9, 0, 50);
    let reaches = |lab: &Lab, client: &str| {
        eventually(&format!("{client} reaches the service"), || {
            ensure!(lab.ping(client, &service.to_string()).received == 1);
            Ok(())
        });
    };
    for lab in [one, two, one] {
        lab.run_idle("service", &["--net=net", "--ip=10.9.0.50"]);
        reaches(one, "client-1");
        reaches(two, "client-2");
        lab.ok(&["rm", "-f", "service"]);
    }
    // Between two leases anybody may use it.
    let client = Interface::of(one, "client-1", "net");
    eventually("the other host knows that it is free", || {
        ensure!(two.inspect_network("net").containers.len() == 2);
        Ok(())
    });
    client.sh("ip address add 10.9.0.50/24 dev eth0");
    // As whoever takes an address over does: the other client still knows the MAC address of the service.
    Interface::of(two, "client-2", "net").believe_at_once();
    client.send(MacAddr::BROADCAST, client.mac, ETHERTYPE_ARP, &arp(1, client.mac, service, service));
    reaches(two, "client-2");
}

/// Addresses that were learned before they were registered, and what was behind an endpoint that went.
#[test]
fn nothing_stays_learned_behind_endpoints_that_went() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    one.ok(&["network", "create", "-d", "overlay", "net"]);
    let known = |lab: &Lab, kind: FdbKind| {
        let entries: Vec<FdbEntry> = lab.http("GET", "/v1/fdb?network=net", "").parsed();
        entries.into_iter().filter(|entry| entry.kind == kind).map(|entry| entry.mac).collect::<Vec<_>>()
    };
    let wait_for = |what: &str, lab: &Lab, kind: FdbKind, count: usize| {
        eventually(what, || {
            let found = known(lab, kind);
            ensure!(found.len() == count, "{found:?}");
            Ok(())
        });
    };
    two.run_idle("watcher", &["--net=net"]);
    one.run_idle("early", &["--net=net"]);
    wait_for("both are known", two, FdbKind::Endpoint, 2);
    let early = Interface::of(one, "early", "net");
    let macs: Vec<MacAddr> = (0..100).map(|n| MacAddr([2, 0, 0, 0, 7, n])).collect();
    for mac in &macs {
        early.send(MacAddr::BROADCAST, *mac, ETHERTYPE, b"here I am");
    }
    wait_for("all are learned there", two, FdbKind::Learned, 100);
    wait_for("all are learned here", one, FdbKind::Learned, 100);
    // One of them gets a lease, on this host, and is no longer a learned one on either.
    one.run_idle("late", &["--net=net", "--mac-address", &macs[0].to_string()]);
    wait_for("it is registered there", two, FdbKind::Learned, 99);
    wait_for("it is registered here", one, FdbKind::Learned, 99);
    assert!(known(two, FdbKind::Endpoint).contains(&macs[0]));
    // The others go with the endpoint that they are behind: here at once, there with the last one of this host.
    one.ok(&["rm", "-f", "early"]);
    assert_eq!(known(one, FdbKind::Learned), []);
    one.ok(&["rm", "-f", "late"]);
    wait_for("nothing is left", two, FdbKind::Learned, 0);
    assert_eq!(known(two, FdbKind::Endpoint).len(), 1);
}
