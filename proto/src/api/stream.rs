//! The framing of attached streams: what `attach`, `exec` and `logs` carry after their HTTP head, and what a
//! container's shim speaks on its socket.
//!
//! A frame is a type byte, a big-endian 32-bit payload length, and the payload. A reader feeds what it received to
//! [`Decoder::push`] and takes frames out until there is none; a payload over [`PAYLOAD_BYTES_MAX`] or an unknown
//! type is an error, after which the connection is to be closed.

use alloc::vec::Vec;

/// Largest payload of one frame, bytes.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 10;

const HEADER_BYTES: usize = 5;

/// Highest type byte.
const TYPE_MAX: u8 = 9;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Towards the process.
    Stdin(Vec<u8>),
    /// No more input follows.
    StdinClosed,
    /// From the process; a terminal's output is all here.
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The client's terminal changed its size, in characters.
    Resize {
        rows: u16,
        columns: u16,
    },
    /// The process ended; the last frame. The code as in [`super::Exit`]: for a command that could not be run it is
    /// 126 or 127, and the reason came as `Stderr`.
    Exit(i32),
    /// The stream ends although the process may go on: its reader was too slow, or said what it should not. The
    /// last frame. One line.
    Error(Vec<u8>),
    /// A request to a container's shim, as JSON; the first frame of such a connection.
    Request(Vec<u8>),
    /// The shim's answer, as JSON.
    Answer(Vec<u8>),
    /// From the client of an exec that is about to close the connection: the process goes on without it.
    Detach,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    #[error("a frame of {0} bytes is over the limit of {PAYLOAD_BYTES_MAX}")]
    TooLong(u32),
    #[error("frame type {0} with a payload of the wrong length")]
    BadPayload(u8),
}

impl Frame {
    /// Appends the frame to `out`. Payloads longer than [`PAYLOAD_BYTES_MAX`] are sent as several frames.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Stdin(data) => put_data(out, 0, data),
            Frame::StdinClosed => put(out, 1, &[]),
            Frame::Stdout(data) => put_data(out, 2, data),
            Frame::Stderr(data) => put_data(out, 3, data),
            Frame::Resize { rows, columns } => {
                let [r0, r1] = rows.to_be_bytes();
                let [c0, c1] = columns.to_be_bytes();
                put(out, 4, &[r0, r1, c0, c1]);
            }
            Frame::Exit(code) => put(out, 5, &code.to_be_bytes()),
            Frame::Error(line) => put(out, 6, &line[..line.len().min(PAYLOAD_BYTES_MAX)]),
            Frame::Request(json) => put(out, 7, json),
            Frame::Answer(json) => put(out, 8, json),
            Frame::Detach => put(out, 9, &[]),
        }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

fn put(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

fn put_data(out: &mut Vec<u8>, kind: u8, data: &[u8]) {
    data.chunks(PAYLOAD_BYTES_MAX).for_each(|chunk| put(out, kind, chunk));
}

/// Cuts a byte stream into frames. Holds at most one frame and what was pushed last.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    taken: usize,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, `None` until more bytes come.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, StreamError> {
        let rest = &self.buffer[self.taken..];
        let Some((&[kind, a, b, c, d], body)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        if kind > TYPE_MAX {
            return Err(StreamError::UnknownType(kind));
        }
        let length = u32::from_be_bytes([a, b, c, d]);
        if length as usize > PAYLOAD_BYTES_MAX {
            return Err(StreamError::TooLong(length));
        }
        let Some(payload) = body.get(..length as usize) else {
            return Ok(None);
        };
        let frame = decode(kind, payload)?;
        self.taken += HEADER_BYTES + length as usize;
        Ok(Some(frame))
    }

    /// Bytes that were pushed and belong to no frame yet.
    pub fn is_empty(&self) -> bool {
        self.taken == self.buffer.len()
    }
}

fn decode(kind: u8, payload: &[u8]) -> Result<Frame, StreamError> {
    let bad = StreamError::BadPayload(kind);
    Ok(match kind {
        0 => Frame::Stdin(payload.into()),
        1 => {
            if !payload.is_empty() {
                return Err(bad);
            }
            Frame::StdinClosed
        }
        2 => Frame::Stdout(payload.into()),
        3 => Frame::Stderr(payload.into()),
        4 => {
            let &[r0, r1, c0, c1] = payload else { return Err(bad) };
            Frame::Resize { rows: u16::from_be_bytes([r0, r1]), columns: u16::from_be_bytes([c0, c1]) }
        }
        5 => Frame::Exit(i32::from_be_bytes(payload.try_into().map_err(|_| bad)?)),
        6 => Frame::Error(payload.into()),
        7 => Frame::Request(payload.into()),
        8 => Frame::Answer(payload.into()),
        9 => {
            if !payload.is_empty() {
                return Err(bad);
            }
            Frame::Detach
        }
        other => return Err(StreamError::UnknownType(other)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn frames_survive_any_cut() {
        let frames = vec![
            Frame::Request(b"{}".to_vec()),
            Frame::Stdin(b"ping\n".to_vec()),
            Frame::Resize { rows: 24, columns: 80 },
            Frame::Stdout(vec![7; 1000]),
            Frame::StdinClosed,
            Frame::Stderr(b"!".to_vec()),
            Frame::Exit(-1),
            Frame::Error(b"gone".to_vec()),
            Frame::Answer(b"{}".to_vec()),
            Frame::Detach,
        ];
        let mut bytes = Vec::new();
        frames.iter().for_each(|f| f.encode(&mut bytes));
        for step in [1, 2, 3, 7, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(step) {
                decoder.push(chunk);
                while let Some(frame) = decoder.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, frames);
            assert!(decoder.is_empty());
        }
    }

    #[test]
    fn long_data_is_cut_and_bad_frames_are_refused() {
        let bytes = Frame::Stdout(vec![1; PAYLOAD_BYTES_MAX + 1]).to_bytes();
        assert_eq!(bytes.len(), 2 * HEADER_BYTES + PAYLOAD_BYTES_MAX + 1);
        for (bytes, error) in [
            (&[10, 0, 0, 0, 0][..], StreamError::UnknownType(10)),
            (&[0, 0, 1, 0, 1][..], StreamError::TooLong(65537)),
            (&[4, 0, 0, 0, 1, 1][..], StreamError::BadPayload(4)),
            (&[9, 0, 0, 0, 1, 1][..], StreamError::BadPayload(9)),
        ] {
            let mut decoder = Decoder::default();
            decoder.push(bytes);
            assert_eq!(decoder.next_frame(), Err(error));
        }
    }
}
