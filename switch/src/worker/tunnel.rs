//! The two ends of a tunnel: what a worker sends into it, and what it receives from it.
//!
//! A batch of datagrams is taken apart, each goes through the same [`Forwarder::forward`] as a frame from a port, and
//! TCP for a port is collected in the [`Coalescer`] until its group ends, at the latest with the batch.

use std::io::IoSlice;
use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use vswitch_proto::id::{PortId, Vni};
use vswitch_proto::wire::vnet_hdr::VnetHdr;

use super::egress::Egress;
use super::share::Cost;
use crate::forward::coalesce::{self, Coalescer, Fit, GROUPS_MAX, Inner, Origin, SEGMENTS_MAX, Segment};
use crate::forward::gso::Cutter;
use crate::forward::tables::Tables;
use crate::forward::{DropReason, Forwarder, Ingress, Verdict, flood, vxlan};
use crate::frame::Frame;
use crate::io::underlay::{Batch, Message};

/// Encapsulates a frame for each of these tunnel endpoints. Returns what that took.
pub(super) fn encapsulate(
    egress: &Egress,
    cutter: &mut Cutter,
    vni: Vni,
    frame: &Frame<'_>,
    to: impl Iterator<Item = IpAddr> + Clone,
) -> Cost {
    let mut cost = Cost::default();
    let Some(underlay) = egress.underlay() else {
        egress.cells().tunnel_dropped(to.count(), DropReason::UnderlayAbsent);
        return cost;
    };
    let flow = vxlan::flow_hash(frame.bytes());
    let cut = cutter.encapsulate(vni, frame, |datagrams| {
        to.clone().for_each(|vtep| {
            egress.send(underlay, flow, vtep, datagrams);
            cost += Cost::sent(datagrams.count(), datagrams.bytes());
        });
    });
    if let Err(reason) = cut {
        egress.cells().tunnel_dropped(to.count(), reason);
    }
    cost
}

/// What the datagrams of one batch have in common.
pub(super) struct Arrivals<'a> {
    pub(super) tables: &'a Tables,
    pub(super) now: Instant,
    pub(super) forwarder: &'a mut Forwarder,
    pub(super) egress: &'a Egress,
    pub(super) coalescer: &'a mut Coalescer,
    /// Whether TCP is put together.
    pub(super) coalesces: bool,
    pub(super) batch: &'a Batch,
    /// What was sent to ports so far.
    pub(super) cost: Cost,
}

impl Arrivals<'_> {
    /// Passes on the messages that `admits` takes, and returns what that took.
    pub(super) fn pass_all(mut self, mut admits: impl FnMut(&Message, &[u8]) -> bool) -> Cost {
        let batch = self.batch;
        for message in batch.messages() {
            let bytes = &batch.buffer()[message.range.clone()];
            let datagrams = message.datagrams().count();
            self.egress.cells().tunnel_received(datagrams, bytes.len());
            if !admits(&message, bytes) {
                self.cost += Cost::READ;
                self.spare(&message, &mut admits);
                continue;
            }
            self.cost += Cost::received(datagrams, bytes.len());
            match message.segment_bytes.and_then(|segment_bytes| vxlan::uncut(bytes, segment_bytes)) {
                Some((vni, frame, vnet)) => {
                    self.forward(Origin { vni, vtep: message.source }, &frame, |_| vnet);
                }
                None => message.datagrams().for_each(|range| self.datagram(message.source, range)),
            }
        }
        self.end_all();
        self.cost
    }

    /// Drops a message but for datagrams of somebody else that the kernel has put into it: it looks at the outer flow only,
    /// which flows of several containers share.
    fn spare(&mut self, message: &Message, admits: &mut impl FnMut(&Message, &[u8]) -> bool) {
        let sender = |range: &Range<usize>| {
            let bytes = &self.batch.buffer()[range.clone()];
            // Of the VXLAN header the network, of the inner frame the source.
            (bytes.get(4..7), bytes.get(14..20))
        };
        let first = message.datagrams().next().map(|range| sender(&range));
        let mut dropped = 0;
        for range in message.datagrams() {
            let is_others = Some(sender(&range)) != first;
            let single = Message { source: message.source, range: range.clone(), segment_bytes: None };
            if is_others && admits(&single, &self.batch.buffer()[range.clone()]) {
                self.cost += Cost::received(1, range.len());
                self.datagram(message.source, range);
            } else {
                dropped += 1;
            }
        }
        self.egress.cells().tunnel_dropped(dropped, DropReason::TunnelShare);
    }

    fn datagram(&mut self, vtep: IpAddr, range: Range<usize>) {
        match vxlan::decapsulate(&self.batch.buffer()[range.clone()]) {
            Ok((vni, frame)) => self.pass(Origin { vni, vtep }, &frame, range.end),
            Err(reason) => self.drop(reason),
        }
    }

    /// One frame, which ends at `end` in the buffer.
    fn pass(&mut self, origin: Origin, frame: &Frame<'_>, end: usize) {
        if !self.coalesces {
            return self.forward_single(origin, frame);
        }
        match coalesce::read(frame) {
            Inner::Tcp(segment) => self.pass_tcp(origin, frame, &segment, end),
            Inner::Opaque => {
                self.end_all();
                self.forward_single(origin, frame);
            }
            Inner::Other => self.forward_single(origin, frame),
        }
    }

    fn pass_tcp(&mut self, origin: Origin, frame: &Frame<'_>, segment: &Segment<'_>, end: usize) {
        let payload_at = end - frame.bytes().len() + segment.header_bytes();
        match self.coalescer.add(origin, segment, payload_at) {
            Fit::Added => return,
            Fit::Completed(group) => return self.end(group),
            Fit::Breaks(group) => self.end(group),
            Fit::New => {}
        }
        if !segment.begins_group() {
            return self.forward(origin, frame, |mtu| segment.vnet(mtu));
        }
        match self.verdict(origin, frame) {
            Verdict::Port(to) => {
                if self.coalescer.open() == GROUPS_MAX {
                    self.end(0);
                }
                self.coalescer.begin(origin, to, segment, payload_at);
            }
            verdict => self.follow(verdict, origin, frame, |mtu| segment.vnet(mtu)),
        }
    }

    fn forward_single(&mut self, origin: Origin, frame: &Frame<'_>) {
        self.forward(origin, frame, |mtu| vxlan::unfinished(frame, mtu));
    }

    /// `vnet` is what a port with this MTU is told about the frame.
    fn forward(&mut self, origin: Origin, frame: &Frame<'_>, vnet: impl Fn(usize) -> VnetHdr) {
        let verdict = self.verdict(origin, frame);
        self.follow(verdict, origin, frame, vnet);
    }

    fn verdict(&mut self, origin: Origin, frame: &Frame<'_>) -> Verdict {
        self.forwarder.forward(self.tables, frame, ingress(origin), self.now)
    }

    fn follow(
        &mut self,
        verdict: Verdict,
        origin: Origin,
        frame: &Frame<'_>,
        vnet: impl Fn(usize) -> VnetHdr,
    ) {
        match verdict {
            Verdict::Port(to) => self.write(to, frame, &vnet),
            Verdict::Flood => {
                self.egress.cells().flooded();
                flood::targets(self.tables, ingress(origin)).for_each(|to| self.write(to, frame, &vnet));
            }
            Verdict::Drop(reason) => self.drop(reason),
            // The forwarder has no such verdict for a frame from a tunnel.
            Verdict::Tunnel(_) | Verdict::Gateway | Verdict::Neighbor(_) => {
                self.drop(DropReason::SplitHorizon);
            }
        }
    }

    fn write(&mut self, to: PortId, frame: &Frame<'_>, vnet: impl Fn(usize) -> VnetHdr) {
        let mtu = self.tables.ports.get(&to).map_or(usize::MAX, |port| port.mtu as usize);
        let header = vnet(mtu).to_bytes();
        self.egress.transmit_gathered(to, &[IoSlice::new(&header), IoSlice::new(frame.bytes())]);
        self.cost += Cost::written(frame.bytes().len());
    }

    fn end_all(&mut self) {
        while self.coalescer.open() > 0 {
            self.end(0);
        }
    }

    fn end(&mut self, index: usize) {
        let group = self.coalescer.end(index);
        group.finish();
        let mut pieces = [IoSlice::new(&[]); 1 + SEGMENTS_MAX];
        pieces[0] = IoSlice::new(group.headers());
        for (piece, payload) in pieces[1..].iter_mut().zip(group.payload(self.batch.buffer())) {
            *piece = IoSlice::new(payload);
        }
        if group.segments() > 1 {
            self.egress.cells().coalesced();
        }
        let pieces = &pieces[..1 + group.segments()];
        self.egress.transmit_gathered(group.port(), pieces);
        self.cost += Cost::written(pieces.iter().map(|piece| piece.len()).sum());
    }

    fn drop(&self, reason: DropReason) {
        self.egress.cells().tunnel_dropped(1, reason);
    }
}

fn ingress(Origin { vni, vtep }: Origin) -> Ingress {
    Ingress::Tunnel { vni, vtep }
}
