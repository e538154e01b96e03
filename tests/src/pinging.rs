//! A ping that goes on while something happens, to see what that loses.

use anyhow::Context;

use crate::Lab;
use crate::process::Process;
use crate::wait::eventually;

/// One every 10 ms, inside of a container.
pub struct Pinging {
    process: Process,
}

impl Pinging {
    /// When this returns, the first answer is there.
    pub fn start(lab: &Lab, container: &str, address: &str) -> Pinging {
        let pid = lab.inspect(container).state.pid;
        assert_ne!(pid, 0, "{container} runs");
        let namespace = format!("--net=/proc/{pid}/ns/net");
        let process = Process::spawn(lab, &["nsenter", &namespace, "busybox", "ping", "-i", "0.01", address]);
        process.wait_for("64 bytes from");
        Pinging { process }
    }

    /// Until this many more answers have come.
    pub fn wait_for_more(&self, answers: usize) {
        let count = || self.process.output().matches("64 bytes from").count();
        let before = count();
        eventually("the pinging goes on", || {
            let more = count() - before;
            (more >= answers).then_some(()).with_context(|| format!("{more} more answers"))
        });
    }

    /// Ends it and tells how many got no answer.
    pub fn losses(mut self) -> usize {
        self.process.signal("INT");
        self.process.wait();
        let output = self.process.output();
        let summary = output.lines().find(|line| line.contains("packets transmitted"));
        let summary = summary.unwrap_or_else(|| panic!("a summary ends {output}"));
        let counts: Vec<usize> =
            summary.split(", ").filter_map(|part| part.split(' ').next()?.parse().ok()).collect();
        // The last one may still be on its way.
        (counts[0] - counts[1]).saturating_sub(1)
    }
}
