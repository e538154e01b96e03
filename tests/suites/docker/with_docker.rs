use anyhow::ensure;
use serde_json::{Value, json};
use vswitch_tests::docker::Docker;
use vswitch_tests::wait::eventually;

#[path = "command_line.rs"]
mod command_line;
#[path = "faults.rs"]
mod faults;
#[path = "guide.rs"]
mod guide;
#[path = "hosts.rs"]
mod hosts;
#[path = "mounts.rs"]
mod mounts;
#[path = "names.rs"]
mod names;
#[path = "options.rs"]
mod options;
#[path = "pools.rs"]
mod pools;
#[path = "protocol.rs"]
mod protocol;
#[path = "run_flags.rs"]
mod run_flags;
