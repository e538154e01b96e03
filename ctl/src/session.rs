//! An attached stream: this process's standard streams on one side, frames of
//! [`vswitch_proto::api::stream`] on the other.
//!
//! Two loops run side by side, so that neither direction waits for the other: *down* passes what the process says
//! to standard output and error, *up* sends what is typed, the size of the terminal and signals. Threads read standard
//! input and write standard output, because either may take as long as it likes; they are left behind when the process
//! exits. Between them and the loops are at most [`INPUT_QUEUE`] reads and [`OUTPUT_QUEUE`] writes, so a reader that is
//! slow holds the process up, and signals are passed on meanwhile.
//!
//! [`OUTPUT_QUEUE`]: crate::output::OUTPUT_QUEUE

use std::io::{self, IsTerminal, Read};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use vswitch_proto::api::stream::{Decoder, Frame};

use crate::client::{Call, Client};
use crate::detach::{DetachKeys, Watcher};
use crate::failure::{CONFLICT, FAILED, Failure, NOT_FOUND, UNREACHABLE, complain};
use crate::output::Output;
use crate::terminal::{self, RawMode};

const INPUT_QUEUE: usize = 4;
const READ_BYTES: usize = 16 << 10;
/// Whoever sends so many signals does not want to wait any longer, as Docker has it.
const SIGNALS_MAX: u32 = 3;

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// With the process's exit code.
    Exit(i32),
    /// By the detach keys.
    Detached,
    /// The connection ended before the process did.
    Closed,
}

#[derive(Debug)]
pub struct Options {
    /// Forward standard input.
    pub stdin: bool,
    /// The process has a terminal.
    pub tty: bool,
    pub detach_keys: DetachKeys,
    /// Receiver of the signals that this process gets while the terminal is not raw.
    pub signals_to: SignalsTo,
    /// Make the program inside draw its screen again.
    pub redraw: bool,
}

#[derive(Debug)]
pub enum SignalsTo {
    /// They end this process.
    Nobody,
    Container(String),
    /// A command run by exec, by its number.
    Exec {
        container: String,
        number: String,
    },
}

impl SignalsTo {
    /// The request that sends a signal.
    fn call(&self, signal: &str) -> Option<Call> {
        let call = match self {
            SignalsTo::Nobody => return None,
            SignalsTo::Container(container) => Call::post(&["containers", container, "kill"]),
            SignalsTo::Exec { container, number } => {
                Call::post(&["containers", container, "exec", number, "kill"])
            }
        };
        Some(call.query("signal", signal))
    }
}

/// What is set up before the process starts, so that no signal and no keystroke is lost.
pub struct Session {
    options: Options,
    raw: Option<RawMode>,
    resized: Signal,
    signals: Signals,
}

struct Signals {
    /// Signals that are caught; the others do what they always do.
    caught: Vec<(&'static str, i32, Signal)>,
}

impl Session {
    /// # Errors
    /// When the terminal or the signals cannot be set up.
    pub fn new(options: Options) -> Result<Session, Failure> {
        terminal::check_tty(options.stdin, options.tty)?;
        let cannot = |e: io::Error| Failure::new(FAILED, format_args!("cannot catch signals: {e}"));
        let is_raw = options.stdin && options.tty;
        let mut caught = Vec::new();
        if is_raw || !matches!(options.signals_to, SignalsTo::Nobody) {
            for (name, kind) in [
                ("INT", SignalKind::interrupt()),
                ("TERM", SignalKind::terminate()),
                ("HUP", SignalKind::hangup()),
                ("QUIT", SignalKind::quit()),
            ] {
                caught.push((name, kind.as_raw_value(), signal(kind).map_err(cannot)?));
            }
        }
        let resized = signal(SignalKind::window_change()).map_err(cannot)?;
        let raw = if is_raw { Some(RawMode::enter()?) } else { None };
        Ok(Session { options, raw, resized, signals: Signals { caught } })
    }

    /// Runs until the process ends, the keys are pressed or the connection breaks. The terminal is as before when
    /// it returns.
    ///
    /// # Errors
    /// When the process could not be started, the daemon breaks the protocol, or the output cannot be written.
    pub async fn run(self, io: TokioIo<Upgraded>, client: &Client) -> Result<End, Failure> {
        let Session { options, raw, resized, signals } = self;
        let (reader, writer) = tokio::io::split(io);
        let input = if options.stdin { Some(read_stdin()) } else { None };
        let up = Up {
            watcher: raw.is_some().then(|| Watcher::new(&options.detach_keys)),
            is_raw: raw.is_some(),
            options,
            writer,
            input,
            resized,
            signals,
            signals_seen: 0,
            client,
        };
        // The terminal is restored before anything else is said.
        let _raw = raw;
        tokio::select! {
            biased;
            end = down(reader) => end,
            end = up.run() => end,
        }
    }
}

/// Reads standard input until its end, which is an empty block.
fn read_stdin() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut block = vec![0; READ_BYTES];
        loop {
            let count = match stdin.read(&mut block) {
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // A standard input that cannot be read has nothing more to say.
                Err(_) => 0,
            };
            if sender.blocking_send(block[..count].to_vec()).is_err() || count == 0 {
                return;
            }
        }
    });
    receiver
}

/// Returns when all output has been written.
async fn down(mut reader: ReadHalf<TokioIo<Upgraded>>) -> Result<End, Failure> {
    let mut output = Output::start();
    let mut decoder = Decoder::default();
    let mut block = vec![0; READ_BYTES];
    let end = loop {
        let count = match reader.read(&mut block).await {
            Ok(0) | Err(_) => break End::Closed,
            Ok(count) => count,
        };
        decoder.push(&block[..count]);
        match output.pass_on(&mut decoder).await {
            Ok(None) => {}
            Ok(Some(code)) => break End::Exit(code),
            Err(failure) => {
                // All that came before it is written first; the first failure is the one to tell.
                let _ = output.finish().await;
                return Err(failure);
            }
        }
    };
    output.finish().await?;
    Ok(end)
}

struct Up<'a> {
    options: Options,
    writer: WriteHalf<TokioIo<Upgraded>>,
    input: Option<mpsc::Receiver<Vec<u8>>>,
    watcher: Option<Watcher>,
    is_raw: bool,
    resized: Signal,
    signals: Signals,
    signals_seen: u32,
    client: &'a Client,
}

impl Up<'_> {
    /// Ends only by the detach keys or a signal: how the process ends, `down` knows.
    async fn run(mut self) -> Result<End, Failure> {
        let follows_size = self.options.tty && io::stdout().is_terminal();
        if follows_size {
            self.send(&terminal::resize_frames(self.options.redraw)).await;
        }
        loop {
            tokio::select! {
                block = next_input(&mut self.input) => {
                    if self.forward(&block).await {
                        // To an exec it makes the difference to a terminal that hangs up.
                        self.send(&Frame::Detach.to_bytes()).await;
                        return Ok(End::Detached);
                    }
                }
                Some(()) = self.resized.recv(), if follows_size => {
                    self.send(&terminal::resize_frames(false)).await;
                }
                (name, number) = self.signals.next() => self.signalled(name, number).await?,
            }
        }
    }

    /// Whether the detach keys were in it.
    async fn forward(&mut self, block: &[u8]) -> bool {
        if block.is_empty() {
            self.input = None;
            let held = self.watcher.as_mut().map(Watcher::finish).unwrap_or_default();
            let mut bytes = Frame::Stdin(held).to_bytes();
            Frame::StdinClosed.encode(&mut bytes);
            self.send(&bytes).await;
            return false;
        }
        let (passed, detached) = match &mut self.watcher {
            Some(watcher) => {
                let typed = watcher.push(block);
                (typed.passed, typed.detached)
            }
            None => (block.to_vec(), false),
        };
        self.send(&Frame::Stdin(passed).to_bytes()).await;
        detached
    }

    /// A connection that no longer takes anything is noticed by `down`.
    async fn send(&mut self, bytes: &[u8]) {
        if self.writer.write_all(bytes).await.is_ok() {
            let _ = self.writer.flush().await;
        }
    }

    async fn signalled(&mut self, name: &str, number: i32) -> Result<(), Failure> {
        self.signals_seen += 1;
        let call = if self.is_raw { None } else { self.options.signals_to.call(name) };
        let Some(call) = call.filter(|_| self.signals_seen < SIGNALS_MAX) else {
            let code = u8::try_from(128 + number).unwrap_or(FAILED);
            return Err(Failure::new(code, format_args!("ended by SIG{name}; the container goes on")));
        };
        match self.client.perform(call).await {
            Err(failure) if failure.code() == UNREACHABLE => Err(failure),
            // A command that has ended has no use for it; its last output is on its way.
            Err(failure) if self.is_over(&failure) => Ok(()),
            Err(failure) => {
                complain(failure);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn is_over(&self, failure: &Failure) -> bool {
        matches!(self.options.signals_to, SignalsTo::Exec { .. })
            && [CONFLICT, NOT_FOUND].contains(&failure.code())
    }
}

async fn next_input(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Vec<u8> {
    match input {
        // A reader that is gone has reached the end.
        Some(receiver) => receiver.recv().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}

impl Signals {
    async fn next(&mut self) -> (&'static str, i32) {
        let mut futures: Vec<_> = self.caught.iter_mut().collect();
        std::future::poll_fn(|context| {
            for (name, number, signal) in &mut futures {
                if let std::task::Poll::Ready(Some(())) = signal.poll_recv(context) {
                    return std::task::Poll::Ready((*name, *number));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }
}
