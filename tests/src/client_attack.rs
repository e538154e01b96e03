//! A client of the API at full power: what it does and how often it was answered.

use anyhow::{Context, ensure};

use crate::Lab;
use crate::process::Process;
use crate::wait::eventually;

/// Names for `client-attack`: listing containers, streams of events that are never read, the same with a container's
/// output, containers that are started and removed.
pub const KINDS: [&str; 4] = ["calls", "streams", "logs", "starts"];

/// What an attack makes at the same time.
pub const ATTACK: usize = 16;

/// The same without harm: one request at a time, whose answer is read.
pub const ONE: usize = 1;

/// An attack that goes on until it is dropped.
pub struct ClientAttack(Process);

/// Requests of an attack so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    pub answered: u64,
    pub refused: u64,
    /// Without an answer: the connection was closed.
    pub failed: u64,
}

impl ClientAttack {
    /// On the machine of `lab`, in a session of its own. `container` is the one whose output is followed.
    pub fn start(lab: &Lab, kind: &str, container: &str, threads: usize) -> ClientAttack {
        let threads = threads.to_string();
        let args = ["client-attack", kind, crate::lab::SOCKET, container, &threads];
        let attack = ClientAttack(Process::spawn(lab, &args));
        eventually(&format!("a client is answered ({kind})"), || {
            ensure!(attack.counts()?.answered > 0, "{:?}", attack.counts());
            Ok(())
        });
        attack
    }

    pub fn counts(&self) -> anyhow::Result<Counts> {
        let output = self.0.output();
        let line = output.lines().last().context("it has printed nothing yet")?;
        let numbers: Vec<u64> = line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
        let [answered, refused, failed] = numbers[..] else { anyhow::bail!("not its counts: {line}") };
        Ok(Counts { answered, refused, failed })
    }
}
