//! The loop of the shim: who is connected, what runs, and what each event does to them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use vswitch_proto::api::stream::Frame;

use super::super::environment::Program;
use super::super::log::{self, Stream};
use super::super::protocol::{Answer, Note, Request, Status};
use super::super::{Exec, Exit, Launch, cgroup, files, init};
use super::client::{Client, HOLD_MAX, Role};
use super::task::{End, Forked, Task};
use crate::io::process;

/// The task that is the container; those of execs have the ids of their clients, from 1 on.
const INIT: u64 = 0;
const CLIENTS_MAX: usize = 256;
const EXECS_MAX: usize = 64;
/// How long the shim of an ended container waits for clients to take their last frames.
const LINGER_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy)]
enum Source {
    Listener,
    Signals,
    Client(u64),
    Task(u64, End),
}

pub(super) struct Supervisor {
    pub(super) status: Status,
    launch: Launch,
    log: log::Writer,
    listener: UnixListener,
    signals: SignalFd,
    tasks: BTreeMap<u64, Task>,
    clients: BTreeMap<u64, Client>,
    next_id: u64,
}

impl Supervisor {
    pub(super) fn new(
        launch: Launch,
        status: Status,
        log: log::Writer,
        (listener, signals): (UnixListener, SignalFd),
        init: Task,
    ) -> Supervisor {
        let tasks = BTreeMap::from([(INIT, init)]);
        Supervisor {
            status,
            launch,
            log,
            listener,
            signals,
            tasks,
            clients: BTreeMap::new(),
            next_id: INIT + 1,
        }
    }

    /// Ends a container that nobody knows of.
    pub(super) fn abandon(self) {
        self.tasks.values().for_each(super::end);
        for name in ["shim.sock", "shim.json"] {
            // What cannot be removed now goes with the directory.
            let _ = fs::remove_file(name);
        }
    }

    /// Serves until the container has ended.
    pub(super) fn run(mut self) -> io::Result<()> {
        let exit = loop {
            for (source, flags) in self.wait()? {
                match source {
                    Source::Listener => self.accept(),
                    Source::Client(id) => self.on_client(id, flags),
                    Source::Task(id, end) => self.on_task(id, end),
                    // Handled last, since it may end everything.
                    Source::Signals => {}
                }
            }
            if let Some(exit) = self.on_signals()? {
                break exit;
            }
            self.drop_late_clients();
            self.clients.retain(|_, client| client.role != Role::Closing || !client.has_nothing_to_send());
        };
        self.conclude(&exit);
        self.linger()
    }

    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        let now = Instant::now();
        let full: Vec<u64> =
            self.clients.iter_mut().filter_map(|(id, client)| client.holds(now).then_some(*id)).collect();
        let attached_full = full.iter().any(|id| self.clients[id].role == Role::Attached);
        let mut sources = vec![Source::Listener, Source::Signals];
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        for (id, task) in &self.tasks {
            let has_room = if *id == INIT { !attached_full } else { !full.contains(id) };
            for (end, fd, flags) in task.interest(has_room) {
                sources.push(Source::Task(*id, end));
                fds.push(PollFd::new(fd, flags));
            }
        }
        for (id, client) in &self.clients {
            let takes_input =
                self.task_of(*id).is_none_or(|task| self.tasks.get(&task).is_none_or(Task::takes_input));
            let (fd, flags) = client.interest(takes_input);
            sources.push(Source::Client(*id));
            fds.push(PollFd::new(fd, flags));
        }
        let timeout = if full.is_empty() {
            PollTimeout::NONE
        } else {
            PollTimeout::try_from(HOLD_MAX / 4).expect("a quarter of a second")
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// The task that a client's stream belongs to.
    fn task_of(&self, client: u64) -> Option<u64> {
        match self.clients.get(&client)?.role {
            Role::Attached => Some(INIT),
            Role::Exec { .. } => Some(client),
            _ => None,
        }
    }

    fn accept(&mut self) {
        // An error is that of one connection, or of a lack of descriptors that passes.
        while let Ok(mut client) = self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
            if self.clients.len() >= CLIENTS_MAX && !self.evict_closing() {
                client.refuse("the container has too many clients: close one");
                continue;
            }
            self.clients.insert(self.next_id, client);
            self.next_id += 1;
        }
    }

    /// Makes room at the cost of one that does not take its last words.
    fn evict_closing(&mut self) -> bool {
        let closing = self.clients.iter().find(|(_, client)| client.role == Role::Closing).map(|(id, _)| *id);
        closing.is_some_and(|id| self.clients.remove(&id).is_some())
    }

    fn on_client(&mut self, id: u64, flags: PollFlags) {
        let gone = flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            let mut alive = client.flush().is_ok();
            if flags.contains(PollFlags::POLLIN) {
                alive &= client.receive().is_ok();
            }
            let at_end = !flags.contains(PollFlags::POLLIN) || client.input_ended();
            self.take_frames(id);
            if !alive || (gone && at_end) {
                return self.remove_client(id);
            }
            // Of one that is gone, all that it has said still counts.
            if !gone {
                return;
            }
        }
    }

    fn take_frames(&mut self, id: u64) {
        while let Some(client) = self.clients.get_mut(&id) {
            if client.role == Role::Closing {
                return;
            }
            match client.next_frame() {
                Ok(Some(frame)) => self.on_frame(id, frame),
                Ok(None) => return,
                Err(error) => self.refuse(id, &error.to_string()),
            }
        }
    }

    fn remove_client(&mut self, id: u64) {
        self.clients.remove(&id);
        if let Some(task) = self.tasks.get_mut(&id) {
            task.hang_up();
        }
    }

    fn refuse(&mut self, id: u64, line: &str) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.refuse(line);
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            task.hang_up();
        }
    }

    fn drop_late_clients(&mut self) {
        let now = Instant::now();
        let late = self.clients.iter().filter(|(_, client)| client.is_late(now)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.refuse(id, "this client did not read the output for too long and was dropped: see the logs");
        }
    }

    fn on_frame(&mut self, id: u64, frame: Frame) {
        let role = self.clients[&id].role;
        let (Some(task), forwards) = (match role {
            Role::Attached => (self.tasks.get_mut(&INIT), self.launch.spec.open_stdin),
            Role::Exec { stdin } => (self.tasks.get_mut(&id), stdin),
            _ => (None, false),
        }) else {
            return match frame {
                Frame::Request(json) if role == Role::New => self.on_request(id, &json),
                // The last words to a process that has just ended.
                _ if matches!(role, Role::Attached | Role::Exec { .. }) => {}
                _ => self.refuse(id, "this frame has no place here"),
            };
        };
        match frame {
            Frame::Stdin(data) if forwards => task.type_in(&data),
            Frame::Stdin(_) => {}
            Frame::StdinClosed if role == Role::Attached => {
                let attached = self.clients.values().filter(|client| client.role == Role::Attached).count();
                if attached == 1 {
                    task.close_input();
                }
            }
            Frame::StdinClosed => task.close_input(),
            Frame::Resize { rows, columns } => task.resize(rows, columns),
            _ => self.refuse(id, "this frame has no place here"),
        }
    }

    fn on_request(&mut self, id: u64, json: &[u8]) {
        let request = match serde_json::from_slice(json) {
            Ok(request) => request,
            Err(error) => return self.refuse(id, &format!("not a request to a shim: {error}")),
        };
        if let Request::Exec(exec) = request {
            return self.exec(id, &exec);
        }
        let Some(client) = self.clients.get_mut(&id) else { return };
        let init = self.tasks.get_mut(&INIT).expect("init is there while requests are served");
        match request {
            Request::Status => client.conclude(&Answer::Status(self.status.clone())),
            Request::Start if init.runs() => client.conclude(&Answer::Done),
            Request::Start => match init.start() {
                Ok(()) => client.role = Role::Starting,
                Err(error) => {
                    client.conclude(&Answer::Refused(format!("cannot start the container: {error}")));
                }
            },
            Request::Signal(number) => client.conclude(&signal(init, number)),
            Request::Resize { rows, columns } => {
                init.resize(rows, columns);
                client.conclude(&Answer::Done);
            }
            Request::Wait => client.role = Role::Waiting,
            Request::Follow => {
                client.role = Role::Following;
                // For what was appended after the client looked and before it was known here.
                client.send(&Frame::Answer(Vec::new()));
            }
            Request::Attach | Request::Exec(_) => {
                client.answer(&Answer::Done);
                client.role = Role::Attached;
            }
        }
    }

    fn exec(&mut self, id: u64, exec: &Exec) {
        let program = Program::of_exec(exec, &self.launch.spec, &self.launch.hostname);
        let init_pid = self.status.init_pid;
        let result = if !self.status.started {
            Err("the container has not been started".to_owned())
        } else if self.tasks.len() > EXECS_MAX {
            Err(format!("{EXECS_MAX} commands run in the container by exec already: end one"))
        } else {
            match Task::fork(exec.tty, exec.stdin) {
                Ok(Forked::Child { stdio, channel }) => init::run_exec(program, init_pid, stdio, channel),
                Ok(Forked::Shim(task)) => task.do_not_wait_for_notes().map(|()| *task),
                Err(error) => Err(error),
            }
            .map_err(|error| format!("cannot run a command in the container: {error}"))
        };
        let Some(client) = self.clients.get_mut(&id) else { return };
        match result {
            Err(line) => client.conclude(&Answer::Refused(line)),
            Ok(task) => {
                client.answer(&Answer::Done);
                client.role = Role::Exec { stdin: exec.stdin };
                self.tasks.insert(id, task);
            }
        }
    }

    fn on_task(&mut self, id: u64, end: End) {
        let Some(task) = self.tasks.get_mut(&id) else { return };
        match end {
            End::Input => task.write_input(),
            End::Output(stream) => {
                if let Some(bytes) = task.read_output(stream) {
                    self.send_output(id, stream, bytes);
                }
            }
            End::Channel => drop(self.take_note(id)),
        }
    }

    /// False when there is none now, or none will come.
    fn take_note(&mut self, id: u64) -> bool {
        let Some(task) = self.tasks.get_mut(&id) else { return false };
        match task.next_note() {
            Ok(Some(Note::Failed(exit))) => task.failure = Some(exit),
            Ok(Some(Note::Ready)) => task.write_input(),
            Ok(Some(Note::Warning(line))) => self.log_line(&line),
            Ok(None) => {
                if id == INIT && task.told_to_start {
                    self.on_started();
                }
                return false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
            Err(error) => {
                eprintln!("a process of this container said what it should not: {error}");
            }
        }
        true
    }

    fn log_line(&mut self, line: &str) {
        self.log.append(Stream::Stderr, format!("vswitch: {line}\n").as_bytes(), SystemTime::now());
    }

    /// Init runs the command, or failed to.
    fn on_started(&mut self) {
        let failure = self.tasks[&INIT].failure.clone();
        if failure.is_none() {
            self.status.started = true;
            if let Err(error) = files::write_status(&self.launch.dir, &self.status) {
                eprintln!("cannot write shim.json: {error}");
            }
        }
        let answer = failure.map_or(Answer::Done, Answer::Exited);
        for client in self.clients.values_mut().filter(|client| client.role == Role::Starting) {
            client.conclude(&answer);
        }
    }

    fn send_output(&mut self, id: u64, stream: Stream, bytes: Vec<u8>) {
        if id == INIT {
            self.log.append(stream, &bytes, SystemTime::now());
        }
        let frame: Rc<[u8]> = match stream {
            Stream::Stdout => Frame::Stdout(bytes),
            Stream::Stderr => Frame::Stderr(bytes),
        }
        .to_bytes()
        .into();
        for (client_id, client) in &mut self.clients {
            match client.role {
                Role::Attached if id == INIT => client.send_bytes(Rc::clone(&frame)),
                Role::Exec { .. } if id == *client_id => client.send_bytes(Rc::clone(&frame)),
                // One notice is enough for any growth.
                Role::Following if id == INIT && client.has_nothing_to_send() => {
                    client.send(&Frame::Answer(Vec::new()));
                }
                _ => {}
            }
        }
    }

    /// How the container ended, when it has.
    fn on_signals(&mut self) -> io::Result<Option<Exit>> {
        while let Some(signal) = self.signals.read_signal()? {
            if signal.ssi_signo == libc::SIGTERM as u32 {
                // It may be dead already.
                let _ = process::send_signal(Pid::from_raw(self.status.init_pid), libc::SIGKILL);
            }
        }
        let mut end = None;
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return Ok(end),
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let Some(id) = self.tasks.iter().find(|(_, task)| task.pid == pid).map(|(id, _)| *id) else {
                continue;
            };
            let exit = self.end_task(id, code);
            if id == INIT {
                end = Some(exit);
            }
        }
    }

    /// Passes on the last output of a task that was reaped, and how it ended.
    fn end_task(&mut self, id: u64, exit_code: i32) -> Exit {
        // Why it could not run its program may still wait in the channel.
        while self.tasks[&id].has_channel() && self.take_note(id) {}
        let mut task = self.tasks.remove(&id).expect("the caller found it");
        for (stream, bytes) in task.read_rest() {
            self.send_output(id, stream, bytes);
        }
        let error = task.failure.map(|exit| exit.error).unwrap_or_default();
        let exit = Exit { exit_code, error };
        // Of an exec; init has the id of no client.
        if let Some(client) = self.clients.get_mut(&id) {
            send_end(client, &exit);
        }
        exit
    }

    /// Writes down how the container ended, then tells everybody.
    fn conclude(&mut self, exit: &Exit) {
        // Before anybody can start the container again.
        cgroup::remove(&self.launch.id);
        if !exit.error.is_empty() {
            self.log_line(&exit.error);
        }
        if let Err(error) = files::write_exit(&self.launch.dir, exit) {
            eprintln!("cannot write exit.json: {error}");
        }
        if let Err(error) = fs::remove_file("shim.sock") {
            eprintln!("cannot remove shim.sock: {error}");
        }
        for client in self.clients.values_mut() {
            match client.role {
                Role::Attached => send_end(client, exit),
                Role::Exec { .. } | Role::Following | Role::Closing => client.role = Role::Closing,
                Role::New | Role::Starting | Role::Waiting => client.conclude(&Answer::Exited(exit.clone())),
            }
        }
    }

    fn linger(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + LINGER_MAX;
        loop {
            self.clients.retain(|_, client| client.flush().is_ok() && !client.has_nothing_to_send());
            let left = deadline.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return Ok(());
            }
            let mut fds: Vec<PollFd<'_>> = self
                .clients
                .values()
                .map(|client| PollFd::new(client.interest(false).0, PollFlags::POLLOUT))
                .collect();
            match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn send_end(client: &mut Client, exit: &Exit) {
    if !exit.error.is_empty() {
        client.send(&Frame::Stderr(format!("vswitch: {}\n", exit.error).into_bytes()));
    }
    client.send(&Frame::Exit(exit.exit_code));
    client.role = Role::Closing;
}

fn signal(init: &Task, number: i32) -> Answer {
    if !(1..=64).contains(&number) {
        return Answer::Refused(format!("{number} is no signal: give a number from 1 to 64"));
    }
    // Before its program runs, pid 1 takes none but this one.
    let ends = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGKILL].contains(&number);
    let number = if !init.runs() && ends { libc::SIGKILL } else { number };
    match process::send_signal(init.pid, number) {
        Ok(()) => Answer::Done,
        Err(error) => Answer::Refused(format!("cannot send signal {number}: {error}")),
    }
}
