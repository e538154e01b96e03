//! System calls that no safe wrapper offers, one file per subject. Each function here is safe to call with any
//! argument its types allow.

pub mod credentials;
pub mod inherit;
pub mod lease;
pub mod mount;
pub mod nsfs;
pub mod process;
pub mod pty;
pub mod ring;
pub mod tun;
pub mod udp;
