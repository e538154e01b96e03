//! What comes out of a tunnel: which segments are put together, and that nothing else is.

use proptest::prelude::*;
use segments::{ACK, CWR, ECE, FIN, PSH, SYN, VXLAN_BYTES, Whole, cut, sum, vni, vtep, wholes};
use vswitch::forward::coalesce::{self, Coalescer, Fit, GROUPS_MAX, Inner, Origin, SEGMENTS_MAX};
use vswitch::forward::vxlan;
use vswitch::frame::Frame;
use vswitch_proto::id::{PortId, Vni};

mod segments;

fn origin() -> Origin {
    Origin { vni: vni(), vtep: vtep() }
}

/// Passes inner frames through a coalescer as a worker does, and returns what is written, virtio-net header included.
fn coalesce(frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    coalesce_from(&frames.iter().map(|frame| (origin(), frame.clone())).collect::<Vec<_>>())
}

fn coalesce_from(frames: &[(Origin, Vec<u8>)]) -> Vec<Vec<u8>> {
    let buffer: Vec<u8> = frames.iter().flat_map(|(_, frame)| frame.clone()).collect();
    let (mut coalescer, mut written, mut at) = (Coalescer::default(), vec![], 0);
    let end = |coalescer: &mut Coalescer, index| {
        let group = coalescer.end(index);
        group.finish();
        assert_eq!(group.port(), PortId(1));
        let mut frame = group.headers().to_vec();
        group.payload(&buffer).for_each(|piece| frame.extend(piece));
        frame
    };
    for (origin, bytes) in frames {
        let frame = Frame::complete(bytes).unwrap();
        let single = |flags: u8| [&[flags][..], &[0; 11], bytes].concat();
        match coalesce::read(&frame) {
            Inner::Tcp(segment) => {
                let payload_at = at + segment.header_bytes();
                let fit = coalescer.add(*origin, &segment, payload_at);
                if let Fit::Completed(index) | Fit::Breaks(index) = fit {
                    written.push(end(&mut coalescer, index));
                }
                if matches!(fit, Fit::New | Fit::Breaks(_)) {
                    if segment.begins_group() {
                        if coalescer.open() == GROUPS_MAX {
                            written.push(end(&mut coalescer, 0));
                        }
                        coalescer.begin(*origin, PortId(1), &segment, payload_at);
                    } else {
                        written.push([&segment.vnet(1450).to_bytes()[..], bytes].concat());
                    }
                }
            }
            Inner::Opaque => {
                while coalescer.open() > 0 {
                    written.push(end(&mut coalescer, 0));
                }
                written.push(single(0));
            }
            Inner::Other => written.push(single(0)),
        }
        at += bytes.len();
    }
    while coalescer.open() > 0 {
        written.push(end(&mut coalescer, 0));
    }
    written
}

/// The inner frames of a whole one.
fn segments_of(whole: &Whole) -> Vec<Vec<u8>> {
    let (datagrams, _) = cut(&whole.raw());
    datagrams.into_iter().map(|datagram| datagram[VXLAN_BYTES..].to_vec()).collect()
}

/// After `change`, with right checksums again.
fn changed(frame: &[u8], change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    let is_ipv6 = frame[12] == 0x86;
    let transport = if is_ipv6 { 54 } else { 34 };
    if !is_ipv6 {
        frame[24..26].fill(0);
        let checksum = !sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame[transport + 16..transport + 18].fill(0);
    let partial = segments::pseudo(&frame, transport, 6);
    let checksum = !sum(&[&partial.to_be_bytes(), &frame[transport..]]);
    frame[transport + 16..transport + 18].copy_from_slice(&checksum.to_be_bytes());
    frame
}

/// How many segments each written frame stands for.
fn sizes(written: &[Vec<u8>]) -> Vec<usize> {
    let size = |raw: &Vec<u8>| {
        let frame = Frame::parse(raw).unwrap();
        if !frame.vnet().is_gso() {
            return 1;
        }
        let transport = usize::from(frame.vnet().csum_start);
        let headers = transport + usize::from(frame.bytes()[transport + 12] >> 4) * 4;
        (frame.bytes().len() - headers).div_ceil(frame.vnet().gso_size.into())
    };
    written.iter().map(size).collect()
}

#[test]
fn a_whole_frame_comes_back() {
    for is_ipv6 in [false, true] {
        let whole = Whole { is_ipv6, ..Whole::tcp(60_000) };
        assert_eq!(coalesce(&segments_of(&whole)), [whole.raw()]);
    }
}

/// The EtherType of a tag in front of a frame's own, and the tag.
const VLANS: [&[u8]; 3] = [&[0x81, 0, 0, 5], &[0x81, 0, 0, 6], &[0x88, 0xa8, 0, 6, 0x81, 0, 0, 5]];

fn tagged(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

/// What a TAP gives for this frame from a VLAN interface.
fn tagged_whole(whole: &Whole, tags: &[u8]) -> Vec<u8> {
    let raw = whole.raw();
    let mut vnet = raw[..12].to_vec();
    for at in [2, 6] {
        vnet[at] += tags.len() as u8;
    }
    [vnet, tagged(&raw[12..], tags)].concat()
}

#[test]
fn frames_with_tags_are_cut_and_put_together_like_others() {
    for (is_ipv6, tags) in [false, true].into_iter().flat_map(|six| VLANS.map(|tags| (six, tags))) {
        let whole = Whole { is_ipv6, ..Whole::tcp(60_000) };
        let expected: Vec<_> = segments_of(&whole).iter().map(|frame| tagged(frame, tags)).collect();
        let raw = tagged_whole(&whole, tags);
        let (datagrams, _) = cut(&raw);
        let segments: Vec<_> = datagrams.iter().map(|datagram| datagram[VXLAN_BYTES..].to_vec()).collect();
        assert_eq!(segments, expected);
        assert_eq!(coalesce(&segments), [raw]);
    }
}

#[test]
fn flows_of_two_vlans_are_two() {
    let segments = segments_of(&Whole { flags: ACK, payload: vec![7; 4 * 1398], ..Whole::tcp(0) });
    let tags = [VLANS[0], VLANS[1], VLANS[2], &[]];
    let frames: Vec<_> = segments.iter().zip(tags).map(|(frame, tags)| tagged(frame, tags)).collect();
    assert_eq!(sizes(&coalesce(&frames)), [1, 1, 1, 1]);
    let alternating: Vec<_> =
        segments.iter().flat_map(|frame| [tagged(frame, VLANS[0]), tagged(frame, VLANS[2])]).collect();
    assert_eq!(sizes(&coalesce(&alternating)), [4, 4]);
}

#[test]
fn a_frame_ends_with_push_fin_a_short_segment_or_when_full() {
    let full = Whole { flags: ACK, payload: vec![7; 10 * 1398], ..Whole::tcp(0) };
    let segments = segments_of(&full);
    let flagged = |i: usize, flags| changed(&segments[i], |frame| frame[47] |= flags);
    for flags in [PSH, FIN, PSH | FIN] {
        let mut frames = segments.clone();
        frames[3] = flagged(3, flags);
        let written = coalesce(&frames);
        assert_eq!(sizes(&written), [4, 6]);
        assert_eq!(written[0][12 + 47], ACK | flags);
        frames[0] = flagged(0, flags);
        assert_eq!(sizes(&coalesce(&frames)), [1, 3, 6], "at once");
    }
    let short = Whole { flags: ACK, ..Whole::tcp(3 * 1398 + 5) };
    assert_eq!(sizes(&coalesce(&segments_of(&short))), [4]);
    let next = Whole { sequence: short.sequence.wrapping_add(3 * 1398 + 5), identification: 2, ..full };
    let frames = [segments_of(&short), segments_of(&next)].concat();
    assert_eq!(sizes(&coalesce(&frames)), [4, 10], "what follows a short one is another frame");

    let many = Whole { flags: ACK, gso_size: 100, payload: vec![7; 130 * 100], ..Whole::tcp(0) };
    assert_eq!(sizes(&coalesce(&segments_of(&many))), [SEGMENTS_MAX, SEGMENTS_MAX, 2]);
    let long =
        Whole { flags: ACK, gso_size: 8948, payload: vec![7; 65_483], options: vec![], ..Whole::tcp(0) };
    let mut more = segments_of(&long);
    more.extend(segments_of(&Whole { sequence: long.sequence.wrapping_add(65_483), ..long.clone() }));
    for raw in coalesce(&more) {
        assert!(raw.len() - 12 - 14 <= 65_535);
    }
}

#[test]
fn congestion_marks_survive() {
    let whole = Whole { flags: ACK | CWR, payload: vec![7; 4000], ..Whole::tcp(0) };
    let written = coalesce(&segments_of(&whole));
    assert_eq!(written, [whole.raw()]);
    assert_eq!(written[0][1], 1 | 0x80, "the receiving kernel is told");
    // Reduced in the middle: another frame begins there.
    let mut frames = segments_of(&Whole { flags: ACK, ..whole.clone() });
    frames[1] = changed(&frames[1], |frame| frame[47] |= CWR);
    assert_eq!(sizes(&coalesce(&frames)), [1, 2]);
    // A segment that was marked on the way (RFC 3168 section 5.3) is not like its neighbours.
    let mut frames = segments_of(&Whole { tos: 2, ..whole });
    frames[1] = changed(&frames[1], |frame| frame[15] |= 1);
    let written = coalesce(&frames);
    assert_eq!(sizes(&written), [1, 1, 1]);
    assert_eq!(written.iter().map(|raw| raw[12 + 15]).collect::<Vec<_>>(), [2, 3, 2]);
}

#[test]
fn whatever_differs_is_not_put_together() {
    let whole = Whole { flags: ACK, payload: vec![7; 3 * 1398], fragment: 0, ..Whole::tcp(0) };
    let segments = segments_of(&whole);
    assert_eq!(sizes(&coalesce(&segments)), [3]);
    type Change = fn(&mut Vec<u8>);
    let changes: &[(&str, Change)] = &[
        ("destination MAC", |frame| frame[5] ^= 1),
        ("source MAC", |frame| frame[11] ^= 1),
        ("TOS", |frame| frame[15] ^= 4),
        ("identification", |frame| frame[19] ^= 1),
        ("DF", |frame| frame[20] ^= 0x40),
        ("TTL", |frame| frame[22] -= 1),
        ("sequence number", |frame| frame[41] ^= 1),
        ("acknowledgement", |frame| frame[45] ^= 1),
        ("ECE", |frame| frame[47] |= ECE),
        ("SYN", |frame| frame[47] |= SYN),
        ("RST", |frame| frame[47] |= 4),
        ("URG", |frame| frame[47] |= 0x20),
        ("window", |frame| frame[49] ^= 1),
        ("urgent pointer", |frame| frame[53] = 1),
        ("an option", |frame| frame[60] ^= 1),
    ];
    for (what, change) in changes {
        let mut frames = segments.clone();
        frames[1] = changed(&frames[1], change);
        let written = coalesce(&frames);
        assert_eq!(sizes(&written), [1, 1, 1], "{what}");
        assert!(written.iter().zip(&frames).all(|(raw, frame)| raw[12..] == frame[..]), "{what}: changed");
    }
    // Identification does not matter where nobody may fragment (RFC 6864 section 4.1).
    let mut frames = segments_of(&Whole { fragment: segments::DONT_FRAGMENT, ..whole });
    frames[1] = changed(&frames[1], |frame| frame[18..20].fill(0));
    assert_eq!(sizes(&coalesce(&frames)), [3]);
}

#[test]
fn other_flows_have_groups_of_their_own() {
    let whole = |port| Whole { ports: [port, 80], flags: ACK, payload: vec![7; 2796], ..Whole::tcp(0) };
    let flows: Vec<Vec<Vec<u8>>> = (0..GROUPS_MAX as u16).map(|port| segments_of(&whole(port))).collect();
    let mixed: Vec<Vec<u8>> = (0..2).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
    let expected: Vec<Vec<u8>> = (0..GROUPS_MAX as u16).map(|port| whole(port).raw()).collect();
    assert_eq!(coalesce(&mixed), expected);
    // One flow more than there are groups: the oldest has to go each time.
    let flows: Vec<Vec<Vec<u8>>> = (0..=GROUPS_MAX as u16).map(|port| segments_of(&whole(port))).collect();
    let mixed: Vec<Vec<u8>> = (0..2).flat_map(|i| flows.iter().map(move |flow| flow[i].clone())).collect();
    assert_eq!(sizes(&coalesce(&mixed)), [1; 18]);

    // The same addresses and ports in another network, and from another host.
    let other_vni = Origin { vni: Vni::new(5000).unwrap(), ..origin() };
    let other_vtep = Origin { vtep: "10.8.0.9".parse().unwrap(), ..origin() };
    let segments = segments_of(&whole(1));
    for other in [other_vni, other_vtep] {
        let frames = [(origin(), segments[0].clone()), (other, segments[1].clone())];
        assert_eq!(sizes(&coalesce_from(&frames)), [1, 1]);
    }
}

#[test]
fn what_is_corrupt_stays_so() {
    let whole = Whole { flags: ACK, payload: vec![7; 3 * 1398], ..Whole::tcp(0) };
    let segments = segments_of(&whole);
    for at in [16, 22, 30, 37, 50, 100, 1000] {
        let mut frames = segments.clone();
        frames[1][at] ^= 0x10;
        let written = coalesce(&frames);
        assert_eq!(sizes(&written), [1, 1, 1], "byte {at}");
        assert_eq!(written[1], [&[0; 12][..], &frames[1]].concat(), "unchanged, and not said to be verified");
    }
}

#[test]
fn an_unfinished_checksum_stays_so() {
    for is_ipv6 in [false, true] {
        let whole =
            Whole { is_ipv6, flags: ACK, payload: vec![7; 3 * 1300], gso_size: 1300, ..Whole::tcp(0) };
        let mut frames = segments_of(&whole);
        let transport = whole.transport();
        let partial = segments::pseudo(&frames[1], transport, 6);
        frames[1][transport + 16..][..2].copy_from_slice(&partial.to_be_bytes());
        let written = coalesce(&frames);
        assert_eq!(sizes(&written), [1, 1, 1]);
        assert_eq!(written[1][12..], frames[1]);
        assert_eq!(written[1][..12], [1, 0, 0, 0, 0, 0, transport as u8, 0, 16, 0, 0, 0]);
    }
}

#[test]
fn order_is_kept_where_nothing_can_be_put_together() {
    let whole = Whole { flags: ACK, payload: vec![7; 4 * 1398], ..Whole::tcp(0) };
    let mut frames = segments_of(&whole);
    // A bare acknowledgement, a fragment, and options of IP in the middle of a flow.
    let mut ack = segments_of(&Whole { payload: vec![], flags: ACK, ..whole.clone() })[0].clone();
    ack = changed(&ack, |frame| frame[45] ^= 1);
    let mut fragment = frames[2].clone();
    fragment[20] = 0x20;
    for odd in [ack, fragment] {
        let mut mixed = frames.clone();
        mixed.insert(2, odd.clone());
        let written = coalesce(&mixed);
        assert_eq!(sizes(&written), [2, 1, 2]);
        assert_eq!(written[1][12..], odd);
    }
    // UDP is not of the flow: it overtakes nothing of its own.
    let udp = segments_of(&Whole { is_udp: true, ..Whole::tcp(100) })[0].clone();
    frames.insert(2, udp);
    assert_eq!(sizes(&coalesce(&frames)), [1, 4]);
}

#[test]
fn udp_is_never_put_together() {
    let whole = Whole { is_udp: true, payload: vec![7; 3 * 1398], ..Whole::tcp(0) };
    let frames = segments_of(&whole);
    let written = coalesce(&frames);
    let expected: Vec<Vec<u8>> = frames.iter().map(|frame| [&[0; 12], &frame[..]].concat()).collect();
    assert_eq!(written, expected);
}

#[test]
fn a_padded_segment_is_left_alone() {
    let whole = Whole { flags: ACK, payload: vec![7; 16], gso_size: 8, options: vec![], ..Whole::tcp(0) };
    let mut frames = segments_of(&whole);
    frames.iter_mut().for_each(|frame| frame.resize(72, 0));
    let written = coalesce(&frames);
    assert_eq!(sizes(&written), [1, 1]);
    assert_eq!(written[0][12..], frames[0]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cutting_and_putting_together_changes_nothing(whole in wholes()) {
        let whole = Whole { payload: whole.payload[..whole.payload.len().min(64 * usize::from(whole.gso_size))].to_vec(), ..whole };
        let written = coalesce(&segments_of(&whole));
        let mut expected = whole.raw();
        if whole.count() == 1 {
            // Never a partial checksum for what was one segment, and the hints are those of a single frame.
            let segment = segments_of(&whole).remove(0);
            expected = [&[2][..], &[0; 11], &segment].concat();
        }
        prop_assert_eq!(written, [expected]);
    }

    /// Whatever the order, the losses, the doubles and the bits that flip, every segment is written once, in its flow's
    /// order, and what is put together is what cutting it again gives.
    #[test]
    fn nothing_is_lost_added_or_reordered(
        flows in prop::collection::vec(wholes(), 1..4),
        picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..20), 1..80),
    ) {
        let flows: Vec<Vec<Vec<u8>>> = flows
            .into_iter()
            .map(|whole| segments_of(&Whole { payload: whole.payload[..whole.payload.len().min(5000)].to_vec(), ..whole }))
            .collect();
        let mut positions = vec![0; flows.len()];
        let mut frames = vec![];
        for (flow, at, fate) in &picks {
            let index = flow.index(flows.len());
            let mut frame = match fate {
                // Mostly the next one.
                0..18 => {
                    let position = positions[index] % flows[index].len();
                    positions[index] += 1;
                    flows[index][position].clone()
                }
                _ => at.get(&flows[index]).clone(),
            };
            if *fate == 19 {
                let bit = at.index(frame.len() * 8);
                // Not so that it is another protocol, which may overtake.
                if bit / 8 > 13 {
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
            }
            frames.push(frame);
        }
        let written = coalesce(&frames);
        let mut again: Vec<Vec<u8>> = vec![];
        for raw in &written {
            if Frame::parse(raw).unwrap().vnet().is_gso() {
                again.extend(cut(raw).0.into_iter().map(|datagram| datagram[VXLAN_BYTES..].to_vec()));
            } else {
                again.push(raw[12..].to_vec());
            }
        }
        // Identification is not kept where nobody may fragment, and with it the header's checksum.
        let normal = |frame: &Vec<u8>| {
            let mut frame = frame.clone();
            if frame[12] == 8 && frame[20] & 0x40 != 0 {
                frame[18..20].fill(0);
                frame[24..26].fill(0);
            }
            frame
        };
        let of_flow = |frames: &[Vec<u8>], key: &[u8]| -> Vec<Vec<u8>> {
            frames.iter().filter(|frame| flow_key(frame) == key).map(normal).collect()
        };
        prop_assert_eq!(again.len(), frames.len());
        for frame in &frames {
            let key = flow_key(frame);
            prop_assert_eq!(of_flow(&again, &key), of_flow(&frames, &key));
        }
    }

    #[test]
    fn any_bytes_are_read_within_their_bounds(
        whole in wholes(),
        changes in prop::collection::vec((0usize..120, any::<u8>()), 0..6),
        keep in 0usize..2000,
    ) {
        let mut datagram = cut(&whole.raw()).0.remove(0);
        for (at, byte) in changes {
            let at = at % datagram.len();
            datagram[at] = byte;
        }
        datagram.truncate(keep);
        if let Ok((_, frame)) = vxlan::decapsulate(&datagram) {
            let written = coalesce(&[frame.bytes().to_vec()]);
            prop_assert_eq!(&written[0][12..], frame.bytes());
        }
    }
}

/// Protocol, addresses and ports.
fn flow_key(frame: &[u8]) -> Vec<u8> {
    let (protocol, addresses) = if frame[12] == 0x86 { (20, 22..58) } else { (23, 26..38) };
    [&frame[protocol..=protocol], &frame[addresses]].concat()
}
