//! Reading the log of a container, also while it grows.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use vswitch_proto::api::stream::Frame;

use super::ask::{self, ShimError};
use super::log::{Entry, Gap, Item, Reader, Stream};
use super::protocol::Request;

/// Frames that wait for a slow reader; the log itself waits on disk.
const FRAMES_WAITING_MAX: usize = 2;
/// What a frame counts besides its text.
const FRAME_BYTES: usize = 64;
/// Text that is read in one go, bytes, and about as much as a frame has.
const BATCH_BYTES_MAX: usize = 32 << 10;
/// Reads of logs at the same time, by all clients together: others wait for their turn, and the threads for blocking
/// work are left to those who change something.
static READS: Semaphore = Semaphore::const_new(4);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Go on until the container has ended.
    pub follow: bool,
    /// Only the last lines that are there now, then what is appended.
    pub tail: Option<usize>,
    /// Put the time before each line.
    pub timestamps: bool,
}

/// The log of the container in `dir` as `Stdout` and `Stderr` frames, at most one `Error` as the last. Ends when
/// all is read, with `follow` when the container has ended; dropping the receiver ends it too.
pub fn logs(dir: &Path, options: LogOptions) -> mpsc::Receiver<Frame> {
    let (sender, receiver) = mpsc::channel(FRAMES_WAITING_MAX);
    tokio::spawn(send_all(dir.to_owned(), options, sender));
    receiver
}

async fn send_all(dir: PathBuf, options: LogOptions, sender: mpsc::Sender<Frame>) {
    if let Err(error) = send_entries(&dir, options, &sender).await {
        let line = format!("cannot read the log in {}: {error}", dir.display());
        // A receiver that is gone does not want to know.
        let _ = sender.send(Frame::Error(line.into_bytes())).await;
    }
}

async fn send_entries(dir: &Path, options: LogOptions, sender: &mpsc::Sender<Frame>) -> io::Result<()> {
    // Before the first look, so that nothing is appended unnoticed between them.
    let mut growth = if options.follow { follow(dir).await.map_err(io::Error::other)? } else { None };
    let opened = dir.to_owned();
    let mut reading = blocking(move || {
        let reader = match options.tail {
            None => Reader::open(&opened)?,
            Some(lines) => Reader::open_tail(&opened, lines)?,
        };
        Ok(Reading { reader, printer: Printer { timestamps: options.timestamps, at_start: [true; 2] } })
    })
    .await?;
    let mut ended = false;
    loop {
        reading = match send_new(reading, sender).await? {
            Some(reading) => reading,
            None => return Ok(()),
        };
        if ended {
            return Ok(());
        }
        ended = match &mut growth {
            None => return Ok(()),
            Some(stream) => tokio::select! {
                ended = wait_for_growth(stream) => ended,
                () = sender.closed() => return Ok(()),
            },
        };
    }
}

/// What is in the log now. `None` when the receiver is gone.
async fn send_new(mut reading: Reading, sender: &mpsc::Sender<Frame>) -> io::Result<Option<Reading>> {
    loop {
        let (returned, frames) = blocking(move || {
            let frames = reading.batch()?;
            Ok((reading, frames))
        })
        .await?;
        reading = returned;
        if frames.is_empty() {
            return Ok(Some(reading));
        }
        for frame in frames {
            if sender.send(frame).await.is_err() {
                return Ok(None);
            }
        }
    }
}

/// A connection that says when the log has grown; `None` when it grows no more.
async fn follow(dir: &Path) -> Result<Option<UnixStream>, ShimError> {
    let opened = async {
        let mut stream = ask::request(dir, &Request::Follow).await?;
        match ask::first_frame(&mut stream).await? {
            Frame::Answer(_) => Ok(stream),
            Frame::Error(line) => {
                Err(ShimError::Refused { line: String::from_utf8_lossy(&line).into_owned() })
            }
            _ => Err(ShimError::Protocol),
        }
    };
    match ask::within(ask::ANSWER_MAX, 0, opened).await {
        Ok(stream) => Ok(Some(stream)),
        Err(ShimError::NotRunning) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True when the shim has ended, and the log with it.
async fn wait_for_growth(stream: &mut UnixStream) -> bool {
    // How many notices there are and where one ends does not matter.
    let mut notices = [0; 256];
    !matches!(stream.read(&mut notices).await, Ok(1..))
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    let turn = READS.acquire().await.map_err(io::Error::other)?;
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?;
    drop(turn);
    read
}

struct Reading {
    reader: Reader,
    printer: Printer,
}

impl Reading {
    /// Frames of what comes next, about [`BATCH_BYTES_MAX`]; none when there is nothing now.
    fn batch(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames: Vec<Frame> = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX {
            let Some(item) = self.reader.next_item()? else { break };
            let frame = match item {
                Item::Entry(entry) => self.printer.print(&entry),
                Item::Gap(gap) => Frame::Stderr(note(gap).into_bytes()),
            };
            match (frames.last_mut(), frame) {
                (Some(Frame::Stdout(last)), Frame::Stdout(more))
                | (Some(Frame::Stderr(last)), Frame::Stderr(more)) => {
                    bytes += more.len();
                    last.extend(more);
                }
                (_, frame) => {
                    if let Frame::Stdout(text) | Frame::Stderr(text) = &frame {
                        bytes += FRAME_BYTES + text.len();
                    }
                    frames.push(frame);
                }
            }
        }
        Ok(frames)
    }
}

/// A line about output that is missing here.
fn note(Gap { missing, at_start }: Gap) -> String {
    let amount = match missing.bytes {
        0 => "some output".to_owned(),
        bytes => format!("{} lines ({bytes} bytes)", missing.lines),
    };
    if at_start {
        format!(
            "vswitch: {amount} before this are not kept: the log is bounded, see --log-opt of vswitchctl run\n"
        )
    } else {
        format!("vswitch: {amount} are missing here: the log grew faster than it was read\n")
    }
}

struct Printer {
    timestamps: bool,
    /// Whether the next piece of standard output, of standard error, starts a line.
    at_start: [bool; 2],
}

impl Printer {
    fn print(&mut self, entry: &Entry) -> Frame {
        let at_start = &mut self.at_start[entry.stream as usize];
        let mut bytes = Vec::new();
        if self.timestamps && *at_start {
            bytes.extend(entry.time.bytes());
            bytes.push(b' ');
        }
        *at_start = entry.bytes.ends_with(b"\n");
        bytes.extend(&entry.bytes);
        match entry.stream {
            Stream::Stdout => Frame::Stdout(bytes),
            Stream::Stderr => Frame::Stderr(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_stands_before_each_line_of_each_stream() {
        let mut printer = Printer { timestamps: true, at_start: [true; 2] };
        let printed =
            [(Stream::Stdout, "a"), (Stream::Stderr, "x\n"), (Stream::Stdout, "b\n"), (Stream::Stdout, "c")]
                .map(|(stream, text)| printer.print(&Entry { time: "T".into(), stream, bytes: text.into() }));
        let out = |text: &str| Frame::Stdout(text.into());
        assert_eq!(printed, [out("T a"), Frame::Stderr("T x\n".into()), out("b\n"), out("T c")]);
    }
}
