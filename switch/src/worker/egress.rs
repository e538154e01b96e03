//! Where a worker's frames go: the TAPs of all ports, the underlay, and how a refusal is counted.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use vswitch_proto::id::PortId;
use vswitch_proto::wire::vnet_hdr;

use super::path::Raw;
use crate::counters::{Counters, PortCell, PortCells, WorkerCells};
use crate::forward::DropReason;
use crate::forward::tables::Map;
use crate::frame::Datagrams;
use crate::io::tap::Tap;
use crate::io::underlay::{How, Underlay};

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
    underlay: Option<Arc<Underlay>>,
}

impl Egress {
    pub(super) fn new(worker: usize, counters: Arc<Counters>) -> Egress {
        Egress { worker, counters, links: Map::default(), underlay: None }
    }

    pub(super) fn underlay(&self) -> Option<&Arc<Underlay>> {
        self.underlay.as_ref()
    }

    /// Returns the one before.
    pub(super) fn set_underlay(&mut self, underlay: Option<Arc<Underlay>>) -> Option<Arc<Underlay>> {
        std::mem::replace(&mut self.underlay, underlay)
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
        self.write(to, |tap| tap.write(raw));
    }

    /// The same for a frame in pieces.
    pub(super) fn transmit_gathered(&self, to: PortId, pieces: &[IoSlice<'_>]) {
        self.write(to, |tap| tap.write_gathered(pieces));
    }

    /// Writes a frame to a port's TAP as it came, at once or with the batch.
    pub(super) fn pass_on(&self, to: PortId, raw: Raw<'_>) {
        match raw {
            Raw::Once(bytes) => self.transmit(to, bytes),
            Raw::Kept(filled) => {
                let Some(link) = self.links.get(&to) else { return self.written(to, Ok(0)) };
                if let Some(result) = filled.write(link.tap.as_raw_fd(), to.0).transpose() {
                    self.written(to, result);
                }
            }
        }
    }

    fn write(&self, to: PortId, write: impl FnOnce(&Tap) -> io::Result<usize>) {
        let result = self.links.get(&to).map_or(Ok(0), |link| write(&link.tap));
        self.written(to, result);
    }

    /// Counts what became of a frame for a port.
    pub(super) fn written(&self, to: PortId, result: io::Result<usize>) {
        let Some(link) = self.links.get(&to) else {
            return self.cells().not_sent(None, DropReason::TapGone);
        };
        count(self.cells(), self.cell_of(link), result);
    }

    /// Sends datagrams of one flow to another host.
    pub(super) fn send(&self, underlay: &Underlay, flow: u32, to: IpAddr, datagrams: &Datagrams<'_>) {
        let sent = underlay.send(flow, to, datagrams);
        let cells = self.cells();
        match sent.how {
            How::AtOnce if sent.error.is_none() => cells.segmented(),
            How::Refused => cells.segmentation_refused(),
            How::AtOnce | How::OneByOne => {}
        }
        let bytes = datagrams.bytes().min(sent.datagrams * datagrams.bytes_each());
        cells.tunnel_sent(sent.datagrams, bytes);
        if let Some(error) = sent.error {
            cells.tunnel_dropped(datagrams.count() - sent.datagrams, underlay_refusal(&error));
        }
    }
}

/// Counts what became of a frame that was written to a TAP.
pub(super) fn count(cells: &WorkerCells, port: &PortCell, result: io::Result<usize>) {
    match result {
        Ok(written) => cells.sent(port, frame_bytes(written)),
        Err(e) => cells.not_sent(Some(port), refusal(&e)),
    }
}

/// Length of a frame without its virtio-net header.
pub(super) fn frame_bytes(raw_bytes: usize) -> u64 {
    raw_bytes.saturating_sub(vnet_hdr::HEADER_BYTES) as u64
}

pub(super) fn underlay_refusal(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::UnderlayFull,
        Some(libc::EMSGSIZE) => DropReason::TunnelTooBig,
        Some(
            libc::ENETUNREACH
            | libc::EHOSTUNREACH
            | libc::ENETDOWN
            | libc::EADDRNOTAVAIL
            | libc::EAFNOSUPPORT
            | libc::EINVAL,
        ) => DropReason::UnderlayUnreachable,
        _ => DropReason::UnderlayRefused,
    }
}

fn refusal(error: &io::Error) -> DropReason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS) => DropReason::TapFull,
        Some(libc::EBADFD | libc::EIO | libc::ENXIO) => DropReason::TapGone,
        _ => DropReason::TapRefused,
    }
}
