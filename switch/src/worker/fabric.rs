//! What frames go through, whichever engine brings them.

use std::sync::Arc;
use std::time::Instant;

use vswitch_proto::id::PortId;

use super::DataplaneConfig;
use super::egress::{Egress, underlay_refusal};
use super::intake::Intake;
use super::path::Path;
use super::share::Cost;
use super::tunnel::Arrivals;
use crate::counters::Counters;
use crate::forward::Forwarder;
use crate::forward::coalesce::Coalescer;
use crate::forward::gso::Cutter;
use crate::frame;
use crate::io::tap::Tap;
use crate::io::underlay::Batch;
use crate::publish::Subscription;

/// The gateway's answers are at most 8 bytes longer than what they answer to.
const REPLY_MARGIN_BYTES: usize = 8;

/// One worker's share of the switch.
pub(super) struct Fabric {
    pub(super) egress: Egress,
    tables: Subscription,
    forwarder: Forwarder,
    cutter: Cutter,
    coalescer: Coalescer,
    coalesces: bool,
    reply: Box<[u8]>,
    batch: Batch,
    /// One for each receiver that this worker reads, by the receiver's index.
    intakes: Vec<Intake>,
    turn: u64,
    on_port_death: Arc<dyn Fn(PortId) + Send + Sync>,
}

/// Whether a receiver may have more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    Some,
    /// What comes later is an event.
    None,
}

impl Fabric {
    pub(super) fn new(
        index: usize,
        config: &DataplaneConfig,
        counters: Arc<Counters>,
        tables: Subscription,
    ) -> Fabric {
        Fabric {
            egress: Egress::new(index, counters),
            tables,
            forwarder: Forwarder::new(Arc::clone(&config.fdb), config.forward),
            cutter: Cutter::default(),
            coalescer: Coalescer::default(),
            coalesces: config.coalesce,
            reply: vec![0; frame::BUFFER_BYTES + REPLY_MARGIN_BYTES].into(),
            batch: Batch::default(),
            intakes: Vec::new(),
            turn: 0,
            on_port_death: Arc::clone(&config.on_port_death),
        }
    }

    /// The way of the frames that come from a port now, and its TAP. `None` for a port without one.
    pub(super) fn path(&mut self, port: PortId, now: Instant) -> Option<(&Tap, Path<'_>)> {
        let link = self.egress.get(port)?;
        let path = Path {
            port,
            cell: self.egress.cell_of(link),
            tables: self.tables.load(),
            now,
            forwarder: &mut self.forwarder,
            egress: &self.egress,
            cutter: &mut self.cutter,
            reply: &mut self.reply,
        };
        Some((&link.tap, path))
    }

    /// Begins the next turn, in which every source has its share again.
    pub(super) fn begin_turn(&mut self) {
        self.turn += 1;
    }

    /// The number of the present turn.
    pub(super) fn turn(&self) -> u64 {
        self.turn
    }

    /// For the frames of a batch, before any of them goes its way.
    pub(super) fn foresee<'f>(&mut self, frames: impl Iterator<Item = (PortId, &'f [u8])>) {
        self.forwarder.foresee(self.tables.load(), frames);
    }

    /// One batch from a receiver of the underlay: about as much as a port's share of a turn. None while the receiver is in
    /// debt.
    pub(super) fn receive(&mut self, index: usize) -> Rest {
        let Some(underlay) = self.egress.underlay() else { return Rest::None };
        let Some(receiver) = underlay.receivers().get(index) else { return Rest::None };
        if self.intakes.len() <= index {
            // The receivers of an underlay are few.
            self.intakes.resize_with(index + 1, Intake::default);
        }
        let intake = &mut self.intakes[index];
        if intake.is_in_debt(self.turn) {
            return Rest::Some;
        }
        match receiver.receive(&mut self.batch, intake.messages()) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Rest::None,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => return Rest::Some,
            Err(e) => {
                // An answer to something that was sent, such as ECONNREFUSED. More may wait behind it.
                self.egress.cells().tunnel_dropped(1, underlay_refusal(&e));
                return Rest::Some;
            }
        }
        let is_full = self.batch.is_full();
        // A socket that is open can be asked.
        let fill = is_full.then(|| receiver.fill().unwrap_or_default());
        intake.weigh(self.batch.messages(), self.batch.buffer(), fill);
        let arrivals = Arrivals {
            tables: self.tables.load(),
            now: Instant::now(),
            forwarder: &mut self.forwarder,
            egress: &self.egress,
            coalescer: &mut self.coalescer,
            coalesces: self.coalesces && underlay.config().gro,
            batch: &self.batch,
            cost: Cost::default(),
        };
        let cost = arrivals.pass_all(|message, bytes| intake.admits(message, bytes));
        if intake.charge(cost, self.batch.len(), self.turn) {
            self.egress.cells().tunnel_deferred();
        }
        // The kernel stops before the batch is full only when there is nothing more, and what comes later is an event.
        if is_full { Rest::Some } else { Rest::None }
    }

    /// The device behind a port's TAP is gone.
    pub(super) fn bury(&self, port: PortId) {
        (self.on_port_death)(port);
    }
}
