//! The bytes between a client of `attach` or `exec` and the container's shim.
//!
//! Each direction has one buffer of [`BUFFER_BYTES`], and reads only when that is empty: a client that does not read
//! holds the shim up, and through it the process. The directions are independent, so what the process printed last
//! arrives although the client's last input cannot be delivered any more. (`tokio::io::copy_bidirectional` ends both
//! at the first error of either.)
//!
//! A client that ends its own half of the connection has no more input and takes output still. One whose connection
//! is closed is gone: the shim is told when it was an exec's.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::admission::Socket;
use crate::container::Shim;

const BUFFER_BYTES: usize = 64 << 10;
/// Between two looks whether a client is gone that cannot be noticed by reading from it.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Input of a client that is thrown away at the end, in buffers. The kernel tells the peer of a connection with unread
/// input that it was reset.
const LAST_READS_MAX: usize = 64;

/// Ends when the shim has closed its connection and the client has everything, or when the client is gone. `exec` is
/// the number of the exec that the client's process is.
pub async fn relay(upgraded: Upgraded, mut shim_stream: UnixStream, exec: Option<(Arc<Shim>, u64)>) {
    let Ok(parts) = upgraded.downcast::<TokioIo<Socket>>() else {
        tracing::error!("an upgraded connection is none of the API's socket");
        return;
    };
    let client = parts.io.into_inner();
    if pass(client, parts.read_buf, &mut shim_stream).await == End::ClientGone
        && let Some((shim, number)) = exec
        && let Err(error) = shim.hang_up(number).await
    {
        // Its container has ended, most likely.
        tracing::debug!(%error, "cannot hang up for a client that is gone");
    }
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    ShimClosed,
    ClientGone,
}

async fn pass(client: impl AsyncRead + AsyncWrite + AsFd, first: Bytes, shim: &mut UnixStream) -> End {
    let probe = Probe(client.as_fd().try_clone_to_owned());
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_shim, mut to_shim) = shim.split();
    let end = tokio::select! {
        end = output(&mut from_shim, &mut to_client) => end,
        () = input(&mut from_client, first, &mut to_shim, &probe) => End::ClientGone,
    };
    if end == End::ShimClosed {
        // Errors are those of a client that has gone by now.
        let _ = to_client.shutdown().await;
        let mut rest = vec![0; BUFFER_BYTES];
        for _ in 0..LAST_READS_MAX {
            let read = timeout(Duration::ZERO, from_client.read(&mut rest)).await;
            if !matches!(read, Ok(Ok(1..))) {
                break;
            }
        }
    }
    end
}

async fn output(shim: &mut ReadHalf<'_>, client: &mut (impl AsyncWrite + Unpin)) -> End {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match shim.read(&mut buffer).await {
            // A shim that closes with input unread resets the connection; all that it sent came before.
            Ok(0) | Err(_) => return End::ShimClosed,
            Ok(length) => {
                if client.write_all(&buffer[..length]).await.is_err() {
                    return End::ClientGone;
                }
            }
        }
    }
}

/// Returns when the client is gone.
async fn input(client: &mut (impl AsyncRead + Unpin), first: Bytes, shim: &mut WriteHalf<'_>, probe: &Probe) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut takes_more = forward(shim, &first, probe).await;
    loop {
        match client.read(&mut buffer).await {
            Err(_) => return,
            Ok(0) if probe.is_gone() => return,
            Ok(0) => break,
            Ok(length) if takes_more => takes_more = forward(shim, &buffer[..length], probe).await,
            // The shim has closed. Reading on notices the end of the client.
            Ok(_) => {}
        }
        if probe.is_gone() && !takes_more {
            return;
        }
    }
    // An error is the end of the shim, which the other direction notices.
    let _ = shim.shutdown().await;
    probe.gone().await;
}

/// False when the shim takes nothing any more, or the client went while it waited for that.
async fn forward(shim: &mut WriteHalf<'_>, bytes: &[u8], probe: &Probe) -> bool {
    tokio::select! {
        // What a client has said before it went counts, as far as the shim takes it at once.
        biased;
        written = shim.write_all(bytes) => written.is_ok(),
        () = probe.gone() => false,
    }
}

/// The client's connection, to ask the kernel whether it is closed.
struct Probe(io::Result<std::os::fd::OwnedFd>);

impl Probe {
    fn is_gone(&self) -> bool {
        // Without a descriptor for it, whoever has ended its half is taken for one that is still there.
        let Ok(fd) = &self.0 else { return false };
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::empty())];
        let flags = poll(&mut polled, PollTimeout::ZERO).ok().and_then(|_| polled[0].revents());
        flags.is_some_and(|flags| flags.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
    }

    /// Returns when it is closed.
    async fn gone(&self) {
        while !self.is_gone() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
        let mut all = Vec::new();
        // A reset after everything is the end, too.
        let _ = stream.read_to_end(&mut all).await;
        all
    }

    #[tokio::test]
    async fn the_last_output_arrives_although_the_last_input_does_not() {
        for _ in 0..200 {
            let (mut client, ours) = UnixStream::pair().unwrap();
            let (mut shim_ours, mut shim) = UnixStream::pair().unwrap();
            let relay = tokio::spawn(async move { pass(ours, Bytes::new(), &mut shim_ours).await });
            shim.write_all(&[7; 1000]).await.unwrap();
            drop(shim);
            let _ = client.write_all(b"typed too late").await;
            assert_eq!(read_all(&mut client).await.len(), 1000);
            assert_eq!(relay.await.unwrap(), End::ShimClosed);
        }
    }

    #[tokio::test]
    async fn the_end_of_input_is_not_the_end_of_the_client() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (mut shim_ours, mut shim) = UnixStream::pair().unwrap();
        let relay = tokio::spawn(async move { pass(ours, Bytes::from_static(b"a"), &mut shim_ours).await });
        client.write_all(b"ll").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut shim).await, b"all");
        shim.write_all(b"answer").await.unwrap();
        drop(shim);
        assert_eq!(read_all(&mut client).await, b"answer");
        assert_eq!(relay.await.unwrap(), End::ShimClosed);
    }

    #[tokio::test]
    async fn what_a_client_says_before_it_goes_arrives() {
        for _ in 0..100 {
            let (mut client, ours) = UnixStream::pair().unwrap();
            let (mut shim_ours, mut shim) = UnixStream::pair().unwrap();
            client.write_all(b"last words").await.unwrap();
            drop(client);
            assert_eq!(pass(ours, Bytes::new(), &mut shim_ours).await, End::ClientGone);
            drop(shim_ours);
            assert_eq!(read_all(&mut shim).await, b"last words");
        }
    }

    #[tokio::test]
    async fn a_client_that_is_gone_is_noticed_while_its_input_waits() {
        let (mut client, ours) = UnixStream::pair().unwrap();
        let (mut shim_ours, shim) = UnixStream::pair().unwrap();
        let relay = tokio::spawn(async move { pass(ours, Bytes::new(), &mut shim_ours).await });
        // Nobody reads at the other end, so this ends when every buffer is full.
        let full = tokio::time::timeout(Duration::from_millis(200), client.write_all(&[0; 4 << 20])).await;
        assert!(full.is_err());
        drop(client);
        assert_eq!(relay.await.unwrap(), End::ClientGone);
        drop(shim);
    }
}
