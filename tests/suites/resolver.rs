//! The resolver at a network's gateway, asked by datagrams from inside of containers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use vswitch_tests::wait::eventually;
use vswitch_tests::{Cluster, Lab, netns};

const A: u16 = 1;
const PTR: u16 = 12;
const AAAA: u16 = 28;

/// How often an alias is asked for.
const ASKED: usize = 40;

/// A socket inside of a container, and the resolver that it asks.
struct Asker {
    socket: UdpSocket,
    next: u16,
}

/// An answer: its code, whether it is cut off, and the data of its records.
#[derive(Debug)]
struct Answer {
    code: u8,
    is_truncated: bool,
    records: Vec<Vec<u8>>,
}

impl Asker {
    fn new(lab: &Lab, container: &str, resolver: &str) -> Asker {
        let resolver: SocketAddr = (resolver.parse::<IpAddr>().unwrap(), 53).into();
        let any: SocketAddr = match resolver {
            SocketAddr::V4(_) => "0.0.0.0:0".parse().unwrap(),
            SocketAddr::V6(_) => "[::]:0".parse().unwrap(),
        };
        let socket = netns::inside(&lab.netns(container), || UdpSocket::bind(any)).unwrap();
        socket.connect(resolver).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Asker { socket, next: 1 }
    }

    /// With ids that are counted up. A datagram that is lost is sent again.
    fn ask(&mut self, name: &str, kind: u16) -> Answer {
        self.next = self.next.wrapping_add(1);
        let mut query = self.next.to_be_bytes().to_vec();
        query.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        for label in name.split('.') {
            query.push(label.len() as u8);
            query.extend(label.as_bytes());
        }
        query.push(0);
        query.extend([kind.to_be_bytes(), [0, 1]].concat());
        eventually(&format!("an answer to {name}"), || {
            self.socket.send(&query)?;
            let mut reply = [0; 2048];
            let bytes = self.socket.recv(&mut reply).context("no answer")?;
            ensure!(reply[..2] == query[..2], "an answer to another question");
            Ok(parse(&reply[..bytes], query.len()))
        })
    }

    fn addresses(&mut self, name: &str, kind: u16) -> Vec<IpAddr> {
        let answer = self.ask(name, kind);
        assert!(answer.code == 0 && !answer.is_truncated, "{name}: {answer:?}");
        answer.records.iter().map(|data| ip(data)).collect()
    }

    /// The name that an address has, if it has one.
    fn name(&mut self, address: IpAddr) -> Result<String, u8> {
        let answer = self.ask(&reverse(address), PTR);
        let Some(mut data) = answer.records.first().map(Vec::as_slice) else { return Err(answer.code) };
        let mut labels = Vec::new();
        while let Some((length, rest)) = data.split_first().filter(|(length, _)| **length > 0) {
            let (label, rest) = rest.split_at(usize::from(*length));
            labels.push(String::from_utf8_lossy(label).into_owned());
            data = rest;
        }
        Ok(labels.join("."))
    }
}

/// All records have a name of two bytes, a pointer.
fn parse(reply: &[u8], mut at: usize) -> Answer {
    let mut records = Vec::new();
    for _ in 0..u16::from_be_bytes([reply[6], reply[7]]) {
        let bytes = usize::from(u16::from_be_bytes([reply[at + 10], reply[at + 11]]));
        records.push(reply[at + 12..at + 12 + bytes].to_vec());
        at += 12 + bytes;
    }
    assert_eq!(at, reply.len(), "{reply:?}");
    Answer { code: reply[3] & 0xf, is_truncated: reply[2] & 2 != 0, records }
}

fn ip(data: &[u8]) -> IpAddr {
    match <[u8; 4]>::try_from(data) {
        Ok(four) => four.into(),
        Err(_) => <[u8; 16]>::try_from(data).unwrap().into(),
    }
}

fn reverse(address: IpAddr) -> String {
    let (digits, end): (Vec<String>, _) = match address {
        IpAddr::V4(ip) => (ip.octets().iter().map(u8::to_string).collect(), "in-addr.arpa"),
        IpAddr::V6(ip) => {
            let nibbles = ip.octets().into_iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
            (nibbles.map(|nibble| format!("{nibble:x}")).collect(), "ip6.arpa")
        }
    };
    let mut digits = digits;
    digits.reverse();
    format!("{}.{end}", digits.join("."))
}

/// The addresses of a container in a network.
fn addresses_of(lab: &Lab, container: &str, network: &str) -> [IpAddr; 2] {
    let settings = lab.inspect(container).network_settings.networks.remove(network).unwrap();
    [settings.ip_address, settings.global_ipv6_address].map(|text| text.parse().unwrap())
}

/// Asks for an alias and checks that each answer has all addresses, and that the first one changes.
fn check_alias(asker: &mut Asker, alias: &str, expected: &BTreeSet<IpAddr>) {
    for kind in [A, AAAA] {
        let family = |ip: &&IpAddr| ip.is_ipv4() == (kind == A);
        let expected: BTreeSet<IpAddr> = expected.iter().filter(family).copied().collect();
        let mut first: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for _ in 0..ASKED {
            let told = asker.addresses(alias, kind);
            assert_eq!(told.iter().copied().collect::<BTreeSet<_>>(), expected, "all of them");
            assert_eq!(told.len(), expected.len(), "each once");
            *first.entry(told[0]).or_default() += 1;
        }
        assert!(first.len() * 2 >= expected.len(), "the first one changes: {first:?}");
    }
}

#[test]
fn an_alias_of_twelve_containers_on_one_host() {
    let lab = Lab::new();
    let subnets = ["--ipv6", "--subnet=10.3.0.0/24", "--subnet=fd03::/64"];
    lab.ok(&[&["network", "create"], &subnets[..], &["net"]].concat());
    let mut expected = BTreeSet::new();
    for n in 0..12 {
        let name = format!("c{n}");
        lab.run_idle(&name, &["--net=net", "--network-alias=web"]);
        expected.extend(addresses_of(&lab, &name, "net"));
    }
    for resolver in ["10.3.0.1", "fd03::1"] {
        check_alias(&mut Asker::new(&lab, "c0", resolver), "web", &expected);
        check_alias(&mut Asker::new(&lab, "c11", resolver), "web.net", &expected);
    }
}

#[test]
fn an_alias_of_twelve_containers_across_hosts() {
    let cluster = Cluster::joined(2);
    let [one, two] = &cluster.labs[..] else { panic!("there are two") };
    let subnets = ["--ipv6", "--subnet=10.3.0.0/24", "--subnet=fd03::/64"];
    one.ok(&[&["network", "create", "-d", "overlay"], &subnets[..], &["net"]].concat());
    cluster.wait_until_equal();
    let mut expected = BTreeSet::new();
    for n in 0..12 {
        let (lab, name) = (&cluster.labs[n % 2], format!("c{n}"));
        lab.run_idle(&name, &["--net=net", "--network-alias=web"]);
        expected.extend(addresses_of(lab, &name, "net"));
    }
    cluster.wait_until_equal();
    for (lab, container) in [(one, "c0"), (two, "c1")] {
        let mut asker = Asker::new(lab, container, "10.3.0.1");
        eventually("the host knows all", || {
            let told = asker.addresses("web", A).len();
            ensure!(told == 12, "{told}");
            Ok(())
        });
        check_alias(&mut asker, "web", &expected);
        // Of either host's containers.
        for (lab, name) in [(one, "c2"), (two, "c3")] {
            for address in addresses_of(lab, name, "net") {
                assert_eq!(asker.name(address), Ok(format!("{name}.net")), "{address}");
            }
        }
    }
}

#[test]
fn addresses_have_names_while_somebody_has_them() {
    let lab = Lab::new();
    let subnets = ["--ipv6", "--subnet=10.3.0.0/24", "--subnet=fd03::/64"];
    lab.ok(&[&["network", "create"], &subnets[..], &["Net-1"]].concat());
    lab.run_idle("a", &["--net=Net-1"]);
    let id = lab.run_idle("Web.One", &["--net=Net-1", "--network-alias=front"]);
    let elsewhere = lab.run_idle("elsewhere", &[]);
    let mut asker = Asker::new(&lab, "a", "10.3.0.1");
    let [four, six] = addresses_of(&lab, "Web.One", "Net-1");
    for address in [four, six] {
        assert_eq!(asker.name(address), Ok("Web.One.Net-1".into()), "as it is written");
    }
    // There and back again, by each of its names.
    for name in ["Web.One.Net-1", "web.one.net-1", "front", &id[..12], &format!("{}.net-1", &id[..12])] {
        assert_eq!(asker.addresses(name, A), [four], "{name}");
        assert_eq!(asker.addresses(name, AAAA), [six], "{name}");
    }
    const NO_SUCH_NAME: u8 = 3;
    const REFUSED: u8 = 5;
    for (address, code) in [
        ("10.3.0.77", NO_SUCH_NAME),
        ("fd03::77", NO_SUCH_NAME),
        ("172.17.0.2", REFUSED),
        ("192.0.2.1", REFUSED),
        ("2001:db8::1", REFUSED),
    ] {
        assert_eq!(asker.name(address.parse().unwrap()), Err(code), "{address}");
    }
    assert_eq!(asker.ask(&elsewhere[..12], A).code, REFUSED, "of another network");
    lab.ok(&["rm", "-f", "Web.One"]);
    eventually("the name is gone with the container", || {
        let name = asker.name(four);
        ensure!(name == Err(NO_SUCH_NAME), "{name:?}");
        Ok(())
    });
}
