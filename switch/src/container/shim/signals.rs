//! Signals that clients of a shim ask for.

use super::super::protocol::Answer;
use super::task::Task;
use crate::io::process;

/// Before its program runs, pid 1 takes none but SIGKILL: one that would end the program ends it, others wait until it runs.
pub(super) fn to_init(init: &mut Task, number: i32) -> Answer {
    if let Err(refused) = check(number) {
        return refused;
    }
    let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGKILL].contains(&number);
    if !init.runs() && !ends {
        init.signal_when_it_runs(number);
        return Answer::Done;
    }
    let number = if init.runs() { number } else { libc::SIGKILL };
    match process::send_signal(init.pid, number) {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(format!("cannot send signal {number}: {error}")),
    }
}

/// `task` is absent when the command has ended.
pub(super) fn to_exec(task: Option<&Task>, number: i32) -> Answer {
    if let Err(refused) = check(number) {
        return refused;
    }
    match task.map(|task| task.signal(number)) {
        None => Answer::Refused("the command has ended".into()),
        Some(Ok(())) => Answer::Done,
        Some(Err(error)) => Answer::Refused(format!("cannot send signal {number}: {error}")),
    }
}

fn check(number: i32) -> Result<(), Answer> {
    if (1..=64).contains(&number) {
        return Ok(());
    }
    Err(Answer::Refused(format!("{number} is no signal: give a number from 1 to 64")))
}
