//! A ping that goes on while something happens, to see what that loses.

use std::collections::BTreeSet;

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

    /// Ends it and tells how many got no answer although later ones did. The last ones may still be on their way.
    pub fn losses(mut self) -> usize {
        self.process.signal("INT");
        self.process.wait();
        let output = self.process.output();
        let answered: BTreeSet<usize> = output.lines().filter_map(sequence_number).collect();
        let last = answered.last().expect("the first answer was waited for");
        last + 1 - answered.len()
    }
}

/// Of `64 bytes from 10.0.0.3: seq=0 ttl=64 time=0.442 ms`.
fn sequence_number(line: &str) -> Option<usize> {
    line.split_once(" seq=")?.1.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::sequence_number;

    #[test]
    fn answers_have_numbers() {
        assert_eq!(sequence_number("64 bytes from 10.0.0.3: seq=17 ttl=64 time=0.442 ms"), Some(17));
        assert_eq!(sequence_number("PING 10.0.0.3 (10.0.0.3): 56 data bytes"), None);
    }
}
