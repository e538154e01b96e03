//! io_uring(7) for a worker: multishot reads into buffers of a ring (IORING_REGISTER_PBUF_RING), writes from those
//! buffers, and multishot polls.
//!
//! # Whose a buffer is
//! The kernel's, which may write to it at any time, until a read has completed in it. From then on it is its
//! [`Filled`]'s, and it stays ours while that lives or a write from it is not completed. `uses` counts what holds a
//! buffer; at 0 it is provided again, or spare. So bytes are never seen while the kernel may change them, nor changed
//! while the kernel reads them.
//!
//! # How many are provided
//! The kernel takes provided buffers in turn, so it writes to all of them, and more than fit the cache would all be cold.
//! Only `wanted` are provided, `WANTED_MIN` at first; the others are spare, and the one that was used last is provided
//! first. Who runs out wants twice as many ([`Ring::want_more`]), unless they would hold more than `HOT_BYTES`; what
//! would, and what was not needed for `NEED_READS` reads, is not wanted any more.
//!
//! # Threads
//! The kernel lets only one thread use the ring (IORING_SETUP_SINGLE_ISSUER): the one that calls [`Ring::enable`]. It
//! completes requests only inside of [`Ring::enter`] (IORING_SETUP_DEFER_TASKRUN). The type is `Send`, not `Sync`.
//!
//! # End
//! A ring that is dropped cancels its requests before its memory goes. If the kernel does not let it, because another
//! thread drops it, the memory is left to the kernel.
#![expect(unsafe_code, reason = "the kernel reads and writes memory that it is told of")]

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::RawFd;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, CancelBuilder, Fd};
use io_uring::{IoUring, Probe, cqueue, opcode, squeue};

use need::{NEED_READS, Need};

mod need;

/// There is one group of buffers.
const GROUP: u16 = 0;

/// Requests that are submitted at once. More are submitted in several parts.
const ENTRIES: u32 = 256;

/// Completions that the kernel keeps for us without an allocation of its own.
const COMPLETIONS: u32 = 4096;

/// Writes whose completion was not seen yet: what is flooded beyond is written at once, and reads have room to complete.
const UNFINISHED_WRITES_MAX: usize = COMPLETIONS as usize / 2;

/// IORING_ENTER_GETEVENTS and IORING_ENTER_NO_IOWAIT: a worker that waits for frames is idle, not waiting for a disk.
const GETEVENTS: u32 = 1;
const NO_IOWAIT: u32 = 1 << 7;

/// Rounds in which all requests are cancelled at the end; each finds those that the one before was too early for.
const CANCELLATIONS_MAX: usize = 16;

/// Buffers lie this far apart, less one: on lines of their own, and not all of them on the same lines of the cache.
const ALIGN_BYTES: usize = 64;

const PAGE_BYTES: usize = 4096;

/// Buffers that the kernel has at the least, as long as there are so many: what a stream of long frames needs.
const WANTED_MIN: usize = 4;

/// What a request is, in the uppermost byte of its `user_data`; below are 16 bits for a buffer and 32 for the key.
const READ: u64 = 1 << 56;
const WRITE: u64 = 2 << 56;
const POLL: u64 = 3 << 56;
const CANCEL: u64 = 4 << 56;
const KIND: u64 = 0xff << 56;

/// What is missing for a [`Ring`].
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("this kernel has no io_uring")]
    Absent,
    #[error("io_uring is forbidden here, by kernel.io_uring_disabled or a seccomp filter")]
    Forbidden,
    #[error("this kernel's io_uring is too old; Linux 6.8 has what is needed")]
    TooOld,
    #[error("io_uring cannot be set up: {0}")]
    Setup(io::Error),
}

impl From<io::Error> for Unavailable {
    fn from(error: io::Error) -> Unavailable {
        match error.raw_os_error() {
            Some(libc::ENOSYS) => Unavailable::Absent,
            Some(libc::EPERM | libc::EACCES) => Unavailable::Forbidden,
            // A flag that is not known.
            Some(libc::EINVAL) => Unavailable::TooOld,
            _ => Unavailable::Setup(error),
        }
    }
}

/// A ring with its buffers.
pub struct Ring {
    // Closed before `memory` goes: fields are dropped in this order.
    uring: IoUring,
    memory: Memory,
    enabled: Cell<bool>,
    /// What holds each buffer: a [`Filled`], and writes.
    uses: Box<[Cell<u32>]>,
    /// Of the ring of buffers, as the kernel was told.
    tail: Cell<u16>,
    /// Buffers that the kernel has.
    free: Cell<usize>,
    /// Those that nobody has. The last one was used last.
    spare: RefCell<Vec<u16>>,
    /// How many the kernel is to have.
    wanted: Cell<usize>,
    need: Cell<Need>,
    /// Writes that were asked for and not submitted yet.
    pending: RefCell<Vec<Pending>>,
    writes_unfinished: Cell<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    fd: RawFd,
    key: u32,
    index: u16,
    bytes: u32,
}

/// A request that has something to say. `more`: it goes on.
#[derive(Debug)]
pub enum Completion<'a> {
    Read {
        key: u32,
        result: io::Result<Filled<'a>>,
        more: bool,
    },
    Written {
        key: u32,
        result: io::Result<usize>,
    },
    Polled {
        key: u32,
        more: bool,
    },
    /// What was to be cancelled says itself whether it was.
    Cancelled,
}

/// The ring of buffers, and behind it the buffers.
struct Memory {
    start: NonNull<u8>,
    bytes: usize,
    entries_bytes: usize,
    buffer_bytes: usize,
    stride_bytes: usize,
    is_the_kernels: bool,
}

// SAFETY: it is memory that only its owner has, and the kernel, to which threads do not matter.
unsafe impl Send for Memory {}

impl Memory {
    fn new(buffers: u16, buffer_bytes: usize) -> io::Result<Memory> {
        let entries_bytes = (usize::from(buffers) * size_of::<BufRingEntry>()).next_multiple_of(PAGE_BYTES);
        let lines = buffer_bytes.div_ceil(ALIGN_BYTES) | 1;
        let stride_bytes = lines * ALIGN_BYTES;
        let bytes = entries_bytes + usize::from(buffers) * stride_bytes;
        // Unlike an allocator's, pages of a mapping are no memory before they are written to.
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping is nobody else's memory.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Memory { start, bytes, entries_bytes, buffer_bytes, stride_bytes, is_the_kernels: false })
    }

    fn entries(&self) -> *mut BufRingEntry {
        self.start.as_ptr().cast()
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        // SAFETY: indices come from the kernel, which has them from `Ring::provide`, and are those of buffers in the
        // allocation.
        unsafe { self.start.as_ptr().add(self.entries_bytes + usize::from(index) * self.stride_bytes) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.is_the_kernels {
            // SAFETY: it was mapped with this length, and the kernel does not know of it any more.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
        }
    }
}

impl Ring {
    /// A ring with this many buffers, a power of two, of this many bytes. Nothing can be asked of it before
    /// [`Ring::enable`].
    pub fn new(buffers: u16, buffer_bytes: u32) -> Result<Ring, Unavailable> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(COMPLETIONS)
            .build(ENTRIES)?;
        let mut probe = Probe::new();
        uring.submitter().register_probe(&mut probe)?;
        // The last one is not used: it came with Linux 6.8, and before that multishot reads could stall.
        let needed = [
            opcode::ReadMulti::CODE,
            opcode::Write::CODE,
            opcode::PollAdd::CODE,
            opcode::FixedFdInstall::CODE,
        ];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(Unavailable::TooOld);
        }
        let ring = Ring {
            memory: Memory::new(buffers, buffer_bytes as usize)?,
            uring,
            enabled: Cell::new(false),
            uses: vec![Cell::new(0); buffers.into()].into(),
            tail: Cell::new(0),
            free: Cell::new(0),
            spare: RefCell::new((0..buffers).rev().collect()),
            wanted: Cell::new(WANTED_MIN.min(buffers.into())),
            need: Cell::new(Need::UNKNOWN),
            pending: RefCell::new(Vec::with_capacity(ENTRIES as usize)),
            writes_unfinished: Cell::new(0),
        };
        // SAFETY: the memory is aligned to pages, is long enough for so many entries, and goes after the ring.
        unsafe {
            ring.uring.submitter().register_buf_ring_with_flags(
                ring.memory.entries() as u64,
                buffers,
                GROUP,
                0,
            )
        }?;
        ring.provide_wanted();
        Ok(ring)
    }

    /// From now on the ring is the calling thread's.
    pub fn enable(&self) -> io::Result<()> {
        self.uring.submitter().register_enable_rings()?;
        self.enabled.set(true);
        Ok(())
    }

    /// Gives a buffer to the kernel.
    fn provide(&self, index: u16) {
        let tail = self.tail.get();
        let slot = usize::from(tail) & (self.uses.len() - 1);
        // SAFETY: the slot is one of the entries, and the kernel does not look at it before the tail is behind it:
        // there are as many entries as buffers, and this buffer is not in any.
        let entry = unsafe { &mut *self.memory.entries().add(slot) };
        entry.set_addr(self.memory.buffer(index) as u64);
        entry.set_len(self.memory.buffer_bytes as u32);
        entry.set_bid(index);
        let tail = tail.wrapping_add(1);
        self.tail.set(tail);
        // SAFETY: the first entry is initialised, by zeros, and its tail is aligned memory that is only accessed
        // atomically, here and by the kernel.
        let shared = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.memory.entries()).cast_mut()) };
        shared.store(tail, Ordering::Release);
        self.free.set(self.free.get() + 1);
    }

    fn let_go(&self, index: u16) {
        let uses = &self.uses[usize::from(index)];
        uses.set(uses.get() - 1);
        if uses.get() > 0 {
            return;
        }
        if self.free.get() < self.wanted.get() {
            self.provide(index);
        } else {
            self.spare.borrow_mut().push(index);
        }
    }

    fn provide_wanted(&self) {
        let mut spare = self.spare.borrow_mut();
        while self.free.get() < self.wanted.get()
            && let Some(index) = spare.pop()
        {
            self.provide(index);
        }
    }

    /// For a read that found no buffer. False if the kernel has had all of them.
    pub fn want_more(&self) -> bool {
        let (wanted, all) = (self.wanted.get(), self.uses.len());
        if !self.need.get().is_beyond_cache(wanted * 2) {
            self.want(wanted * 2);
        }
        wanted < all
    }

    /// Has the kernel have so many buffers, as far as there are any.
    pub fn want(&self, count: usize) {
        if count > self.wanted.get() {
            self.wanted.set(count.min(self.uses.len()));
            self.need.set(self.need.get().begun_anew());
        }
        self.provide_wanted();
    }

    /// A read took a buffer.
    fn note_need(&self, bytes: usize) {
        let need = self.need.get().with_read(bytes);
        if need.reads < NEED_READS {
            return self.need.set(need);
        }
        let wanted = self.wanted.get();
        if need.most <= wanted / 2 || need.is_beyond_cache(wanted) {
            self.wanted.set((wanted / 2).max(WANTED_MIN.min(self.uses.len())));
        }
        self.need.set(need.begun_anew());
    }

    /// The read before costs as much as one that is longer by this many bytes: what is expensive to pass on is not to be
    /// read far ahead.
    pub fn note_weight(&self, bytes: usize) {
        self.need.set(self.need.get().with_weight(bytes));
    }

    /// Has the kernel read from a descriptor until it says that there is no more to come.
    pub fn read(&self, fd: RawFd, key: u32) -> io::Result<()> {
        let request = opcode::ReadMulti::new(Fd(fd), 0, GROUP).build();
        self.push(request.user_data(READ | u64::from(key)))
    }

    /// Has the kernel say whenever there is something new to read.
    pub fn poll(&self, fd: RawFd, key: u32) -> io::Result<()> {
        let request = opcode::PollAdd::new(Fd(fd), libc::POLLIN as u32).multi(true).build();
        self.push(request.user_data(POLL | u64::from(key)))
    }

    /// Ends a read. What it has read completes before it, and its end is a completion of its own.
    pub fn cancel_read(&self, key: u32) -> io::Result<()> {
        self.cancel(READ | u64::from(key))
    }

    /// The same for a poll.
    pub fn cancel_poll(&self, key: u32) -> io::Result<()> {
        self.cancel(POLL | u64::from(key))
    }

    fn cancel(&self, user_data: u64) -> io::Result<()> {
        self.push(opcode::AsyncCancel::new(user_data).build().user_data(CANCEL))
    }

    fn push(&self, request: squeue::Entry) -> io::Result<()> {
        // SAFETY: no other submission queue is alive in this thread, which is the only one. What a write points to
        // lives until it is completed, see `uses` and `Drop`; other requests point to nothing.
        let push = || unsafe { self.uring.submission_shared().push(&request) };
        if push().is_err() {
            passing(self.uring.submit().map(drop))?;
            return push().map_err(|_| full());
        }
        Ok(())
    }

    /// What does not get its turn stays, in its order.
    fn submit_pending(&self) -> io::Result<()> {
        let mut pending = self.pending.borrow_mut();
        let mut pushed = 0;
        let result = pending.iter().try_for_each(|&Pending { fd, key, index, bytes }| {
            let request = opcode::Write::new(Fd(fd), self.memory.buffer(index), bytes)
                // What cannot be written at once is not to be written later, behind what came after it.
                .rw_flags(libc::RWF_NOWAIT)
                .build();
            self.push(request.user_data(WRITE | u64::from(index) << 32 | u64::from(key)))?;
            pushed += 1;
            Ok(())
        });
        pending.drain(..pushed);
        result
    }

    /// If there is one write that was not submitted, and none before it that is not completed, does it by write(2), which
    /// takes less than a request. Returns its key and result.
    pub fn write_lone(&self) -> Option<(u32, io::Result<usize>)> {
        if self.writes_unfinished.get() != 1 {
            return None;
        }
        let mut pending = self.pending.borrow_mut();
        let &[Pending { fd, key, index, bytes }] = pending.as_slice() else { return None };
        pending.clear();
        let result = self.write_now(fd, index, bytes as usize);
        self.finish_write(index);
        Some((key, result))
    }

    fn write_now(&self, fd: RawFd, index: u16, bytes: usize) -> io::Result<usize> {
        // SAFETY: the buffer is ours until `let_go`, and has this many bytes.
        let written = unsafe { libc::write(fd, self.memory.buffer(index).cast(), bytes) };
        if written < 0 { Err(io::Error::last_os_error()) } else { Ok(written as usize) }
    }

    /// Whether all that was asked for is with the kernel.
    fn is_submitted(&self) -> bool {
        // SAFETY: see `push`.
        self.pending.borrow().is_empty() && unsafe { self.uring.submission_shared() }.is_empty()
    }

    /// Whether a thread that waits for completions counts as idle. Before Linux 6.15 it counts as waiting for a disk, in
    /// iowait and in the pressure of I/O.
    pub fn waits_idly(&self) -> bool {
        self.uring.params().is_feature_no_iowait()
    }

    fn finish_write(&self, index: u16) {
        self.writes_unfinished.set(self.writes_unfinished.get() - 1);
        self.let_go(index);
    }

    /// Whether there is nothing to cancel any more.
    fn cancel_all(&self) -> bool {
        match self.uring.submitter().register_sync_cancel(None, CancelBuilder::any()) {
            Ok(()) => {
                // Lets the kernel do what that means; an error shows in the next attempt.
                let _ = self.enter(false);
                false
            }
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether writes were asked for whose completion was not seen yet.
    pub fn has_unfinished_writes(&self) -> bool {
        self.writes_unfinished.get() > 0
    }

    /// Submits what was asked for, in its order. Writes complete at once, other requests in [`Ring::enter`].
    pub fn submit(&self) -> io::Result<()> {
        passing(self.submit_pending())?;
        passing(self.uring.submit().map(drop))
    }

    /// Buffers that the kernel has to read into.
    pub fn free_buffers(&self) -> usize {
        self.free.get()
    }

    /// Submits what was asked for, in its order, and lets the kernel complete what it can; if `wait`, at least one
    /// request, unless a signal or a lack of memory comes before.
    pub fn enter(&self, wait: bool) -> io::Result<()> {
        self.need.set(self.need.get().with_enter());
        passing(self.submit_pending())?;
        let wait = wait && self.pending.borrow().is_empty();
        // SAFETY: see `push`.
        let requests = unsafe { self.uring.submission_shared() }.len() as u32;
        let flags =
            if self.uring.params().is_feature_no_iowait() { GETEVENTS | NO_IOWAIT } else { GETEVENTS };
        let submitter = self.uring.submitter();
        // SAFETY: there is no last argument.
        let entered = unsafe { submitter.enter::<libc::sigset_t>(requests, wait.into(), flags, None) };
        passing(entered.map(drop))
    }

    /// The next completion that [`Ring::enter`] brought.
    pub fn next(&self) -> Option<Completion<'_>> {
        // SAFETY: no other completion queue is alive in this thread, which is the only one.
        let entry = unsafe { self.uring.completion_shared() }.next()?;
        let (user_data, more) = (entry.user_data(), cqueue::more(entry.flags()));
        let key = user_data as u32;
        let result =
            usize::try_from(entry.result()).map_err(|_| io::Error::from_raw_os_error(-entry.result()));
        Some(match user_data & KIND {
            READ => {
                let result = result.and_then(|bytes| self.filled(&entry, bytes));
                Completion::Read { key, result, more }
            }
            WRITE => {
                self.finish_write((user_data >> 32) as u16);
                Completion::Written { key, result }
            }
            POLL => Completion::Polled { key, more },
            _ => Completion::Cancelled,
        })
    }

    fn filled(&self, entry: &cqueue::Entry, bytes: usize) -> io::Result<Filled<'_>> {
        let index = cqueue::buffer_select(entry.flags()).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.uses[usize::from(index)].set(1);
        self.free.set(self.free.get() - 1);
        self.note_need(bytes);
        Ok(Filled { ring: self, index, bytes: bytes.min(self.memory.buffer_bytes) })
    }
}

/// There is no room for another request. Whoever counts it looks at the number, as with a refusal of the kernel's.
fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::EAGAIN)
}

/// Errors that are over when completions were taken, or by themselves.
fn passing(result: io::Result<()>) -> io::Result<()> {
    match result.as_ref().map_err(io::Error::raw_os_error) {
        Err(Some(libc::EAGAIN | libc::EBUSY | libc::EINTR)) => Ok(()),
        _ => result,
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.pending.get_mut().clear();
        let is_over = !self.enabled.get() || (0..CANCELLATIONS_MAX).any(|_| self.cancel_all());
        self.memory.is_the_kernels = !is_over;
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("buffers", &self.uses.len()).finish_non_exhaustive()
    }
}

/// What was read, in a buffer that is kept until this is dropped and all writes from it are completed.
#[derive(Debug)]
pub struct Filled<'a> {
    ring: &'a Ring,
    index: u16,
    bytes: usize,
}

impl Filled<'_> {
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the kernel has written this many bytes, and neither it nor we change them before `let_go`.
        unsafe { slice::from_raw_parts(self.ring.memory.buffer(self.index), self.bytes) }
    }

    /// Asks for it to be written to a descriptor, after what was asked for before. Returns how much was written if that
    /// was done already.
    pub fn write(&self, fd: RawFd, key: u32) -> io::Result<Option<usize>> {
        let ring = self.ring;
        if ring.writes_unfinished.get() >= UNFINISHED_WRITES_MAX {
            ring.submit()?;
            if !ring.is_submitted() {
                return Err(full());
            }
            return ring.write_now(fd, self.index, self.bytes).map(Some);
        }
        if ring.pending.borrow().len() == ENTRIES as usize {
            passing(ring.submit_pending())?;
        }
        if ring.pending.borrow().len() == ENTRIES as usize {
            return Err(full());
        }
        ring.pending.borrow_mut().push(Pending { fd, key, index: self.index, bytes: self.bytes as u32 });
        let uses = &ring.uses[usize::from(self.index)];
        uses.set(uses.get() + 1);
        ring.writes_unfinished.set(ring.writes_unfinished.get() + 1);
        Ok(None)
    }
}

impl Drop for Filled<'_> {
    fn drop(&mut self) {
        self.ring.let_go(self.index);
    }
}

#[cfg(test)]
mod tests;
