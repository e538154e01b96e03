//! Harness of the suites.

pub mod fuzz;
