//! The only system calls and clocks of this crate. [`sys`] has the only `unsafe`.

pub mod mount;
pub mod process;
pub mod pty;
pub mod replace;
pub mod sys;
