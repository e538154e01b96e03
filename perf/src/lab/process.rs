//! Processes that are waited for with a time limit, and that end with whoever holds them.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::stop;

/// For commands that have nothing to wait for.
pub const SHORT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(2);

/// How long a process may take to end in its own way.
const GRACE: Duration = Duration::from_secs(3);

/// A process in the background. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: File,
    ended: bool,
}

impl Process {
    /// Starts a process whose output goes to a file in `dir`, so that it never has to wait for a reader.
    pub fn start(name: &str, mut command: Command, dir: &Path) -> anyhow::Result<Process> {
        let output = tempfile::tempfile_in(dir).context("cannot keep the output of a process")?;
        let child = command
            .stdin(Stdio::piped())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Process { name: name.to_owned(), child, output, ended: false })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error once the process has ended, with what it said last.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                self.ended = true;
                bail!("{} ended ({status}): {}", self.name, last_line(&self.text()?))
            }
        }
    }

    /// Waits for a line of output that begins in a given way.
    pub fn wait_for_line(&mut self, beginning: &str, patience: Duration) -> anyhow::Result<String> {
        let what = format!("{} to say \"{}\"", self.name, beginning.trim());
        wait_until(&what, patience, || {
            // The text before the last newline is complete lines.
            let text = self.text()?;
            let complete = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(line) = complete.lines().find(|line| line.starts_with(beginning)) {
                return Ok(Some(line.to_owned()));
            }
            self.check_running()?;
            Ok(None)
        })
    }

    /// Waits for its end; an error unless it succeeded. Answers its output.
    pub fn finish(mut self, patience: Duration) -> anyhow::Result<String> {
        let end = Instant::now() + patience;
        let status = wait(&mut self.child, &self.name, end)?;
        self.ended = true;
        let text = self.text()?;
        if !status.success() {
            bail!("{} failed ({status}): {}", self.name, last_line(&text));
        }
        Ok(text)
    }

    fn text(&self) -> anyhow::Result<String> {
        let mut bytes = vec![0; self.output.metadata()?.len() as usize];
        // Not through the shared offset, at which the process writes.
        self.output.read_exact_at(&mut bytes, 0)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.ended {
            end(&mut self.child);
        }
    }
}

/// SIGTERM, and SIGKILL for what does not heed it.
fn end(child: &mut Child) {
    let term = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
    let deadline = Instant::now() + GRACE;
    while term.is_ok() && Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(POLL),
            _ => return,
        }
    }
    // Both fail only if it has ended already.
    drop(child.kill());
    drop(child.wait());
}

/// Runs a command to its end and answers what it wrote to stdout. An error if it fails, or takes too long.
pub fn run(command: Command, patience: Duration) -> anyhow::Result<String> {
    run_with_input(command, "", patience)
}

pub fn run_with_input(mut command: Command, input: &str, patience: Duration) -> anyhow::Result<String> {
    let name = describe(&command);
    let (mut stdin, mut stdout, mut stderr) =
        (tempfile::tempfile()?, tempfile::tempfile()?, tempfile::tempfile()?);
    stdin.write_all(input.as_bytes())?;
    stdin.seek(SeekFrom::Start(0))?;
    command.stdin(stdin).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
    let waited = wait(&mut child, &name, Instant::now() + patience);
    if waited.is_err() {
        end(&mut child);
    }
    let status = waited?;
    let output = rewound(&mut stdout)?;
    if !status.success() {
        let said = rewound(&mut stderr)?;
        // iperf3 -J explains itself on stdout.
        let said = if said.trim().is_empty() { &output } else { &said };
        bail!("`{name}` failed ({status}): {}", last_line(said));
    }
    Ok(output)
}

fn rewound(file: &mut File) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn wait(child: &mut Child, name: &str, end: Instant) -> anyhow::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        stop::check()?;
        if Instant::now() >= end {
            bail!("`{name}` did not end in time");
        }
        thread::sleep(POLL);
    }
}

/// Asks again and again until there is an answer.
pub fn wait_until<T>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let end = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() >= end {
            bail!("waited {} s in vain for {what}", patience.as_secs());
        }
        stop::sleep(POLL)?;
    }
}

/// What a command runs, without the `inside --netns ... --` before it.
fn describe(command: &Command) -> String {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().replace("/proc/self/exe", "vswitch-perf"))
        .collect();
    let from = words.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    words[from..].join(" ")
}

fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn output_and_failure_of_a_command() {
        assert_eq!(run_with_input(shell("cat; echo b"), "a\n", SHORT).unwrap(), "a\nb\n");
        let error = run(shell("echo out; echo why >&2; exit 3"), SHORT).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");
        let error = run(shell("exec sleep 60"), Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains("did not end in time"), "{error}");
    }

    #[test]
    fn a_background_process_speaks_and_ends() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = Process::start("sh", shell("echo ready 5; exec sleep 60"), dir.path()).unwrap();
        assert_eq!(process.wait_for_line("ready", SHORT).unwrap(), "ready 5");
        process.check_running().unwrap();
        let pid = Pid::from_raw(process.pid() as i32);
        drop(process);
        assert!(kill(pid, None).is_err(), "it is gone and waited for");

        let mut process = Process::start("sh", shell("echo it broke; exit 1"), dir.path()).unwrap();
        let error = process.wait_for_line("ready", SHORT).unwrap_err().to_string();
        assert!(error.ends_with("it broke"), "{error}");
    }

    #[test]
    fn names_of_commands() {
        let mut command = Command::new("/proc/self/exe");
        command.args(["inside", "--netns", "x", "--", "ip", "link"]);
        assert_eq!(describe(&command), "ip link");
        assert_eq!(describe(&shell("true")), "sh -c true");
        let mut own = Command::new("/proc/self/exe");
        own.args(["inside", "--", "/proc/self/exe", "hold", "4"]);
        assert_eq!(describe(&own), "vswitch-perf hold 4");
    }
}
