//! iperf3: one server for one test, and what its JSON says.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use tempfile::TempDir;

use crate::lab::find_program;
use crate::lab::process::{self, Process, SHORT};
use crate::peers::{Peer, Unavailable};

/// What arrived in one test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    pub gbit: f64,
    pub gbit_per_s: f64,
}

/// TCP from station a to station b. The server ends with this.
#[derive(Debug)]
pub struct Iperf {
    client: Process,
    _server: Process,
    _dir: TempDir,
    seconds: u32,
}

impl Iperf {
    pub fn start(peer: &Peer, streams: u32, seconds: u32) -> anyhow::Result<Iperf> {
        let program = find_program("iperf3").ok_or_else(|| {
            anyhow!(Unavailable(String::from("iperf3 is not installed (apt install iperf3)")))
        })?;
        let dir = tempfile::tempdir()?;
        let mut server = peer.b.netns.command(&program);
        server.args(["--server", "--one-off", "--forceflush"]);
        let mut server = Process::start("iperf3 --server", server, dir.path())?;
        server.wait_for_line("Server listening", SHORT)?;
        let mut client = peer.a.netns.command(&program);
        client.args(["--client", &peer.b.ip.to_string(), "--json", "--connect-timeout", "5000"]);
        // Cookies and intervals need no attention: one interval, the whole test.
        client.args(["--interval", "0", "--time", &seconds.to_string(), "--parallel", &streams.to_string()]);
        let client = Process::start("iperf3 --client", client, dir.path())?;
        Ok(Iperf { client, _server: server, _dir: dir, seconds })
    }

    pub fn finish(self) -> anyhow::Result<Transfer> {
        let patience = process::SHORT + Duration::from_secs(self.seconds.into()) * 2;
        parse(&self.client.finish(patience)?)
    }
}

fn parse(text: &str) -> anyhow::Result<Transfer> {
    #[derive(Deserialize)]
    struct Output {
        error: Option<String>,
        end: Option<End>,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Option<Sum>,
    }
    #[derive(Deserialize)]
    struct Sum {
        bytes: f64,
        bits_per_second: f64,
    }
    let output: Output = serde_json::from_str(text).context("iperf3 wrote no JSON")?;
    if let Some(error) = output.error {
        bail!("iperf3: {error}");
    }
    let sum = output.end.and_then(|end| end.sum_received).context("iperf3 did not say what was received")?;
    Ok(Transfer { gbit: sum.bytes * 8.0 / 1e9, gbit_per_s: sum.bits_per_second / 1e9 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_counts() {
        let text = r#"{"start": {"version": "iperf 3.12"}, "intervals": [], "end": {
            "sum_sent": {"bytes": 9000000000, "bits_per_second": 24e9, "retransmits": 3},
            "sum_received": {"start": 0, "end": 3.0, "bytes": 4500000000, "bits_per_second": 1.2e10}}}"#;
        assert_eq!(parse(text).unwrap(), Transfer { gbit: 36.0, gbit_per_s: 12.0 });
    }

    #[test]
    fn errors_are_passed_on() {
        let text = r#"{"start": {}, "intervals": [], "end": {}, "error": "unable to connect to server"}"#;
        assert_eq!(parse(text).unwrap_err().to_string(), "iperf3: unable to connect to server");
        assert!(parse(r#"{"end": {}}"#).unwrap_err().to_string().contains("what was received"));
        assert!(parse("iperf3: nothing").unwrap_err().to_string().contains("no JSON"));
    }
}
