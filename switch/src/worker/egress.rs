//! Where a worker's frames go: the TAPs of all ports, and how a refusal is counted.

use std::io;
use std::sync::Arc;

use vswitch_proto::id::PortId;
use vswitch_proto::wire::vnet_hdr;

use crate::counters::{Counters, PortCell, PortCells, WorkerCells};
use crate::forward::DropReason;
use crate::forward::tables::Map;
use crate::io::tap::Tap;

/// A port's TAP, shared by all workers.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) tap: Tap,
    pub(super) cells: Arc<PortCells>,
}

/// One worker's way to every port.
#[derive(Debug)]
pub(super) struct Egress {
    worker: usize,
    counters: Arc<Counters>,
    links: Map<PortId, Arc<Link>>,
}

impl Egress {
    pub(super) fn new(worker: usize, counters: Arc<Counters>) -> Egress {
        Egress { worker, counters, links: Map::default() }
    }

    pub(super) fn attach(&mut self, port: PortId, link: Arc<Link>) {
        self.links.insert(port, link);
    }

    pub(super) fn detach(&mut self, port: PortId) -> Option<Arc<Link>> {
        self.links.remove(&port)
    }

    pub(super) fn get(&self, port: PortId) -> Option<&Arc<Link>> {
        self.links.get(&port)
    }

    pub(super) fn cells(&self) -> &WorkerCells {
        self.counters.of_worker(self.worker)
    }

    pub(super) fn cell_of<'a>(&self, link: &'a Link) -> &'a PortCell {
        link.cells.of_worker(self.worker)
    }

    /// Writes a frame, virtio-net header included, to a port's TAP.
    pub(super) fn transmit(&self, to: PortId, raw: &[u8]) {
        let Some(link) = self.links.get(&to) else {
            return self.cells().not_sent(None, DropReason::TapGone);
        };
        let port = self.cell_of(link);
        match link.tap.write(raw) {
            Ok(_) => self.cells().sent(port, frame_bytes(raw.len())),
            Err(e) => self.cells().not_sent(Some(port), refusal(&e)),
        }
    }
}

/// Length of a frame without its virtio-net header.
pub(super) fn frame_bytes(raw_bytes: usize) -> u64 {
    raw_bytes.saturating_sub(vnet_hdr::HEADER_BYTES) as u64
}

fn refusal(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::TapFull,
        Some(libc::EBADFD | libc::EIO | libc::ENXIO) => DropReason::TapGone,
        _ => DropReason::TapRefused,
    }
}
