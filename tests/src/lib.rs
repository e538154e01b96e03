//! The harness: machines made of namespaces, daemons on them, and traffic between their containers.
//!
//! Each test makes a [`Lab`]: a [`Host`] with a `vswitchd` on it. Nothing of a test is visible to another one or
//! left behind, so that tests run side by side. Tests talk to the daemon as users do, through `vswitchctl` and HTTP.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`host`] | a machine: namespaces with a pid 1 of their own |
//! | [`process`] | a process on a machine, and what running one to its end gave |
//! | [`lab`] | a machine with a daemon that can be killed and started again |
//! | [`docker`] | a machine with a Docker engine besides |
//! | [`cluster`] | machines with daemons, joined by a bridge, whose cables can be pulled out |
//! | [`ctl`] | `vswitchctl` on a machine, and what it answers |
//! | [`pinging`] | a ping that goes on while something happens |
//! | [`terminal`] | a process behind a pseudo-terminal |
//! | [`http`] | requests to the daemon, well-formed or not |
//! | [`engines`] | the engines of the data plane that work here |
//! | [`netns`] | sockets inside a container's network namespace |
//! | [`packet`] | raw Ethernet frames |
//! | [`attack`] | a container at full power |
//! | [`client_attack`] | a client of the API at full power |
//! | [`capture`] | what tshark says of frames |
//! | [`overlay`] | two hosts with a container each, and the switch between them, ours or another |
//! | [`ovs`] | Open vSwitch as such another |
//! | [`flags`] | the flags of docker, in its help and in our documentation |
//! | [`flows`] | numbered datagrams that see what is lost or out of order |
//! | [`footprint`] | what a machine holds, to see that nothing is left |
//! | [`wait`] | waiting for something to become true |
//! | [`simulator`] | a cluster in one process, with faults, replayed from a seed |
//! | [`fuzz`] | what libFuzzer drives and the suite `fuzz_regression` runs |
//!
//! Waiting is polling with a deadline far beyond what a healthy system needs; no test asserts how long a thing took.

pub mod attack;
pub mod capture;
pub mod client_attack;
pub mod cluster;
pub mod ctl;
pub mod docker;
pub mod engines;
pub mod flags;
pub mod flows;
pub mod footprint;
pub mod fuzz;
pub mod host;
pub mod http;
pub mod lab;
pub mod netns;
pub mod overlay;
pub mod ovs;
pub mod packet;
pub mod pinging;
pub mod process;
pub mod simulator;
pub mod terminal;
pub mod wait;

pub use cluster::Cluster;
pub use host::{Host, binary};
pub use lab::Lab;
