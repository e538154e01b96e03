//! The way of a frame from a port.

use std::net::IpAddr;
use std::time::Instant;

use vswitch_proto::id::PortId;

use super::egress::{Egress, frame_bytes};
use super::share::Cost;
use super::tunnel::encapsulate;
use crate::counters::PortCell;
use crate::forward::gso::Cutter;
use crate::forward::tables::Tables;
use crate::forward::{DropReason, Forwarder, Ingress, Verdict, flood, neighbor};
use crate::frame::Frame;
use crate::gateway;
use crate::io::ring::Filled;

/// A frame as it was read, virtio-net header included.
#[derive(Debug, Clone, Copy)]
pub(super) enum Raw<'a> {
    /// In a buffer that is used again for the next frame.
    Once(&'a [u8]),
    /// In a buffer of the ring, which is kept until the frame is written.
    Kept(&'a Filled<'a>),
}

impl<'a> Raw<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Raw::Once(bytes) => bytes,
            Raw::Kept(filled) => filled.bytes(),
        }
    }
}

/// What the frames of one burst have in common.
pub(super) struct Path<'a> {
    pub(super) port: PortId,
    pub(super) cell: &'a PortCell,
    pub(super) tables: &'a Tables,
    pub(super) now: Instant,
    pub(super) forwarder: &'a mut Forwarder,
    pub(super) egress: &'a Egress,
    pub(super) cutter: &'a mut Cutter,
    /// Room for an answer of the gateway.
    pub(super) reply: &'a mut [u8],
}

impl Path<'_> {
    /// One frame, from what was read to where it goes. Returns what that took.
    pub(super) fn pass(&mut self, raw: Raw<'_>) -> Cost {
        let bytes = raw.bytes();
        self.egress.cells().received(self.cell, frame_bytes(bytes.len()));
        let cost = match Frame::parse(bytes) {
            Ok(frame) => self.forward(&frame, raw),
            Err(e) => self.drop(e.into()),
        };
        self.cell.caused(cost.outputs);
        Cost::READ + cost
    }

    /// The port has used up its share of the worker's turn.
    pub(super) fn defer(&self) {
        self.cell.deferred();
    }

    fn forward(&mut self, frame: &Frame<'_>, raw: Raw<'_>) -> Cost {
        let ingress = Ingress::Port(self.port);
        match self.forwarder.forward(self.tables, frame, ingress, self.now) {
            Verdict::Port(to) => self.pass_on(to, raw),
            Verdict::Flood => {
                self.egress.cells().flooded();
                let mut cost = Cost::default();
                flood::targets(self.tables, ingress).for_each(|to| cost += self.pass_on(to, raw));
                cost + self.encapsulate(frame, flood::vteps(self.tables, frame, ingress))
            }
            Verdict::Tunnel(vtep) => self.encapsulate(frame, std::iter::once(vtep)),
            Verdict::Neighbor(mac) => {
                let mut reply = [0; neighbor::REPLY_BYTES_MAX];
                match neighbor::answer(frame, mac, &mut reply) {
                    Some(length) => self.reply(&reply[..length]),
                    None => self.drop(DropReason::BadNeighbor),
                }
            }
            Verdict::Gateway => {
                let answer = match self.answer(frame) {
                    Some(length) => self.reply(&self.reply[..length]),
                    None => self.drop(DropReason::GatewayUnhandled),
                };
                Cost::ASKED + answer
            }
            Verdict::Drop(reason) => self.drop(reason),
        }
    }

    fn pass_on(&self, to: PortId, raw: Raw<'_>) -> Cost {
        self.egress.pass_on(to, raw);
        Cost::written(raw.bytes().len())
    }

    /// Writes an answer to where the frame came from.
    fn reply(&self, raw: &[u8]) -> Cost {
        self.egress.transmit(self.port, raw);
        Cost::written(raw.len())
    }

    fn encapsulate(&mut self, frame: &Frame<'_>, to: impl Iterator<Item = IpAddr> + Clone) -> Cost {
        let network = self.tables.ports.get(&self.port).map(|port| port.vni);
        match network {
            Some(vni) if to.clone().next().is_some() => encapsulate(self.egress, self.cutter, vni, frame, to),
            _ => Cost::default(),
        }
    }

    fn answer(&mut self, frame: &Frame<'_>) -> Option<usize> {
        let (_, network) = self.tables.port(self.port)?;
        gateway::answer(network, frame, self.reply)
    }

    fn drop(&self, reason: DropReason) -> Cost {
        self.egress.cells().dropped(self.cell, reason);
        Cost::default()
    }
}
