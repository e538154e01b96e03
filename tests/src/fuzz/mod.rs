//! Functions that take any bytes and panic if a property does not hold. libFuzzer drives them (`tests/fuzz`, see
//! there), and the suite `fuzz_regression` runs them over the committed corpus and a bounded number of mutations.

mod decoding;
mod docker;
mod forward_path;
mod tunnel;

pub use decoding::{api_decoding, stream_decoding};
pub use docker::{dns, docker_calls};
pub use forward_path::forward_path;
pub use tunnel::{gso, vxlan};
