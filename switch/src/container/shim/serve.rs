//! The loop of the shim: who is connected, what runs, and what each event does to them.

use std::collections::{BTreeMap, BTreeSet};
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
use super::super::protocol::{Answer, KILLED, Note, Request, Status};
use super::super::{Exec, Exit, Launch, cgroup, files, init};
use super::bounds::Bounds;
use super::client::{Client, LOOK_AGAIN, Role};
use super::linger::linger;
use super::patience::Patience;
use super::signals;
use super::task::{End, Forked, Task};
use crate::io::{limits, process};

/// The task that is the container; those of execs have the ids of their clients, from 1 on.
const INIT: u64 = 0;
/// Pause of accepting connections when there is no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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
    bounds: Bounds,
    patience: Patience,
    /// Accepting failed for want of descriptors; it is tried again then.
    accept_at: Option<Instant>,
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
            bounds: Bounds::of_descriptors(limits::descriptors()),
            patience: Patience::new(Instant::now()),
            accept_at: None,
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
            let now = Instant::now();
            self.drop_late_clients(now);
            self.clients.retain(|_, client| !client.is_done(now));
        };
        self.conclude(&exit);
        // Without the listener, those that it has not accepted yet learn that nobody will.
        let Supervisor { clients, signals, listener, .. } = self;
        drop(listener);
        linger(clients, &signals)
    }

    fn wait(&mut self) -> io::Result<Vec<(Source, PollFlags)>> {
        let now = Instant::now();
        let held = self.held_tasks(now);
        let mut sources = vec![Source::Signals];
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        self.accept_at = self.accept_at.filter(|at| now < *at);
        if self.accept_at.is_none() {
            sources.push(Source::Listener);
            fds.push(PollFd::new(self.listener.as_fd(), PollFlags::POLLIN));
        }
        for (id, task) in &self.tasks {
            for (end, fd, flags) in task.interest(!held.contains(id)) {
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
        let looks_again = !held.is_empty()
            || self.accept_at.is_some()
            || self.clients.values().any(|client| client.has_deadline() || client.is_behind());
        let timeout = if looks_again {
            PollTimeout::try_from(LOOK_AGAIN.min(ACCEPT_PAUSE)).expect("it is short")
        } else {
            PollTimeout::NONE
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Tasks whose output waits for a client.
    fn held_tasks(&mut self, now: Instant) -> BTreeSet<u64> {
        let mut held = BTreeSet::new();
        let mut further_is_full = false;
        for (id, client) in &mut self.clients {
            if !client.is_full(now) {
                continue;
            }
            match client.role {
                Role::Exec { .. } => drop(held.insert(*id)),
                Role::Attached { foreground: true } => drop(held.insert(INIT)),
                Role::Attached { foreground: false } => further_is_full = true,
                _ => {}
            }
        }
        // Their budget is not spent while the foreground client is waited for.
        let further_is_full = further_is_full && !held.contains(&INIT);
        if self.patience.holds(now, further_is_full) {
            held.insert(INIT);
        }
        held
    }

    /// The task that a client's stream belongs to.
    fn task_of(&self, client: u64) -> Option<u64> {
        match self.clients.get(&client)?.role {
            Role::Attached { .. } => Some(INIT),
            Role::Exec { .. } => Some(client),
            _ => None,
        }
    }

    fn accept(&mut self) {
        loop {
            match self.listener.accept().and_then(|(stream, _)| Client::new(stream)) {
                Ok(mut client) if self.clients.len() >= self.bounds.clients => {
                    client.refuse("the container has too many clients: close one");
                }
                Ok(client) => {
                    self.clients.insert(self.next_id, client);
                    self.next_id += 1;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Connections that broke off while they waited, most likely.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                // No descriptor is left, most likely. Those who connect go on waiting.
                Err(_) => {
                    self.accept_at = Some(Instant::now() + ACCEPT_PAUSE);
                    return;
                }
            }
        }
    }

    fn on_client(&mut self, id: u64, flags: PollFlags) {
        let gone = flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR);
        loop {
            let Some(client) = self.clients.get_mut(&id) else { return };
            let mut alive = client.flush().is_ok();
            if flags.contains(PollFlags::POLLIN) {
                alive &= client.receive().is_ok();
            }
            let input_ended = client.input_ended();
            let at_end = !flags.contains(PollFlags::POLLIN) || input_ended;
            self.take_frames(id);
            if input_ended && !gone {
                // It says nothing more, and takes output still.
                self.close_input(id);
            }
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
            task.leave();
        }
    }

    fn refuse(&mut self, id: u64, line: &str) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.refuse(line);
        }
        if let Some(task) = self.tasks.get_mut(&id) {
            task.leave();
        }
    }

    fn drop_late_clients(&mut self, now: Instant) {
        let late = self.clients.iter().filter(|(_, client)| client.is_late(now)).map(|(id, _)| *id);
        for id in late.collect::<Vec<_>>() {
            self.refuse(id, "this client did not read the output for too long and was dropped: see the logs");
        }
    }

    fn on_frame(&mut self, id: u64, frame: Frame) {
        let role = self.clients[&id].role;
        let (Some(task), forwards) = (match role {
            Role::Attached { .. } => (self.tasks.get_mut(&INIT), self.launch.spec.open_stdin),
            Role::Exec { stdin } => (self.tasks.get_mut(&id), stdin),
            _ => (None, false),
        }) else {
            return match frame {
                Frame::Request(json) if role == Role::New => self.on_request(id, &json),
                // The last words to a process that has just ended.
                _ if matches!(role, Role::Attached { .. } | Role::Exec { .. }) => {}
                _ => self.refuse(id, "this frame has no place here"),
            };
        };
        match frame {
            Frame::Stdin(data) if forwards => task.type_in(&data),
            Frame::Stdin(_) => {}
            Frame::StdinClosed => self.close_input(id),
            Frame::Resize { rows, columns } => task.resize(rows, columns),
            Frame::Detach if matches!(role, Role::Exec { .. }) => task.detach(),
            // Whoever attached to the container leaves it by closing the connection.
            Frame::Detach => {}
            _ => self.refuse(id, "this frame has no place here"),
        }
    }

    /// The client has no more input. With several attached to the container, its input goes on.
    fn close_input(&mut self, id: u64) {
        let Some(task) = self.task_of(id) else { return };
        let attached = self.attached().count();
        if task == INIT && attached > 1 {
            return;
        }
        if let Some(task) = self.tasks.get_mut(&task) {
            task.close_input();
        }
    }

    fn attached(&self) -> impl Iterator<Item = &Client> {
        self.clients.values().filter(|client| matches!(client.role, Role::Attached { .. }))
    }

    fn on_request(&mut self, id: u64, json: &[u8]) {
        let request = match serde_json::from_slice(json) {
            Ok(request) => request,
            Err(error) => return self.refuse(id, &format!("not a request to a shim: {error}")),
        };
        match request {
            Request::Exec(exec) => self.exec(id, &exec),
            Request::Attach => self.attach(id, false),
            Request::AttachForeground => self.attach(id, true),
            Request::Follow => self.follow(id),
            Request::Status => self.conclude_client(id, &Answer::Status(self.status.clone())),
            Request::Start => self.start(id),
            Request::Signal(number) => {
                let answer = signals::to_init(self.init(), number);
                self.conclude_client(id, &answer);
            }
            Request::Resize { rows, columns } => {
                self.init().resize(rows, columns);
                self.conclude_client(id, &Answer::Done);
            }
            Request::Wait => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.role = Role::Waiting;
                }
            }
            Request::SignalExec { exec, signal } => {
                let answer = signals::to_exec(self.tasks.get(&exec).filter(|_| exec != INIT), signal);
                self.conclude_client(id, &answer);
            }
            Request::HangUp { exec } => {
                if let Some(task) = self.tasks.get(&exec).filter(|_| exec != INIT) {
                    task.hang_up();
                }
                self.conclude_client(id, &Answer::Done);
            }
        }
    }

    fn init(&mut self) -> &mut Task {
        self.tasks.get_mut(&INIT).expect("init is there while requests are served")
    }

    fn conclude_client(&mut self, id: u64, answer: &Answer) {
        if let Some(client) = self.clients.get_mut(&id) {
            client.conclude(answer);
        }
    }

    fn start(&mut self, id: u64) {
        let init = self.init();
        if init.runs() {
            return self.conclude_client(id, &Answer::Done);
        }
        match init.start() {
            Err(error) => {
                self.conclude_client(id, &Answer::Refused(format!("cannot start the container: {error}")));
            }
            Ok(()) => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.role = Role::Starting;
                }
            }
        }
    }

    /// Refuses a stream beyond the bound.
    fn has_room_for_stream(&mut self, id: u64) -> bool {
        let streams = self.clients.values().filter(|client| client.is_stream()).count();
        if streams >= self.bounds.streams {
            let bound = self.bounds.streams;
            self.refuse(
                id,
                &format!(
                    "{bound} clients are attached to the container or follow its log already: close one"
                ),
            );
            return false;
        }
        true
    }

    fn attach(&mut self, id: u64, foreground: bool) {
        if !self.has_room_for_stream(id) {
            return;
        }
        let is_taken = self.attached().any(|client| client.role == Role::Attached { foreground: true });
        if let Some(client) = self.clients.get_mut(&id) {
            client.answer(&Answer::Done);
            client.role = Role::Attached { foreground: foreground && !is_taken };
        }
    }

    fn follow(&mut self, id: u64) {
        if !self.has_room_for_stream(id) {
            return;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.role = Role::Following;
            // For what was appended after the client looked and before it was known here.
            client.send(&Frame::Answer(Vec::new()));
        }
    }

    fn exec(&mut self, id: u64, exec: &Exec) {
        let program = Program::of_exec(exec, &self.launch.spec, &self.launch.hostname);
        let init_pid = self.status.init_pid;
        let left = self.tasks.values().filter(|task| task.is_left).count();
        // Those that have ended and whose clients still take the output count, too.
        let ended = self.clients.values().filter(|client| client.is_taking_the_rest()).count();
        let result = if !self.status.started {
            Err("the container has not been started".to_owned())
        } else if self.tasks.len() - left + ended > self.bounds.execs {
            Err(format!("{} commands run in the container by exec already: end one", self.bounds.execs))
        } else if left >= self.bounds.left_execs {
            Err(format!("{left} commands run on in the container whose exec was left: end one"))
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
                client.answer(&Answer::Executing(id));
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
                Role::Attached { .. } if id == INIT => client.send_bytes(Rc::clone(&frame)),
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
            client.end(&exit);
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
        let now = Instant::now();
        for client in self.clients.values_mut() {
            match client.role {
                Role::Attached { foreground } => {
                    client.end(exit);
                    if !foreground {
                        client.close_soon(now);
                    }
                }
                // Its process was killed with the container.
                Role::Exec { .. } => client.end(&Exit { exit_code: KILLED, error: String::new() }),
                Role::Following => client.close_soon(now),
                Role::Closing => {}
                Role::New | Role::Starting | Role::Waiting => {
                    client.conclude(&Answer::Exited(exit.clone()));
                    client.close_soon(now);
                }
            }
        }
    }
}
