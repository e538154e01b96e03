//! The small programs that the rig runs inside the namespaces of a peer, as hidden commands of its own: traffic and
//! the bare forwarder. They say what they saw as one line of JSON.

use std::io::Write;

use serde::Serialize;

pub mod bare;
pub mod blast;
pub mod frames;
pub mod ping;

/// What a probe leaves on stdout.
pub fn report(report: &impl Serialize) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{}", serde_json::to_string(report)?)?;
    Ok(stdout.flush()?)
}
