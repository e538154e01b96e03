//! vswitch: a userspace virtual switch for containers. This is the map of the crate.
//!
//! A pure core that knows no clock, socket or file, and thin edges that do nothing else:
//!
//! | module | pure | what it is |
//! | --- | --- | --- |
//! | [`frame`] | yes | a frame as it passes through the switch, with its offload metadata |
//! | [`forward`] | yes | the data plane: parse, learn, look up, verdict |
//! | [`gateway`] | yes | the layer-3 side of a network: ARP, neighbour discovery and ping at its gateway address |
//! | [`state`] | yes | what is true of networks, containers and endpoints: `apply(Command)` |
//! | [`problems`] | | faults of this node at present, for everything that reports them |
//! | [`plan`] | yes | from two states to the actions on the host and the tables of the data plane |
//! | [`publish`] | | one writer, many workers |
//! | [`counters`] | | what the workers count, summed when read |
//! | [`vitals`] | | threads and tasks whose failure ends the daemon |
//! | [`worker`] | | the data loop, one thread per worker |
//! | [`cluster`] | | the durable log in front of `state` |
//! | [`container`] | | the lab runner: namespaces, processes, terminals |
//! | [`api`] | | HTTP and JSON on a unix socket |
//! | [`daemon`] | | the control loop |
//! | [`io`] | | system calls and clocks; [`io::sys`] has the only `unsafe` |
//!
//! Who may import whom is written in `docs/architecture.md` and checked by a test.

pub mod api;
pub mod cluster;
pub mod config;
pub mod container;
pub mod counters;
pub mod daemon;
pub mod forward;
pub mod frame;
pub mod gateway;
pub mod io;
pub mod plan;
pub mod problems;
pub mod publish;
pub mod state;
pub mod vitals;
pub mod worker;
