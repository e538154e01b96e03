//! The vocabulary of vswitch: identifiers, wire formats, API types and replicated commands.
//!
//! Nothing here does IO, reads a clock or allocates behind the caller's back; the crate is `no_std`
//! (with `alloc`), so that claim is checked by the compiler.
//!
//! Modules in reading order:
//!
//! 1. [`id`]: checked newtypes. No raw integer or string stands for a domain thing anywhere else.
//! 2. [`wire`]: views over the bytes of protocol headers that this project itself handles.
//! 3. [`command`]: what goes into the replicated log.
//! 4. [`peer`]: messages between the nodes of a replicated group, and the entries of its log.
//! 5. [`docker`]: the calls of a Docker engine to its network and address plugin.
//! 6. [`address`]: where nodes are, as people write it.
//! 7. [`security`]: port security of a network.
//! 8. [`api`]: requests and answers of the daemon's HTTP API, and the framing of attached streams.
#![no_std]
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

extern crate alloc;

pub mod address;
pub mod api;
pub mod command;
pub mod docker;
pub mod id;
pub mod peer;
pub mod security;
pub mod wire;
