//! What the workers count.
//!
//! Every worker has cells of its own, for itself and for each port, on cache lines of their own; whoever reads sums
//! them up. A cell has one writer, so counting is a plain addition without a locked instruction, and a reader sees
//! each number as it was a moment ago. Numbers of one answer need not belong to the same instant.
//!
//! The cells of a port go with it. The totals are counted apart from the ports and never go back.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use vswitch_proto::api::PortCounters;
use vswitch_proto::id::PortId;

use crate::forward::verdict::DropReason;

/// All counters of a data plane.
#[derive(Debug)]
pub struct Counters {
    workers: Box<[WorkerCells]>,
    ports: RwLock<HashMap<PortId, Arc<PortCells>>>,
}

/// What all workers counted since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    pub flooded_frames: u64,
    /// Reads that ended because all buffers of a worker were in use, and were begun anew.
    pub buffer_shortages: u64,
    pub tunnel: TunnelTotals,
    drops: [u64; DropReason::COUNT],
}

/// What went through tunnels. Bytes are those of UDP payloads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TunnelTotals {
    pub rx_datagrams: u64,
    pub rx_bytes: u64,
    pub tx_datagrams: u64,
    pub tx_bytes: u64,
    /// System calls that sent more than one datagram.
    pub segmented_sends: u64,
    /// Those that the kernel refused, so that the datagrams were sent one by one.
    pub refused_sends: u64,
    /// Frames that were put together from more than one segment.
    pub coalesced_frames: u64,
    /// Times that a receiver had used up its share of a worker's turn.
    pub rx_deferred: u64,
    /// Packets for which the underlay had no room when they came.
    pub rx_overflows: u64,
}

impl Totals {
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }
}

/// A number with one writer.
#[derive(Debug, Default)]
struct Cell(AtomicU64);

impl Cell {
    fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What one worker counted of everything.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCells {
    rx_frames: Cell,
    rx_bytes: Cell,
    tx_frames: Cell,
    tx_bytes: Cell,
    flooded_frames: Cell,
    buffer_shortages: Cell,
    tunnel: TunnelCells,
    drops: [Cell; DropReason::COUNT],
}

/// What one worker counted of tunnels; see [`TunnelTotals`].
#[derive(Debug, Default)]
struct TunnelCells {
    rx_datagrams: Cell,
    rx_bytes: Cell,
    tx_datagrams: Cell,
    tx_bytes: Cell,
    segmented_sends: Cell,
    refused_sends: Cell,
    coalesced_frames: Cell,
    rx_deferred: Cell,
}

/// What one worker counted of one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCell {
    rx_frames: Cell,
    rx_bytes: Cell,
    tx_frames: Cell,
    tx_bytes: Cell,
    rx_dropped: Cell,
    tx_dropped: Cell,
    rx_outputs: Cell,
    rx_deferred: Cell,
}

/// One port's cells, one for each worker.
#[derive(Debug)]
pub struct PortCells(Box<[PortCell]>);

impl PortCells {
    pub fn of_worker(&self, worker: usize) -> &PortCell {
        &self.0[worker]
    }
}

impl Counters {
    pub fn new(workers: usize) -> Counters {
        Counters { workers: (0..workers).map(|_| WorkerCells::new()).collect(), ports: RwLock::default() }
    }

    pub fn of_worker(&self, worker: usize) -> &WorkerCells {
        &self.workers[worker]
    }

    /// New cells, all zero, for a port that comes.
    pub fn add_port(&self, port: PortId) -> Arc<PortCells> {
        let cells = Arc::new(PortCells(self.workers.iter().map(|_| PortCell::default()).collect()));
        self.ports.write().unwrap_or_else(PoisonError::into_inner).insert(port, Arc::clone(&cells));
        cells
    }

    pub fn remove_port(&self, port: PortId) {
        self.ports.write().unwrap_or_else(PoisonError::into_inner).remove(&port);
    }

    /// `None` for a port that is not there.
    pub fn port(&self, port: PortId) -> Option<PortCounters> {
        let cells = Arc::clone(self.ports.read().unwrap_or_else(PoisonError::into_inner).get(&port)?);
        let mut sum = PortCounters::default();
        for cell in &cells.0 {
            sum.rx_frames += cell.rx_frames.get();
            sum.rx_bytes += cell.rx_bytes.get();
            sum.tx_frames += cell.tx_frames.get();
            sum.tx_bytes += cell.tx_bytes.get();
            sum.rx_dropped += cell.rx_dropped.get();
            sum.tx_dropped += cell.tx_dropped.get();
            sum.rx_outputs += cell.rx_outputs.get();
            sum.rx_deferred += cell.rx_deferred.get();
        }
        Some(sum)
    }

    pub fn totals(&self) -> Totals {
        let sum = |cell: fn(&WorkerCells) -> &Cell| self.workers.iter().map(|cells| cell(cells).get()).sum();
        let dropped = |i: usize| self.workers.iter().map(|cells| cells.drops[i].get()).sum();
        Totals {
            rx_frames: sum(|cells| &cells.rx_frames),
            rx_bytes: sum(|cells| &cells.rx_bytes),
            tx_frames: sum(|cells| &cells.tx_frames),
            tx_bytes: sum(|cells| &cells.tx_bytes),
            flooded_frames: sum(|cells| &cells.flooded_frames),
            buffer_shortages: sum(|cells| &cells.buffer_shortages),
            tunnel: TunnelTotals {
                rx_datagrams: sum(|cells| &cells.tunnel.rx_datagrams),
                rx_bytes: sum(|cells| &cells.tunnel.rx_bytes),
                tx_datagrams: sum(|cells| &cells.tunnel.tx_datagrams),
                tx_bytes: sum(|cells| &cells.tunnel.tx_bytes),
                segmented_sends: sum(|cells| &cells.tunnel.segmented_sends),
                refused_sends: sum(|cells| &cells.tunnel.refused_sends),
                coalesced_frames: sum(|cells| &cells.tunnel.coalesced_frames),
                rx_deferred: sum(|cells| &cells.tunnel.rx_deferred),
                // The kernel counts these.
                rx_overflows: 0,
            },
            drops: std::array::from_fn(dropped),
        }
    }
}

/// For the worker that the cells belong to, and nobody else: a second writer would lose counts.
impl WorkerCells {
    fn new() -> WorkerCells {
        WorkerCells {
            rx_frames: Cell::default(),
            rx_bytes: Cell::default(),
            tx_frames: Cell::default(),
            tx_bytes: Cell::default(),
            flooded_frames: Cell::default(),
            buffer_shortages: Cell::default(),
            tunnel: TunnelCells::default(),
            drops: std::array::from_fn(|_| Cell::default()),
        }
    }

    /// A frame of this length came from `port`.
    pub fn received(&self, port: &PortCell, bytes: u64) {
        for (frames_cell, bytes_cell) in
            [(&self.rx_frames, &self.rx_bytes), (&port.rx_frames, &port.rx_bytes)]
        {
            frames_cell.add(1);
            bytes_cell.add(bytes);
        }
    }

    /// A frame of this length was taken by the TAP of `port`.
    pub fn sent(&self, port: &PortCell, bytes: u64) {
        for (frames_cell, bytes_cell) in
            [(&self.tx_frames, &self.tx_bytes), (&port.tx_frames, &port.tx_bytes)]
        {
            frames_cell.add(1);
            bytes_cell.add(bytes);
        }
    }

    pub fn flooded(&self) {
        self.flooded_frames.add(1);
    }

    pub fn ran_out_of_buffers(&self) {
        self.buffer_shortages.add(1);
    }

    /// This many datagrams of together this length came through a tunnel.
    pub fn tunnel_received(&self, datagrams: usize, bytes: usize) {
        self.tunnel.rx_datagrams.add(datagrams as u64);
        self.tunnel.rx_bytes.add(bytes as u64);
    }

    /// This many datagrams of together this length left.
    pub fn tunnel_sent(&self, datagrams: usize, bytes: usize) {
        self.tunnel.tx_datagrams.add(datagrams as u64);
        self.tunnel.tx_bytes.add(bytes as u64);
    }

    /// Several datagrams left at once.
    pub fn segmented(&self) {
        self.tunnel.segmented_sends.add(1);
    }

    /// Several datagrams were refused at once and went one by one.
    pub fn segmentation_refused(&self) {
        self.tunnel.refused_sends.add(1);
    }

    pub fn coalesced(&self) {
        self.tunnel.coalesced_frames.add(1);
    }

    /// A receiver of the underlay has used up its share of a turn.
    pub fn tunnel_deferred(&self) {
        self.tunnel.rx_deferred.add(1);
    }

    /// Frames that came from, or were for, a tunnel go nowhere.
    pub fn tunnel_dropped(&self, frames: usize, reason: DropReason) {
        self.drops[reason as usize].add(frames as u64);
    }

    /// A frame that came from `port` goes nowhere.
    pub fn dropped(&self, port: &PortCell, reason: DropReason) {
        self.drops[reason as usize].add(1);
        port.rx_dropped.add(1);
    }

    /// A frame was not taken by the TAP of `port`, or that port has no TAP.
    pub fn not_sent(&self, port: Option<&PortCell>, reason: DropReason) {
        self.drops[reason as usize].add(1);
        if let Some(port) = port {
            port.tx_dropped.add(1);
        }
    }
}

/// As [`WorkerCells`], of one port.
impl PortCell {
    /// A frame from the port became this many frames and datagrams.
    pub fn caused(&self, outputs: u64) {
        self.rx_outputs.add(outputs);
    }

    /// The port has used up its share of a turn.
    pub fn deferred(&self) {
        self.rx_deferred.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_totals_outlive_a_port() {
        let counters = Counters::new(2);
        let cells = counters.add_port(PortId(1));
        for worker in 0..2 {
            let (own, port) = (counters.of_worker(worker), cells.of_worker(worker));
            own.received(port, 100);
            own.sent(port, 60);
            own.dropped(port, DropReason::Hairpin);
            own.not_sent(Some(port), DropReason::TapFull);
            port.caused(3);
            port.deferred();
        }
        counters.of_worker(1).flooded();
        counters.of_worker(1).not_sent(None, DropReason::TapGone);
        let expected = PortCounters {
            rx_frames: 2,
            rx_bytes: 200,
            tx_frames: 2,
            tx_bytes: 120,
            rx_dropped: 2,
            tx_dropped: 2,
            rx_outputs: 6,
            rx_deferred: 2,
        };
        assert_eq!(counters.port(PortId(1)), Some(expected));
        let totals = counters.totals();
        counters.remove_port(PortId(1));
        assert_eq!(counters.port(PortId(1)), None);
        assert_eq!(counters.totals(), totals);
        assert_eq!((totals.rx_frames, totals.rx_bytes, totals.tx_frames, totals.tx_bytes), (2, 200, 2, 120));
        assert_eq!(totals.flooded_frames, 1);
        let dropped = |reason| totals.dropped(reason);
        assert_eq!([DropReason::Hairpin, DropReason::TapFull, DropReason::TapGone].map(dropped), [2, 2, 1]);
        assert_eq!(DropReason::ALL.iter().map(|&reason| dropped(reason)).sum::<u64>(), 5);
        assert_eq!(counters.add_port(PortId(1)).0.len(), 2);
        assert_eq!(
            counters.port(PortId(1)),
            Some(PortCounters::default()),
            "a port that comes back starts at zero"
        );
    }

    #[test]
    fn cells_of_two_workers_share_no_cache_line() {
        assert_eq!(size_of::<PortCell>(), 64);
        assert_eq!(size_of::<WorkerCells>() % 64, 0);
    }
}
