//! Messages of an attacker.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{Icmpv6Header, Icmpv6Type};
use vswitch_proto::id::MacAddr;

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// All nodes of the link, and the MAC address that they listen to.
pub fn group_of_all_nodes() -> (MacAddr, Ipv6Addr) {
    (MacAddr([0x33, 0x33, 0, 0, 0, 1]), ALL_NODES)
}

/// `operation` 1 is a request, 2 a reply.
pub fn arp(operation: u8, mac: MacAddr, ip: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, operation];
    [&head[..], &mac.0, &ip.octets(), &[0; 6], &target.octets()].concat()
}

/// An unsolicited neighbour advertisement with the override flag: `target` is at `mac`.
pub fn advertisement(source: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, mac: MacAddr) -> Vec<u8> {
    let body = [&target.octets()[..], &[2, 1], &mac.0].concat();
    icmpv6(136, [0x20, 0, 0, 0], (source, to), &body)
}

/// A router advertisement for 1800 seconds, with a prefix for addresses.
pub fn router_advertisement(mac: MacAddr) -> Vec<u8> {
    let [a, b, c, d, e, f] = mac.0.map(u16::from);
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, (a ^ 2) << 8 | b, c << 8 | 0xff, 0xfe00 | d, e << 8 | f);
    let prefix = Ipv6Addr::new(0x2001, 0xdb8, 0x66, 0, 0, 0, 0, 0).octets();
    let times = [0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0];
    let body = [&[0; 8], &[1, 1][..], &mac.0, &[3, 4, 64, 0xc0], &times, &prefix].concat();
    icmpv6(134, [64, 0, 7, 8], (source, ALL_NODES), &body)
}

/// `rest` is what follows the checksum.
fn icmpv6(kind: u8, rest: [u8; 4], (source, to): (Ipv6Addr, Ipv6Addr), body: &[u8]) -> Vec<u8> {
    let message = Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8: rest };
    let header = Icmpv6Header::with_checksum(message, source.octets(), to.octets(), body);
    let header = header.expect("the message is short").to_bytes();
    let length = (header.len() + body.len()) as u16;
    let ip =
        [&[0x60, 0, 0, 0], &length.to_be_bytes()[..], &[58, 255], &source.octets(), &to.octets()].concat();
    [&ip[..], &header, body].concat()
}
