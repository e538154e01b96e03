//! The data plane.
#![forbid(unsafe_code)]
#![deny(clippy::disallowed_methods)]

pub mod tables;
pub mod verdict;
