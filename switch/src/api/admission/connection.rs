//! A connection with its place: the place is taken as long as the socket is open, also after an upgrade.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use hyper::body::{Bytes, Frame, SizeHint};
use hyper::{StatusCode, body};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::SemaphorePermit;
use tokio::time::{Sleep, sleep};

use super::bounds::Class;
use super::table::{Admitted, Occupancy, Refusal};
use super::{Gate, HEAD_TIMEOUT};
use crate::daemon::Client;

/// How long a client may leave an answer unread. Streams whose writer waits for their reader are not bound by it.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

const IDLE: u8 = 0;
const HEADING: u8 = 1;
const WORKING: u8 = 2;

#[derive(Debug)]
pub struct Connection {
    gate: Arc<Gate>,
    client: Client,
    admitted: Admitted,
    doing: AtomicU8,
    /// The client may read as slowly as it likes.
    is_patient: AtomicBool,
}

impl Connection {
    pub(super) fn new(gate: Arc<Gate>, client: Client, admitted: Admitted) -> Connection {
        Connection { gate, client, admitted, doing: AtomicU8::new(IDLE), is_patient: AtomicBool::new(false) }
    }

    pub fn client(&self) -> Client {
        self.client
    }

    /// How full the socket is.
    pub fn occupancy(&self) -> Occupancy {
        self.gate.table().occupancy()
    }

    /// Waits until the place is needed for another connection.
    pub async fn evicted(&self) {
        self.admitted.signals.evicted.notified().await;
    }

    /// Waits for one of the client's turns to have a question answered.
    pub async fn read_turn(&self) -> SemaphorePermit<'_> {
        self.admitted.reads.acquire().await.expect("the semaphore is never closed")
    }

    /// Begins to work on a request, which counts in a class until the answer is read.
    pub fn begin(self: &Arc<Self>, class: Option<Class>, is_patient: bool) -> Result<Working, Refusal> {
        self.doing.store(WORKING, Ordering::Relaxed);
        self.is_patient.store(is_patient, Ordering::Relaxed);
        let working = Working(Some(Arc::clone(self)));
        self.gate.table().work_begins(self.admitted.number, class)?;
        Ok(working)
    }

    fn head_begins(&self) -> bool {
        let begins = self.doing.compare_exchange(IDLE, HEADING, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            self.gate.table().head_begins(self.admitted.number);
        }
        begins
    }

    fn end_work(&self) {
        self.doing.store(IDLE, Ordering::Relaxed);
        self.is_patient.store(false, Ordering::Relaxed);
        self.gate.table().work_ends(self.admitted.number);
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.gate.table().end(self.admitted.number);
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Working(Option<Arc<Connection>>);

impl Working {
    /// The answer, with which the work ends. After an upgrade it ends with the connection.
    pub fn with(mut self, response: Response) -> Response {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0 = None;
            return response;
        }
        response.map(|body| Body::new(Tracked { body, _working: self }))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            connection.end_work();
        }
    }
}

/// The body of an answer.
struct Tracked {
    body: Body,
    _working: Working,
}

impl body::Body for Tracked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The socket of a connection, which gives up on clients that neither send what they have begun nor read.
pub struct Socket {
    stream: UnixStream,
    connection: Arc<Connection>,
    head: Option<Pin<Box<Sleep>>>,
    unread: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub fn new(stream: UnixStream, connection: Arc<Connection>) -> Socket {
        Socket { stream, connection, head: None, unread: None }
    }

    /// Whether the head of a request has taken too long.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.connection.doing.load(Ordering::Relaxed) != HEADING {
            self.head = None;
        }
        self.head.as_mut().is_some_and(|head| head.as_mut().poll(cx).is_ready())
    }

    /// What came of writing `bytes`, and a time-out where the client has not read for too long.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        bytes: usize,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let is_whole = matches!(&polled, Poll::Ready(Ok(written)) if *written == bytes);
        self.connection.admitted.signals.is_writing.store(!is_whole, Ordering::Relaxed);
        if polled.is_ready() || self.connection.is_patient.load(Ordering::Relaxed) {
            self.unread = None;
            return polled;
        }
        let unread = self.unread.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
        unread.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before && self.connection.head_begins() {
            self.head = Some(Box::pin(sleep(HEAD_TIMEOUT)));
        }
        if polled.is_pending() && self.is_late(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, buf.len(), polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, bufs.iter().map(|buf| buf.len()).sum(), polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
