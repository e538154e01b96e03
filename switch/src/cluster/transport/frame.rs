//! Messages on a byte stream: a length and so many bytes, in chunks.
//!
//! ```text
//! bit 31: more chunks follow | bits 0 to 30: bytes in this chunk
//! the bytes
//! ```
//!
//! Big-endian. A chunk has at most [`CHUNK_BYTES_MAX`], so that a length that promises much costs little memory until
//! the bytes are there; all chunks of a message together have at most what the reader allows. Once a chunk has begun
//! it has to come within [`STALL`]: a peer that stops in the middle is dropped.
#![forbid(unsafe_code)]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// Longest time that one chunk may take.
pub const STALL: Duration = Duration::from_secs(10);
const MORE: u32 = 1 << 31;

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("the connection was closed")]
    Closed,
    #[error("a message of more than {0} bytes was announced")]
    TooLarge(usize),
    #[error("an empty chunk was announced as part of a message")]
    Empty,
    #[error("the other side was silent for too long")]
    Silent,
    #[error("the other side stopped in the middle of a message")]
    Stalled,
}

/// Reads one message. Not cancellation safe.
pub async fn read<R: AsyncRead + Unpin>(
    reader: &mut R,
    bytes_max: usize,
    patience: Duration,
) -> Result<Vec<u8>, FrameError> {
    let mut message = Vec::new();
    loop {
        let mut header = [0; 4];
        let first = timeout(patience, reader.read(&mut header)).await.map_err(|_| FrameError::Silent)??;
        if first == 0 {
            return Err(FrameError::Closed);
        }
        let header = async {
            reader.read_exact(&mut header[first..]).await?;
            Ok(u32::from_be_bytes(header))
        };
        let header = within_stall(header).await?;
        let (more, length) = (header & MORE != 0, (header & !MORE) as usize);
        if length > CHUNK_BYTES_MAX || message.len() + length > bytes_max {
            return Err(FrameError::TooLarge(bytes_max));
        }
        if more && length == 0 {
            return Err(FrameError::Empty);
        }
        let start = message.len();
        message.resize(start + length, 0);
        within_stall(reader.read_exact(&mut message[start..])).await?;
        if !more {
            return Ok(message);
        }
    }
}

/// Writes one message, without flushing.
pub async fn write<W: AsyncWrite + Unpin>(writer: &mut W, message: &[u8]) -> Result<(), FrameError> {
    let mut rest = message;
    loop {
        let (chunk, after) = rest.split_at(rest.len().min(CHUNK_BYTES_MAX));
        let more = if after.is_empty() { 0 } else { MORE };
        let length = u32::try_from(chunk.len()).expect("a chunk has at most CHUNK_BYTES_MAX bytes");
        within_stall(async {
            writer.write_all(&(length | more).to_be_bytes()).await?;
            writer.write_all(chunk).await
        })
        .await?;
        if after.is_empty() {
            return Ok(());
        }
        rest = after;
    }
}

pub async fn flush<W: AsyncWrite + Unpin>(writer: &mut W) -> Result<(), FrameError> {
    within_stall(writer.flush()).await
}

async fn within_stall<T>(work: impl Future<Output = std::io::Result<T>>) -> Result<T, FrameError> {
    Ok(timeout(STALL, work).await.map_err(|_| FrameError::Stalled)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn messages_of_all_sizes() {
        for length in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX + 1, 3 * CHUNK_BYTES_MAX + 5] {
            let message: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut wire = Vec::new();
            write(&mut wire, &message).await.unwrap();
            assert_eq!(read(&mut &wire[..], length, LONG).await.unwrap(), message);
            if length > 0 {
                let refused = read(&mut &wire[..], length - 1, LONG).await;
                assert!(matches!(refused, Err(FrameError::TooLarge(_))), "{length}");
            }
        }
        let mut wire = Vec::new();
        write(&mut wire, b"ab").await.unwrap();
        assert_eq!(wire, [0, 0, 0, 2, b'a', b'b']);
    }

    #[tokio::test]
    async fn what_a_hostile_peer_sends() {
        let read = async |bytes: &[u8]| read(&mut &bytes[..], 1 << 30, LONG).await;
        assert!(matches!(read(&[]).await, Err(FrameError::Closed)));
        assert!(matches!(read(&[0, 0]).await, Err(FrameError::Io(_))));
        assert!(matches!(read(&[0, 0, 0, 9, 1]).await, Err(FrameError::Io(_))));
        assert!(matches!(read(&[0x7f, 0xff, 0xff, 0xff]).await, Err(FrameError::TooLarge(_))));
        assert!(matches!(read(&[0x80, 0, 0, 0]).await, Err(FrameError::Empty)));
        assert!(matches!(read(&[0x80, 0, 0, 1, 7]).await, Err(FrameError::Closed)));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_stalling_end() {
        let (mut near, mut far) = tokio::io::duplex(64);
        assert!(matches!(read(&mut near, 64, LONG).await, Err(FrameError::Silent)));
        far.write_all(&[0, 0]).await.unwrap();
        assert!(matches!(read(&mut near, 64, LONG).await, Err(FrameError::Stalled)));
        // Nobody reads what is written: the buffer of 64 bytes fills up.
        assert!(matches!(write(&mut far, &[0; 100]).await, Err(FrameError::Stalled)));
    }
}
