//! System calls, and nothing else: no decision about frames or networks is taken here.
//!
//! 1. [`netns`]: network namespaces as handles, and how to work inside one.
//! 2. [`netlink`]: links, addresses and routes of a namespace.
//! 3. [`tap`]: the interface of a container, as the switch reads and writes it.
//! 4. [`underlay`]: the sockets through which hosts are joined.
//! 5. [`ring`]: reads and writes in batches, by io_uring.
//! 6. [`process`], [`mount`], [`pty`]: what a container is made of.
//! 7. [`liveness`], [`limits`]: whether a process exists, and how many descriptors this one may open.
//! 8. [`replace`]: a file's new content, seen as a whole or not at all.
//! 9. [`listeners`]: sockets of the service manager; [`features`]: what the host has.
//! 10. [`sys`]: what needs `unsafe`; the only place that has any.

pub mod features;
pub mod limits;
pub mod listeners;
pub mod liveness;
pub mod mount;
pub mod netlink;
pub mod netns;
pub mod process;
pub mod pty;
pub mod replace;
pub mod ring;
pub mod sys;
pub mod tap;
pub mod underlay;

/// A fresh namespace for one test.
#[cfg(test)]
pub(crate) fn test_netns() -> netns::NetNs {
    netns::NetNs::create().unwrap_or_else(|e| panic!("needs root: {e}"))
}
