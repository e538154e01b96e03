//! io_uring as the workers use it: see [`super::sys::ring`], which is safe to use but has to be read with care.

pub use super::sys::ring::{Completion, Filled, Ring, Unavailable};
