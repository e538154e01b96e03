//! Reading the log of a container, also while it grows.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use vswitch_proto::api::stream::Frame;

use super::client;
use super::log::{Entry, Reader, Stream};
use super::protocol::Request;

/// Frames that wait for a slow reader; the log itself waits on disk.
const FRAMES_WAITING_MAX: usize = 64;
/// Entries that are read in one go.
const BATCH_ENTRIES_MAX: usize = 256;

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
    let mut growth = if options.follow { client::request(dir, &Request::Follow).await.ok() } else { None };
    let mut printer = Printer { timestamps: options.timestamps, at_start: [true; 2] };
    let opened = dir.to_owned();
    let (mut reader, last) = blocking(move || {
        let mut reader = Reader::open(&opened)?;
        let last = reader.tail(options.tail)?;
        Ok((reader, last))
    })
    .await?;
    for entry in last {
        if sender.send(printer.print(&entry)).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let ended = match &mut growth {
            None => return Ok(()),
            Some(stream) => tokio::select! {
                ended = wait_for_growth(stream) => ended,
                () = sender.closed() => return Ok(()),
            },
        };
        reader = match send_new(reader, &mut printer, sender).await? {
            Some(reader) => reader,
            None => return Ok(()),
        };
        if ended {
            return Ok(());
        }
    }
}

/// What is in the log now. `None` when the receiver is gone.
async fn send_new(
    mut reader: Reader,
    printer: &mut Printer,
    sender: &mpsc::Sender<Frame>,
) -> io::Result<Option<Reader>> {
    loop {
        let missed_before = reader.files_missed;
        let (returned, batch) = blocking(move || {
            let mut batch = Vec::new();
            while batch.len() < BATCH_ENTRIES_MAX {
                match reader.next_entry()? {
                    Some(entry) => batch.push(entry),
                    None => break,
                }
            }
            Ok((reader, batch))
        })
        .await?;
        reader = returned;
        if reader.files_missed > missed_before {
            let note = "vswitch: the log grew faster than it was read; some of it is missing here\n";
            if sender.send(Frame::Stderr(note.into())).await.is_err() {
                return Ok(None);
            }
        }
        let done = batch.len() < BATCH_ENTRIES_MAX;
        for entry in batch {
            if sender.send(printer.print(&entry)).await.is_err() {
                return Ok(None);
            }
        }
        if done {
            return Ok(Some(reader));
        }
    }
}

/// True when the shim has ended, and the log with it.
async fn wait_for_growth(stream: &mut UnixStream) -> bool {
    // How many notices there are and where one ends does not matter.
    let mut notices = [0; 256];
    !matches!(stream.read(&mut notices).await, Ok(1..))
}

async fn blocking<T: Send + 'static>(read: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(read).await.map_err(io::Error::other)?
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
