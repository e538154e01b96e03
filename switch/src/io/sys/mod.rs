//! System calls that `nix` lacks or marks unsafe, each behind a safe function.

pub mod lease;
pub mod mount;
pub mod process;
pub mod pty;
