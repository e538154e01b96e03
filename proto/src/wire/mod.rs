//! Headers that this project itself reads and writes, each as a checked view over bytes, a `Repr`, and tests on
//! literal bytes.

pub mod checksum;
pub mod ethernet;
pub mod neighbor;
pub mod vnet_hdr;
pub mod vxlan;
