//! On pipes and sockets; TAPs have their turn in the tests of the worker.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use super::*;

const BUFFERS: u16 = 4;

fn ring() -> Option<Ring> {
    ring_of(BUFFERS, 64)
}

/// `None`, and a word why, where there is no io_uring.
fn ring_of(buffers: u16, buffer_bytes: u32) -> Option<Ring> {
    match Ring::new(buffers, buffer_bytes) {
        Ok(ring) => {
            ring.enable().unwrap();
            Some(ring)
        }
        Err(why) => {
            println!("skipped: {why}");
            None
        }
    }
}

impl Ring {
    /// Takes the ring away from whoever uses it, in whichever thread: its descriptor becomes one of another file.
    pub(crate) fn breaker(&self) -> impl FnOnce() + use<> {
        let fd = self.uring.as_raw_fd();
        move || {
            let other = File::open("/dev/null").unwrap();
            // SAFETY: the number stays that of an open file, and who closes it stays the same.
            assert_eq!(unsafe { libc::dup3(other.as_raw_fd(), fd, libc::O_CLOEXEC) }, fd);
        }
    }
}

fn pipe() -> (File, File) {
    let (read, write) = pipe2(OFlag::O_NONBLOCK).unwrap();
    (read.into(), write.into())
}

fn next(ring: &Ring) -> Completion<'_> {
    loop {
        match ring.next() {
            Some(completion) => return completion,
            None => ring.enter(true).unwrap(),
        }
    }
}

#[test]
fn a_buffer_is_kept_until_the_last_write_from_it() {
    // More writes than are submitted at once.
    const WRITES: usize = 3 * ENTRIES as usize + 1;
    let Some(ring) = ring() else { return };
    let ((from, mut source), (mut sink, to)) = (pipe(), pipe());
    ring.read(from.as_raw_fd(), 7).unwrap();
    source.write_all(b"hello").unwrap();
    let Completion::Read { key: 7, result: Ok(filled), more: true } = next(&ring) else {
        panic!("it is a read");
    };
    assert_eq!((filled.bytes(), ring.free_buffers()), (&b"hello"[..], BUFFERS as usize - 1));
    (0..WRITES).for_each(|_| assert_eq!(filled.write(to.as_raw_fd(), 8).unwrap(), None));
    drop(filled);
    let mut written = 0;
    while ring.has_unfinished_writes() {
        assert_eq!(ring.free_buffers(), BUFFERS as usize - 1);
        ring.submit().unwrap();
        while let Some(completion) = ring.next() {
            assert!(matches!(completion, Completion::Written { key: 8, result: Ok(5) }), "{completion:?}");
            written += 1;
        }
    }
    assert_eq!((written, ring.free_buffers()), (WRITES, BUFFERS.into()));
    drop(to);
    let mut all = Vec::new();
    sink.read_to_end(&mut all).unwrap();
    assert!(all == b"hello".repeat(WRITES));
}

#[test]
fn a_lone_write_needs_no_request() {
    let Some(ring) = ring() else { return };
    let ((from, mut source), (mut sink, to)) = (pipe(), pipe());
    ring.read(from.as_raw_fd(), 1).unwrap();
    source.write_all(b"hello").unwrap();
    let Completion::Read { result: Ok(filled), .. } = next(&ring) else { panic!("it is a read") };
    filled.write(to.as_raw_fd(), 2).unwrap();
    assert!(matches!(ring.write_lone(), Some((2, Ok(5)))));
    assert!(ring.write_lone().is_none() && !ring.has_unfinished_writes());
    filled.write(to.as_raw_fd(), 2).unwrap();
    filled.write(to.as_raw_fd(), 2).unwrap();
    assert!(ring.write_lone().is_none(), "there are two");
    drop(filled);
    for _ in 0..2 {
        assert!(matches!(next(&ring), Completion::Written { key: 2, result: Ok(5) }));
    }
    let mut all = [0; 16];
    assert_eq!(sink.read(&mut all).unwrap(), 15);
}

#[test]
fn a_read_without_a_buffer_ends_and_can_be_begun_anew() {
    let Some(ring) = ring() else { return };
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    ring.read(here.as_raw_fd(), 1).unwrap();
    ring.enter(false).unwrap();
    let mut kept = Vec::new();
    for n in 0..=BUFFERS {
        there.send(&n.to_ne_bytes()).unwrap();
    }
    let error = loop {
        match next(&ring) {
            Completion::Read { result: Ok(filled), more: true, .. } => kept.push(filled),
            Completion::Read { result: Err(error), more: false, .. } => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
    assert_eq!((kept.len(), ring.free_buffers()), (BUFFERS.into(), 0));
    assert!(kept.iter().zip(0u16..).all(|(filled, n)| filled.bytes() == n.to_ne_bytes()));
    kept.clear();
    ring.read(here.as_raw_fd(), 1).unwrap();
    let Completion::Read { result: Ok(filled), .. } = next(&ring) else { panic!("it is a read") };
    assert_eq!(filled.bytes(), BUFFERS.to_ne_bytes());
}

#[test]
fn requests_can_be_cancelled() {
    let Some(ring) = ring() else { return };
    let (from, _source) = pipe();
    ring.read(from.as_raw_fd(), 1).unwrap();
    ring.poll(from.as_raw_fd(), 2).unwrap();
    ring.enter(false).unwrap();
    ring.cancel_read(1).unwrap();
    ring.cancel_poll(2).unwrap();
    let (mut read, mut polled, mut cancelled) = (0, 0, 0);
    while (read, polled, cancelled) != (1, 1, 2) {
        match next(&ring) {
            Completion::Read { key: 1, result: Err(e), more: false } => {
                assert_eq!(e.raw_os_error(), Some(libc::ECANCELED));
                read += 1;
            }
            Completion::Polled { key: 2, more: false } => polled += 1,
            Completion::Cancelled => cancelled += 1,
            other => panic!("{other:?}"),
        }
    }
    // A ring with requests can be dropped.
    ring.read(from.as_raw_fd(), 1).unwrap();
    ring.enter(false).unwrap();
}

#[test]
fn writes_stay_in_order_whatever_their_number() {
    let Some(ring) = ring() else { return };
    let (here, there) = UnixDatagram::pair().unwrap();
    let (mut sink, to) = pipe();
    here.set_nonblocking(true).unwrap();
    ring.read(here.as_raw_fd(), 1).unwrap();
    let mut expected = Vec::new();
    // Numbers after which a write waits alone, while those before it wait to be submitted, or are too many to wait.
    for count in [1, 2, ENTRIES as usize + 1, 2 * ENTRIES as usize + 1, UNFINISHED_WRITES_MAX + 3] {
        there.send(b"a").unwrap();
        there.send(b"z").unwrap();
        let first = next(&ring);
        let second = next(&ring);
        let (Completion::Read { result: Ok(first), .. }, Completion::Read { result: Ok(second), .. }) =
            (first, second)
        else {
            panic!("they are reads");
        };
        (1..count).for_each(|_| assert!(first.write(to.as_raw_fd(), 2).is_ok()));
        assert!(second.write(to.as_raw_fd(), 2).is_ok());
        drop((first, second));
        let _ = ring.write_lone();
        while ring.has_unfinished_writes() {
            ring.submit().unwrap();
            while let Some(completion) = ring.next() {
                assert!(matches!(completion, Completion::Written { result: Ok(1), .. }), "{completion:?}");
            }
        }
        expected.extend(std::iter::repeat_n(b'a', count - 1).chain([b'z']));
    }
    drop(to);
    let mut all = Vec::new();
    sink.read_to_end(&mut all).unwrap();
    assert!(all == expected);
}

/// Sends so many messages and reads until a read finds no buffer, or everything is there.
fn read_all<'a>(ring: &'a Ring, count: usize, message: &[u8]) -> (Vec<Filled<'a>>, bool) {
    let (here, there) = UnixDatagram::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    there.set_nonblocking(true).unwrap();
    ring.read(here.as_raw_fd(), 1).unwrap();
    let (mut filled, mut has_run_out, mut sent) = (Vec::new(), false, 0);
    while filled.len() < count && !has_run_out {
        // As many as the socket has room for.
        while sent < count && there.send(message).is_ok() {
            sent += 1;
        }
        match next(ring) {
            Completion::Read { result: Ok(one), .. } => filled.push(one),
            Completion::Read { result: Err(error), more: false, .. } => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOBUFS));
                has_run_out = true;
            }
            other => panic!("{other:?}"),
        }
    }
    if !has_run_out {
        drop(there);
        ring.cancel_read(1).unwrap();
        while !matches!(next(ring), Completion::Read { more: false, .. }) {}
    }
    (filled, has_run_out)
}

/// Of a ring whose buffers nobody has: every one is with the kernel or spare, and only once.
fn assert_whole(ring: &Ring) {
    let spare = ring.spare.borrow();
    assert_eq!(ring.free_buffers() + spare.len(), ring.uses.len());
    let mut indices = spare.clone();
    indices.sort_unstable();
    indices.dedup();
    assert_eq!(indices.len(), spare.len());
    assert!(ring.uses.iter().all(|uses| uses.get() == 0));
}

#[test]
fn the_kernel_has_as_many_buffers_as_are_needed() {
    const ALL: usize = 16;
    let Some(ring) = ring_of(ALL as u16, 64) else { return };
    assert_eq!(ring.free_buffers(), WANTED_MIN);
    for wanted in [WANTED_MIN, 8, ALL] {
        let (filled, has_run_out) = read_all(&ring, ALL + 1, b"short");
        assert_eq!((filled.len(), has_run_out), (wanted, true));
        assert_eq!(ring.want_more(), wanted < ALL, "when they are all there, that is a shortage");
        drop(filled);
        assert_whole(&ring);
    }
    assert_eq!(ring.free_buffers(), ALL);
    // One at a time.
    for _ in 0..NEED_READS * 3 {
        assert_eq!(read_all(&ring, 1, b"short").0.len(), 1);
    }
    assert_eq!(ring.free_buffers(), WANTED_MIN);
    assert_whole(&ring);
    // For so many requests.
    ring.want(9);
    assert_eq!(ring.free_buffers(), 9);
    ring.want(ALL * 2);
    assert_eq!(ring.free_buffers(), ALL);
    assert_whole(&ring);
}

#[test]
fn long_reads_stay_in_the_cache() {
    let after = |bytes| (0..NEED_READS).fold(Need::UNKNOWN, |need, _| need.with_read(bytes));
    let long = after(1 << 16);
    assert!(!long.is_beyond_cache(WANTED_MIN) && long.is_beyond_cache(WANTED_MIN * 2));
    let counted_anew = long.begun_anew();
    assert!(counted_anew.is_beyond_cache(WANTED_MIN * 2), "how long they are stays known");
    assert_eq!((long.most, counted_anew.most), (NEED_READS, 0));
    assert!(!after(1500).is_beyond_cache(128) && !Need::UNKNOWN.is_beyond_cache(128));
}
