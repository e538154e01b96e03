//! Admission: what each client may have of the daemon's sockets, so that something is left for others.
//!
//! A client is a session of a user ([`Client`]). Connections, lasting answers (streams), large bodies and snapshots are
//! counted for each client, for each user, and for all together ([`bounds`]). What is beyond a bound is answered with
//! status 429 and one line that says which bound it is. A connection whose client has nothing under way gives way to a
//! new one; so clients that connect and say nothing, or send half a request, keep nobody out.
//!
//! Deadlines: [`HEAD_TIMEOUT`] for the head of a request, `BODY_TIMEOUT` for its body, and
//! [`WRITE_TIMEOUT`](connection::WRITE_TIMEOUT) for each part of an answer to be read. Only logs, attach and exec may be
//! read as slowly as their reader likes, since their writer waits for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::daemon::Client;

pub mod bounds;
pub mod connection;
mod table;

pub use bounds::{Bounds, Class};
pub use connection::{Connection, Socket};
pub use table::Refusal;

use table::Table;

/// How long a client may take to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that are answered with a refusal at the same time. More are closed without one.
const LOBBY_MAX: usize = 64;

/// How long such a client may take for its request.
const LOBBY_TIMEOUT: Duration = Duration::from_secs(1);

/// The places of one listening socket.
#[derive(Debug)]
pub struct Gate {
    table: Mutex<Table>,
    lobby: Semaphore,
}

impl Gate {
    pub fn new(bounds: Bounds) -> Gate {
        Gate { table: Mutex::new(Table::new(bounds)), lobby: Semaphore::new(LOBBY_MAX) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(self: &Arc<Self>, client: Client) -> Result<Arc<Connection>, Refusal> {
        let admitted = self.table().admit(client)?;
        Ok(Arc::new(Connection::new(Arc::clone(self), client, admitted)))
    }

    /// The next connection, and its place if it has one.
    pub async fn accept(
        self: &Arc<Self>,
        listener: &UnixListener,
    ) -> (UnixStream, Result<Arc<Connection>, Refusal>) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Without credentials it is nobody's in particular.
                    let peer = stream.peer_cred().ok();
                    let client =
                        peer.map_or(Client::of(u32::MAX, None), |peer| Client::of(peer.uid(), peer.pid()));
                    let evictions = self.table().evictions();
                    let admitted = self.admit(client);
                    if self.table().evictions() > evictions {
                        // The one that gave way closes its descriptor before more come.
                        tokio::task::yield_now().await;
                    }
                    return (stream, admitted);
                }
                Err(error) => {
                    // Out of file descriptors, most likely: let others finish first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Has `answer` tell a client that it has no place, if there is time for that.
    pub async fn turn_away(&self, answer: impl Future<Output = ()>) {
        if let Ok(_place) = self.lobby.try_acquire() {
            // One that does not listen is not told.
            let _ = tokio::time::timeout(LOBBY_TIMEOUT, answer).await;
        }
    }
}
