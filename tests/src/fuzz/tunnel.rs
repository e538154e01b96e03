//! Both ends of a tunnel: what a TAP's frame becomes, and what any datagram becomes.

use std::net::{IpAddr, Ipv4Addr};

use vswitch::forward::coalesce::{self, Coalescer, Fit, GROUPS_MAX, Inner, Origin};
use vswitch::forward::gso::Cutter;
use vswitch::forward::vxlan;
use vswitch::frame::headers::Headers;
use vswitch::frame::{DATAGRAMS_MAX, FRAME_BYTES_MAX, Frame, SEND_BYTES_MAX};
use vswitch_proto::id::{PortId, Vni};
use vswitch_proto::wire::checksum::Sum;
use vswitch_proto::wire::vnet_hdr::HEADER_BYTES;
use vswitch_proto::wire::vxlan::{HEADER_BYTES as VXLAN_BYTES, header};

const MTU: usize = 1450;

fn vni() -> Vni {
    Vni::new(4097).expect("it is not 0")
}

/// What a TAP gives, virtio-net header included, goes through a tunnel: every datagram is whole, checksums of segments
/// are right, and nothing of the frame is lost on the other side.
pub fn gso(data: &[u8]) {
    let Ok(frame) = Frame::parse(data) else { return };
    let mut datagrams: Vec<Vec<u8>> = vec![];
    let cut = Cutter::default().encapsulate(vni(), &frame, |group| {
        assert!(group.bytes() <= SEND_BYTES_MAX && group.count() <= DATAGRAMS_MAX);
        let before = datagrams.len();
        for slices in group.each() {
            datagrams.push(slices.iter().flat_map(|slice| slice.iter().copied()).collect());
        }
        let (last, others) = datagrams[before..].split_last().expect("no group is empty");
        assert!(last.len() <= group.bytes_each());
        assert!(others.iter().all(|datagram| datagram.len() == group.bytes_each()));
    });
    if cut.is_err() {
        return assert!(datagrams.is_empty(), "half of a frame was sent");
    }
    for datagram in &datagrams {
        assert_eq!(datagram[..VXLAN_BYTES], header(vni()));
        assert_eq!(datagram[VXLAN_BYTES..][..12], frame.bytes()[..12]);
        if frame.vnet().is_gso() {
            assert_segment(&datagram[VXLAN_BYTES..], usize::from(frame.vnet().csum_start));
        }
    }
    // The sizes of the headers and of what is behind them add up.
    let bytes: usize = datagrams.iter().map(|datagram| datagram.len() - VXLAN_BYTES).sum();
    let repeated = datagrams.len() - 1;
    assert!(bytes >= frame.bytes().len() && (bytes - frame.bytes().len()).is_multiple_of(repeated.max(1)));
    if repeated == 0 {
        assert_eq!(bytes, frame.bytes().len());
    }
    arrive(&datagrams);
}

/// The transport checksum of a segment covers all of it.
fn assert_segment(frame: &[u8], transport_at: usize) {
    let headers = Headers::parse(frame).expect("a segment has the headers of its frame");
    assert_eq!(headers.network_at + headers.packet_bytes(frame), frame.len());
    let transport = &frame[transport_at..];
    let pseudo = Sum::pseudo_header(headers.addresses(frame), headers.protocol, transport.len());
    assert!(pseudo.bytes(transport).is_intact(), "the checksum of a segment is wrong");
}

/// Datagrams as they come from anybody: the first two bytes say how long each is that the kernel put together, zero for
/// a single one.
pub fn vxlan(data: &[u8]) {
    let Some((size, message)) = data.split_first_chunk::<2>() else { return };
    let size = usize::from(u16::from_le_bytes(*size));
    if size == 0 {
        return arrive(&[message.to_vec()]);
    }
    match vxlan::uncut(message, size) {
        Some((_, frame, vnet)) => {
            let raw = [&vnet.to_bytes(), frame.bytes()].concat();
            assert!(Frame::parse(&raw).is_ok(), "a TAP would refuse it");
        }
        None => arrive(&message.chunks(size).map(<[u8]>::to_vec).collect::<Vec<_>>()),
    }
}

/// Passes datagrams on as a worker does: all of each inner frame is written once, and only frames that are well-formed.
fn arrive(datagrams: &[Vec<u8>]) {
    let buffer: Vec<u8> = datagrams.concat();
    let (mut coalescer, mut end, mut given, mut written) = (Coalescer::default(), 0, 0, 0);
    let vtep = IpAddr::V4(Ipv4Addr::new(10, 8, 0, 2));
    for datagram in datagrams {
        end += datagram.len();
        let Ok((vni, frame)) = vxlan::decapsulate(datagram) else { continue };
        given += 1;
        let origin = Origin { vni, vtep };
        let _ = vxlan::flow_hash(frame.bytes());
        let Inner::Tcp(segment) = coalesce::read(&frame) else {
            let vnet = vxlan::unfinished(&frame, MTU);
            assert!(Frame::parse(&[&vnet.to_bytes(), frame.bytes()].concat()).is_ok());
            written += 1;
            continue;
        };
        let payload_at = end - frame.bytes().len() + segment.header_bytes();
        match coalescer.add(origin, &segment, payload_at) {
            Fit::Added => continue,
            Fit::Completed(index) => {
                written += finish(&mut coalescer, index, &buffer);
                continue;
            }
            Fit::Breaks(index) => written += finish(&mut coalescer, index, &buffer),
            Fit::New => {}
        }
        if segment.begins_group() {
            if coalescer.open() == GROUPS_MAX {
                written += finish(&mut coalescer, 0, &buffer);
            }
            coalescer.begin(origin, PortId(1), &segment, payload_at);
        } else {
            let raw = [&segment.vnet(MTU).to_bytes(), frame.bytes()].concat();
            assert!(Frame::parse(&raw).is_ok());
            written += 1;
        }
    }
    while coalescer.open() > 0 {
        written += finish(&mut coalescer, 0, &buffer);
    }
    assert_eq!(written, given);
}

/// How many segments are in the group.
fn finish(coalescer: &mut Coalescer, index: usize, buffer: &[u8]) -> usize {
    let group = coalescer.end(index);
    group.finish();
    let mut raw = group.headers().to_vec();
    group.payload(buffer).for_each(|piece| raw.extend_from_slice(piece));
    assert!(raw.len() <= HEADER_BYTES + FRAME_BYTES_MAX);
    let frame = Frame::parse(&raw).expect("a group is a frame");
    assert_eq!(frame.vnet().is_gso(), group.segments() > 1);
    group.segments()
}
