//! Segmented frames as a TAP gives them, and the segments they stand for, taken apart the slow way.

#![allow(dead_code, reason = "each test file uses some of it")]

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use vswitch::forward::gso::Cutter;
use vswitch::frame::Frame;
use vswitch_proto::id::Vni;

pub const VXLAN_BYTES: usize = 8;
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const ECE: u8 = 0x40;
pub const CWR: u8 = 0x80;
pub const DONT_FRAGMENT: u16 = 0x4000;

pub fn vni() -> Vni {
    Vni::new(4097).unwrap()
}

pub fn vtep() -> IpAddr {
    Ipv4Addr::new(10, 8, 0, 2).into()
}

/// RFC 1071, word by word.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

/// A frame of TCP or UDP before it is cut.
#[derive(Debug, Clone)]
pub struct Whole {
    pub is_ipv6: bool,
    pub is_udp: bool,
    pub tos: u8,
    pub ttl: u8,
    pub identification: u16,
    /// Flags and offset of IPv4, flow label of IPv6.
    pub fragment: u16,
    pub ports: [u16; 2],
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    /// Multiple of four.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    pub gso_size: u16,
}

impl Whole {
    /// A usual TCP frame.
    pub fn tcp(payload_bytes: usize) -> Whole {
        Whole {
            is_ipv6: false,
            is_udp: false,
            tos: 0,
            ttl: 64,
            identification: 0xfffe,
            fragment: DONT_FRAGMENT,
            ports: [40_000, 5201],
            sequence: 0xffff_f000,
            acknowledgement: 7,
            flags: ACK | PSH,
            window: 502,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: (0..payload_bytes).map(|i| (i * 7 + i / 251) as u8).collect(),
            gso_size: 1398,
        }
    }

    pub fn network(&self) -> usize {
        14
    }

    pub fn transport(&self) -> usize {
        14 + if self.is_ipv6 { 40 } else { 20 }
    }

    pub fn header_bytes(&self) -> usize {
        self.transport() + if self.is_udp { 8 } else { 20 + self.options.len() }
    }

    pub fn protocol(&self) -> u8 {
        if self.is_udp { 17 } else { 6 }
    }

    /// As the kernel writes it into a TAP: the checksum is that of the pseudo-header.
    pub fn raw(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut frame = [&[2; 6][..], &[2, 0, 0, 0, 0, 1]].concat();
        let transport_bytes = self.header_bytes() - transport + self.payload.len();
        if self.is_ipv6 {
            let traffic = u32::from(self.tos) << 20 | u32::from(self.fragment) | 6 << 28;
            frame.extend([0x86, 0xdd]);
            frame.extend(traffic.to_be_bytes());
            frame.extend((transport_bytes as u16).to_be_bytes());
            frame.extend([self.protocol(), self.ttl]);
            frame.extend([0xfd; 16]);
            frame.extend([0xfe; 16]);
        } else {
            frame.extend([8, 0, 0x45, self.tos]);
            frame.extend((20 + transport_bytes as u16).to_be_bytes());
            frame.extend(self.identification.to_be_bytes());
            frame.extend(self.fragment.to_be_bytes());
            frame.extend([self.ttl, self.protocol(), 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let checksum = !sum(&[&frame[14..34]]);
            frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        self.ports.iter().for_each(|port| frame.extend(port.to_be_bytes()));
        if self.is_udp {
            frame.extend((transport_bytes as u16).to_be_bytes());
            frame.extend([0, 0]);
        } else {
            frame.extend(self.sequence.to_be_bytes());
            frame.extend(self.acknowledgement.to_be_bytes());
            frame.extend([(5 + self.options.len() as u8 / 4) << 4, self.flags]);
            frame.extend(self.window.to_be_bytes());
            frame.extend([0; 4]);
            frame.extend(&self.options);
        }
        frame.extend(&self.payload);
        let csum_offset: u8 = if self.is_udp { 6 } else { 16 };
        let partial = pseudo(&frame, transport, self.protocol());
        frame[transport + usize::from(csum_offset)..][..2].copy_from_slice(&partial.to_be_bytes());
        let gso_type = match (self.is_udp, self.is_ipv6) {
            (true, _) => 5,
            (false, true) => 4,
            (false, false) => 1,
        };
        let ecn = if !self.is_udp && self.flags & CWR != 0 { 0x80 } else { 0 };
        let [low, high] = self.gso_size.to_le_bytes();
        let hdr_len = (self.header_bytes() as u16).to_le_bytes();
        let mut raw = vec![1, gso_type | ecn, hdr_len[0], hdr_len[1], low, high];
        raw.extend([transport as u8, 0, csum_offset, 0, 0, 0]);
        raw.extend(frame);
        raw
    }

    pub fn count(&self) -> usize {
        self.payload.len().div_ceil(self.gso_size.into()).max(1)
    }
}

/// The folded sum of the pseudo-header of a frame.
pub fn pseudo(frame: &[u8], transport: usize, protocol: u8) -> u16 {
    let addresses = if transport == 34 { 26..34 } else { 22..54 };
    let bytes = ((frame.len() - transport) as u32).to_be_bytes();
    sum(&[&frame[addresses], &bytes, &[0, protocol]])
}

/// Whether a complete frame has right lengths and checksums.
pub fn check(frame: &[u8]) {
    let is_ipv6 = frame[12] == 0x86;
    let (transport, protocol) = if is_ipv6 { (54, frame[20]) } else { (34, frame[23]) };
    let length = if is_ipv6 { &frame[18..20] } else { &frame[16..18] };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    assert_eq!(length, frame.len() - if is_ipv6 { 54 } else { 14 });
    if !is_ipv6 {
        assert_eq!(sum(&[&frame[14..34]]), 0xffff, "header checksum");
    }
    let total = sum(&[&pseudo(frame, transport, protocol).to_be_bytes(), &frame[transport..]]);
    assert_eq!(total, 0xffff, "transport checksum");
    if protocol == 17 {
        let length = usize::from(u16::from_be_bytes([frame[transport + 4], frame[transport + 5]]));
        assert_eq!(length, frame.len() - transport);
        assert_ne!(frame[transport + 6..transport + 8], [0, 0], "no checksum");
    }
}

/// Every datagram that a frame becomes, and how many are sent at once.
pub fn cut(raw: &[u8]) -> (Vec<Vec<u8>>, Vec<usize>) {
    let frame = Frame::parse(raw).unwrap();
    let (mut datagrams, mut groups) = (vec![], vec![]);
    let cut = Cutter::default().encapsulate(vni(), &frame, |group| {
        let each: Vec<Vec<u8>> = group.each().map(ConcatBytes::concat_bytes).collect();
        assert_eq!(each.len(), group.count());
        assert_eq!(each.iter().map(Vec::len).sum::<usize>(), group.bytes());
        assert!(group.bytes() <= 65_507 && group.count() <= 64);
        let (last, others) = each.split_last().unwrap();
        assert!(others.iter().all(|datagram| datagram.len() == group.bytes_each()));
        assert!(last.len() <= group.bytes_each());
        assert_eq!(group.slices().concat_bytes(), each.concat());
        groups.push(each.len());
        datagrams.extend(each);
    });
    cut.unwrap();
    (datagrams, groups)
}

trait ConcatBytes {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl ConcatBytes for [std::io::IoSlice<'_>] {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|slice| slice.iter().copied()).collect()
    }
}

pub fn wholes() -> impl Strategy<Value = Whole> {
    let ip = (any::<bool>(), any::<u8>(), 1u8.., any::<u16>(), any::<bool>());
    let ports = any::<[u16; 2]>();
    let tcp = (any::<u32>(), any::<u32>(), 0u8..16, any::<u16>(), 0usize..11);
    let flags = prop_oneof![Just(ACK), Just(ACK | PSH), Just(ACK | FIN), Just(ACK | CWR), Just(ACK | ECE)];
    let sizes = (1usize..20_000, 400u16..1500, any::<u8>());
    (ip, ports, tcp, flags, sizes).prop_map(|(ip, ports, tcp, flags, (bytes, gso_size, seed))| Whole {
        is_ipv6: ip.0,
        is_udp: false,
        tos: ip.1,
        ttl: ip.2,
        identification: ip.3,
        fragment: if ip.4 { DONT_FRAGMENT } else { 0 },
        ports,
        sequence: tcp.0,
        acknowledgement: tcp.1,
        flags,
        window: tcp.3,
        options: (0..tcp.4 as u8 * 4).collect(),
        payload: (0..bytes).map(|i| (i as u8).wrapping_mul(31) ^ seed ^ (i >> 8) as u8).collect(),
        gso_size,
    })
}
