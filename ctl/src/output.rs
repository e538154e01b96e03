//! Standard output and error of this process, as the frames of a stream fill them.

use std::io::{self, Write};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use vswitch_proto::api::stream::{Decoder, Frame};

use crate::failure::{FAILED, Failure, output_failure};

/// Frames that wait to be written.
pub const OUTPUT_QUEUE: usize = 4;

enum Piece {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

/// A thread that writes, so that a reader that is slow holds up nothing but the output.
pub struct Output {
    queue: mpsc::Sender<Piece>,
    written: oneshot::Receiver<io::Result<()>>,
}

impl Output {
    pub fn start() -> Output {
        let (queue, pieces) = mpsc::channel(OUTPUT_QUEUE);
        let (done, written) = oneshot::channel();
        thread::spawn(move || {
            // Without a receiver this process ends, and nobody wants to know.
            let _ = done.send(write_all(pieces));
        });
        Output { queue, written }
    }

    /// Passes on the frames that are whole. The exit code, once it has come.
    ///
    /// # Errors
    /// When the output cannot be written, the frames are malformed, or the daemon reports an error.
    pub async fn pass_on(&mut self, decoder: &mut Decoder) -> Result<Option<i32>, Failure> {
        while let Some(shown) = next(decoder)? {
            let piece = match shown {
                Shown::Exit(code) => return Ok(Some(code)),
                Shown::Piece(piece) => piece,
            };
            if self.queue.send(piece).await.is_err() {
                return self.result().await.map(|()| None);
            }
        }
        Ok(None)
    }

    /// Returns when everything is written.
    ///
    /// # Errors
    /// When it cannot be.
    pub async fn finish(mut self) -> Result<(), Failure> {
        // The thread ends with its queue.
        self.queue = mpsc::channel(1).0;
        self.result().await
    }

    async fn result(&mut self) -> Result<(), Failure> {
        let written = (&mut self.written).await;
        written.unwrap_or_else(|_| Err(io::Error::other("its writer is gone"))).map_err(output_failure)
    }
}

fn write_all(mut pieces: mpsc::Receiver<Piece>) -> io::Result<()> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Out(data) => write(io::stdout().lock(), &data)?,
            Piece::Err(data) => write(io::stderr().lock(), &data)?,
        }
    }
    Ok(())
}

fn write(mut out: impl Write, data: &[u8]) -> io::Result<()> {
    out.write_all(data).and_then(|()| out.flush())
}

enum Shown {
    Piece(Piece),
    Exit(i32),
}

fn next(decoder: &mut Decoder) -> Result<Option<Shown>, Failure> {
    let frame = decoder.next_frame().map_err(|e| {
        Failure::new(FAILED, format_args!("the daemon broke the protocol of the stream: {e}"))
    })?;
    Ok(Some(match frame {
        None => return Ok(None),
        Some(Frame::Stdout(data)) => Shown::Piece(Piece::Out(data)),
        Some(Frame::Stderr(data)) => Shown::Piece(Piece::Err(data)),
        Some(Frame::Exit(code)) => Shown::Exit(code),
        Some(Frame::Error(line)) => return Err(Failure::new(FAILED, String::from_utf8_lossy(&line))),
        // What only the other direction has.
        Some(
            Frame::Stdin(_)
            | Frame::StdinClosed
            | Frame::Resize { .. }
            | Frame::Detach
            | Frame::Request(_)
            | Frame::Answer(_),
        ) => return Err(Failure::new(FAILED, "the daemon sent a frame that only a client may send")),
    }))
}

/// Writes the frames of a log to this process's output, as they come.
#[derive(Debug, Default)]
pub struct Printer {
    decoder: Decoder,
}

impl Printer {
    /// The exit code, once it has come.
    ///
    /// # Errors
    /// As [`Output::pass_on`].
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<i32>, Failure> {
        self.decoder.push(bytes);
        while let Some(shown) = next(&mut self.decoder)? {
            match shown {
                Shown::Exit(code) => return Ok(Some(code)),
                Shown::Piece(Piece::Out(data)) => write(io::stdout().lock(), &data),
                Shown::Piece(Piece::Err(data)) => write(io::stderr().lock(), &data),
            }
            .map_err(output_failure)?;
        }
        Ok(None)
    }
}
