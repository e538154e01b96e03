//! Containers as real processes: namespaces, terminals, logs, and what is left after a crash (nothing).
//!
//! Needs root, and busybox for the root file system.

mod bounds;
mod files;
mod lab;
mod lifecycle;
mod nested;
mod streams;
