//! What a frame becomes in a tunnel, against segments that are checked the slow way.

use proptest::prelude::*;
use segments::{ACK, CWR, ECE, FIN, PSH, VXLAN_BYTES, Whole, check, cut, vni, wholes};
use vswitch::forward::DropReason;
use vswitch::forward::gso::{self, Cutter};
use vswitch::frame::{DATAGRAMS_MAX, Frame, SEND_BYTES_MAX};

mod segments;

/// Checks every segment of a frame against the frame, and returns how many were sent at once.
fn check_segments(whole: &Whole) -> Vec<usize> {
    let raw = whole.raw();
    let original = &raw[12..];
    let (datagrams, groups) = cut(&raw);
    assert_eq!(datagrams.len(), whole.count());
    let (headers, transport) = (whole.header_bytes(), whole.transport());
    let mut payload: Vec<u8> = vec![];
    for (i, datagram) in datagrams.iter().enumerate() {
        assert_eq!(datagram[..VXLAN_BYTES], [8, 0, 0, 0, 0, 0x10, 1, 0]);
        let frame = &datagram[VXLAN_BYTES..];
        check(frame);
        assert_eq!(frame[..16], original[..16], "Ethernet, version and TOS");
        if !whole.is_ipv6 {
            let identification = u16::from_be_bytes([frame[18], frame[19]]);
            assert_eq!(identification, whole.identification.wrapping_add(i as u16));
            assert_eq!((&frame[20..24], &frame[26..34]), (&original[20..24], &original[26..34]));
        } else {
            assert_eq!((&frame[16..18], &frame[20..54]), (&original[16..18], &original[20..54]));
        }
        if !whole.is_udp {
            let tcp = &frame[transport..];
            let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            assert_eq!(sequence, whole.sequence.wrapping_add(payload.len() as u32));
            let mut flags = whole.flags;
            flags &= if i > 0 { !CWR } else { !0 };
            flags &= if i + 1 < datagrams.len() { !(FIN | PSH) } else { !0 };
            assert_eq!(tcp[13], flags);
            assert_eq!(tcp[8..13], original[transport + 8..transport + 13]);
            assert_eq!(tcp[18..headers - transport], original[transport + 18..headers]);
        }
        payload.extend(&frame[headers..]);
    }
    assert!(payload == whole.payload, "the payload is not what it was");
    groups
}

#[test]
fn a_full_tso_frame() {
    // 46 segments of 1,398 bytes and 74 of headers: 44 fit into 65,507 bytes.
    let whole = Whole::tcp(64_000);
    assert_eq!(check_segments(&whole), [44, 2]);
    let whole = Whole { is_ipv6: true, gso_size: 1358, ..whole };
    assert_eq!(check_segments(&whole), [45, 3]);
}

/// By the kernel's rule of how many segments TCP puts into a frame.
#[test]
fn an_interface_hands_over_what_leaves_in_one_send() {
    for mtu in [1280, 1430, 1450, 1480, 8930, 8950] {
        let at_once = (SEND_BYTES_MAX as u32 / (8 + 14 + mtu)).min(DATAGRAMS_MAX as u32);
        for (header_bytes, kept) in
            [(40, 193), (52, 193), (60, 193), (72, 193), (40, 321), (52, 321), (72, 321)]
        {
            let segments = (gso::frame_bytes(mtu) - kept) / (mtu - header_bytes);
            assert!(segments <= at_once, "{segments} segments of {mtu} with {header_bytes}, {kept}");
            assert!(segments + 1 >= at_once, "{segments} of {at_once} segments of {mtu}");
        }
    }
    assert_eq!(gso::frame_bytes(1450), 44 * 1398 + 321);
    assert!(gso::frame_bytes(68) <= 65_536 && gso::frame_bytes(65_535) <= 65_536);
}

#[test]
fn at_most_64_datagrams_at_once() {
    let whole = Whole { gso_size: 100, ..Whole::tcp(13_050) };
    assert_eq!(check_segments(&whole), [64, 64, 3]);
}

#[test]
fn one_segment_and_none() {
    assert_eq!(check_segments(&Whole::tcp(1398)), [1]);
    assert_eq!(check_segments(&Whole::tcp(1)), [1]);
    assert_eq!(check_segments(&Whole::tcp(0)), [1]);
}

#[test]
fn flags_go_where_they_belong() {
    for flags in [ACK, ACK | FIN, ACK | PSH | FIN, ACK | CWR, ACK | CWR | PSH, ACK | ECE] {
        check_segments(&Whole { flags, ..Whole::tcp(5000) });
    }
}

#[test]
fn udp_segments() {
    for is_ipv6 in [false, true] {
        let whole = Whole { is_udp: true, is_ipv6, gso_size: 1200, ..Whole::tcp(5000) };
        assert_eq!(check_segments(&whole), [5]);
    }
}

#[test]
fn frames_that_stand_for_themselves() {
    // As it came.
    let plain = [&[0; 12][..], &[2; 12], &[8, 6], &[7; 28]].concat();
    let (datagrams, groups) = cut(&plain);
    assert_eq!(groups, [1]);
    assert_eq!(datagrams[0], [&[8, 0, 0, 0, 0, 0x10, 1, 0], &plain[12..]].concat());

    // With its checksum finished, and odd lengths.
    for (is_udp, is_ipv6, bytes) in
        [(false, false, 1000), (true, false, 999), (false, true, 77), (true, true, 1)]
    {
        let whole = Whole { is_udp, is_ipv6, ..Whole::tcp(bytes) };
        let mut raw = whole.raw();
        raw[1] = 0;
        let (datagrams, _) = cut(&raw);
        let frame = &datagrams[0][VXLAN_BYTES..];
        check(frame);
        let checksum_at = whole.transport() + if is_udp { 6 } else { 16 };
        assert_eq!(frame[..checksum_at], raw[12..12 + checksum_at]);
        assert_eq!(frame[checksum_at + 2..], raw[12 + checksum_at + 2..]);
    }
}

#[test]
fn a_checksum_of_zero_is_written_as_all_ones() {
    let mut raw = Whole { is_udp: true, ..Whole::tcp(2) }.raw();
    raw[1] = 0;
    // Make the payload the complement of everything else.
    let len = raw.len();
    raw[len - 2..].fill(0);
    let rest = segments::sum(&[&raw[12 + 34..]]);
    raw[len - 2..].copy_from_slice(&(!rest).to_be_bytes());
    let (datagrams, _) = cut(&raw);
    assert_eq!(datagrams[0][VXLAN_BYTES + 40..][..2], [0xff, 0xff]);
}

#[test]
fn what_is_not_cut() {
    let refused = |raw: &[u8]| Cutter::default().encapsulate(vni(), &Frame::parse(raw).unwrap(), |_| {});
    // IP fragments.
    let mut ufo = Whole { is_udp: true, ..Whole::tcp(5000) }.raw();
    ufo[1] = 3;
    assert_eq!(refused(&ufo), Err(DropReason::TunnelUnsegmentable));
    // A packet that is shorter than it says.
    let mut short = Whole::tcp(1000).raw();
    short[1] = 0;
    short.pop();
    assert_eq!(refused(&short), Err(DropReason::TunnelTruncated));
    // A checksum that would be finished inside of what was judged before.
    let mut outside = Whole::tcp(1000).raw();
    outside[1] = 0;
    assert_eq!(refused(&outside), Ok(()));
    outside[6..10].copy_from_slice(&[33, 0, 16, 0]);
    assert_eq!(refused(&outside), Err(DropReason::BadVnetHdr));
    let mut arp = [&[0; 12][..], &[2; 12], &[8, 6], &[7; 28]].concat();
    arp[0] = 1;
    arp[6] = 13;
    assert_eq!(refused(&arp), Err(DropReason::BadVnetHdr));
    // Segments that no datagram holds.
    let jumbo = Whole { gso_size: 65_500, ..Whole::tcp(64_000) };
    assert_eq!(
        refused(&Whole { payload: vec![0; 65_480], ..jumbo.clone() }.raw()),
        Err(DropReason::TunnelTooBig)
    );
    assert_eq!(refused(&Whole { payload: vec![0; 65_400], ..jumbo }.raw()), Ok(()));
    let long = [&[0; 12][..], &[2; 12], &[8, 6], &vec![7; 65_500]].concat();
    assert_eq!(refused(&long), Err(DropReason::TunnelTooBig));
    // A routing header: the checksum is that of another destination.
    let mut routed = Whole { is_ipv6: true, ..Whole::tcp(5000) }.raw();
    routed[12 + 20] = 43;
    let header = [6, 0, 0, 1, 0, 0, 0, 0];
    routed.splice(12 + 54..12 + 54, header);
    routed[6] = 62;
    assert_eq!(refused(&routed), Err(DropReason::TunnelUnsegmentable));
    routed[12 + 20] = 60;
    assert_eq!(refused(&routed), Ok(()), "destination options are repeated");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_segment_is_right(whole in wholes(), is_udp in any::<bool>()) {
        check_segments(&Whole { is_udp, ..whole });
    }

    #[test]
    fn whatever_a_tap_says_nothing_is_read_beyond_the_end(
        header in any::<[u8; 12]>(),
        whole in wholes(),
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        keep in 0usize..2000,
        is_hostile in any::<bool>(),
    ) {
        let mut raw = whole.raw();
        if is_hostile {
            raw[..12].copy_from_slice(&header);
        }
        for (at, byte) in changes {
            let at = at % raw.len();
            raw[at] = byte;
        }
        raw.truncate(keep.max(12));
        if let Ok(frame) = Frame::parse(&raw) {
            let mut payload = 0;
            let result = Cutter::default().encapsulate(vni(), &frame, |group| {
                assert!(group.bytes() <= 65_507 && group.count() <= 64);
                payload += group.bytes();
            });
            prop_assert!(result.is_err() || payload >= frame.bytes().len());
        }
    }
}
