//! From what somebody asked to run to the arguments of `execve`.

use std::ffi::CString;

use nix::sys::stat::{Mode, umask};
use nix::unistd::chdir;
use vswitch_proto::api::Exit;
use vswitch_proto::command::LabSpec;

use super::Exec;
use super::privileges::Privileges;
use super::protocol::{NOT_EXECUTABLE, NOT_FOUND};
use super::reaper;
use crate::io::{limits, process};

/// Docker's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program with everything it is run with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Program {
    arguments: Vec<String>,
    /// In order; the name occurs once.
    environment: Vec<(String, String)>,
    workdir: String,
    pub(super) tty: bool,
    privileges: Privileges,
    /// Somebody asked for this HOME; otherwise it is the account's.
    has_home: bool,
    /// Pid 1 is a process that reaps, and the program its child.
    init: bool,
}

impl Program {
    pub(super) fn of_container(spec: &LabSpec, hostname: &str) -> Program {
        let words: Vec<String> = spec.words().cloned().collect();
        let arguments = if words.is_empty() { vec!["sh".into()] } else { words };
        let mut program = Program {
            arguments,
            environment: Vec::new(),
            workdir: spec.workdir.clone().unwrap_or_else(|| "/".into()),
            tty: spec.tty,
            privileges: Privileges::of(&spec.settings),
            has_home: false,
            init: spec.settings.init,
        };
        program.set("PATH", PATH);
        program.set("HOSTNAME", hostname);
        program.set("HOME", "/root");
        if spec.tty {
            program.set("TERM", "xterm");
        }
        program.set_all(&spec.env);
        program
    }

    /// With the environment and working directory of the container, unless it asks for others.
    pub(super) fn of_exec(exec: &Exec, spec: &LabSpec, hostname: &str) -> Program {
        let mut program = Program::of_container(spec, hostname);
        program.arguments.clone_from(&exec.command);
        if exec.tty && program.get("TERM").is_none() {
            program.set("TERM", "xterm");
        }
        program.set_all(&exec.env);
        if let Some(workdir) = &exec.workdir {
            program.workdir.clone_from(workdir);
        }
        if let Some(user) = &exec.user {
            program.privileges.set_user(user);
        }
        (program.tty, program.init) = (exec.tty, false);
        program
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.environment.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        match self.environment.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.environment.push((name.into(), value.into())),
        }
    }

    fn set_all(&mut self, pairs: &[String]) {
        for (name, value) in pairs.iter().filter_map(|pair| pair.split_once('=')) {
            self.has_home |= name == "HOME";
            self.set(name, value);
        }
    }

    /// Takes on the account and privileges of the program and becomes it. Returns only why it could not.
    pub(super) fn run(mut self) -> Exit {
        // Before the limits that somebody asked for. With the limit of the shim a program runs as well.
        let _ = limits::restore_descriptors();
        match self.privileges.assume() {
            Ok(account) if self.privileges.names_user() && !self.has_home => self.set("HOME", &account.home),
            Ok(_) => {}
            Err(error) => return failed(NOT_EXECUTABLE, &error),
        }
        if self.init
            && let Err(error) = reaper::fork_program(self.tty)
        {
            return failed(NOT_EXECUTABLE, &format!("cannot start the process behind pid 1: {error}"));
        }
        self.execute()
    }

    fn execute(&self) -> Exit {
        let Some(name) = self.arguments.first() else {
            return failed(NOT_FOUND, "no command given: name a program to run");
        };
        let environment = self.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let (Some(arguments), Some(environment)) =
            (c_strings(self.arguments.iter().cloned()), c_strings(environment))
        else {
            return failed(NOT_EXECUTABLE, "the command or its environment contains a NUL byte");
        };
        if let Err(error) = chdir(self.workdir.as_str()) {
            return failed(
                NOT_EXECUTABLE,
                &format!("cannot enter the working directory {}: {error}", self.workdir),
            );
        }
        umask(Mode::from_bits_truncate(0o022));
        process::reset_signals();
        match process::exec(name, &arguments, &environment, self.get("PATH").unwrap_or(PATH)) {
            nix::Error::ENOENT | nix::Error::ENOTDIR => {
                failed(NOT_FOUND, &format!("{name}: no such program in the container; look at its PATH"))
            }
            nix::Error::EACCES => {
                failed(NOT_EXECUTABLE, &format!("{name}: not executable: permission denied"))
            }
            nix::Error::ENOEXEC => {
                failed(NOT_EXECUTABLE, &format!("{name}: not executable: no binary and no script with #!"))
            }
            error => failed(NOT_EXECUTABLE, &format!("{name}: not executable: {error}")),
        }
    }
}

fn failed(exit_code: i32, error: &str) -> Exit {
    Exit { exit_code, error: error.into() }
}

fn c_strings(strings: impl Iterator<Item = String>) -> Option<Vec<CString>> {
    strings.map(|string| CString::new(string).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_variables_replace_the_default_ones_and_exec_adds_to_them() {
        let spec =
            LabSpec { env: vec!["PATH=/bin".into(), "A=b=c".into(), "odd".into()], ..LabSpec::default() };
        let program = Program::of_container(&spec, "box");
        assert_eq!(program.arguments, ["sh"]);
        let names: Vec<&str> = program.environment.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["PATH", "HOSTNAME", "HOME", "A"]);
        assert_eq!((program.get("PATH"), program.get("A")), (Some("/bin"), Some("b=c")));

        let exec = Exec { command: vec!["ls".into()], env: vec!["A=".into()], tty: true, ..Exec::default() };
        let program = Program::of_exec(&exec, &spec, "box");
        assert_eq!(program.arguments, ["ls"]);
        assert_eq!(
            (program.get("A"), program.get("TERM"), program.get("HOSTNAME")),
            (Some(""), Some("xterm"), Some("box"))
        );
        assert!(program.tty);
    }
}
