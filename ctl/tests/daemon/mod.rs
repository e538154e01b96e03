//! A daemon of the tests: HTTP on a unix socket, each answer chosen by a closure, each request remembered.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use vswitch_proto::api::stream::{Decoder, Frame};

/// When a request that a test waits for has not come by then, it does not come.
const PATIENCE: Duration = Duration::from_secs(60);

pub enum Reply {
    Json(u16, Value),
    Bytes(Vec<u8>),
    Empty,
    /// 101, and then this on a thread of its own.
    Stream(fn(Stream)),
}

#[derive(Debug, Clone)]
pub struct Seen {
    /// Method, a space, path and query.
    pub line: String,
    pub body: Vec<u8>,
}

type Log = Arc<(Mutex<Vec<Seen>>, Condvar)>;

pub struct Daemon {
    socket: PathBuf,
    log: Log,
    _runtime: tokio::runtime::Runtime,
    _directory: tempfile::TempDir,
}

impl Daemon {
    pub fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("d.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let log = Log::default();
        let reply = Arc::new(reply);
        let listener = {
            let _context = runtime.enter();
            UnixListener::bind(&socket).unwrap()
        };
        let shared = Arc::clone(&log);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, reply) = (Arc::clone(&shared), Arc::clone(&reply));
                let service = hyper::service::service_fn(move |request| {
                    answer(request, Arc::clone(&log), Arc::clone(&reply))
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .with_upgrades();
                tokio::spawn(async { drop(connection.await) });
            }
        });
        Daemon { socket, log, _runtime: runtime, _directory: directory }
    }

    pub fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    pub fn requests(&self) -> Vec<Seen> {
        self.log.0.lock().unwrap().clone()
    }

    pub fn wait_for(&self, wanted: impl Fn(&Seen) -> bool) {
        let (requests, changed) = &*self.log;
        let guard = requests.lock().unwrap();
        let absent = |seen: &mut Vec<Seen>| !seen.iter().any(&wanted);
        let (seen, result) = changed.wait_timeout_while(guard, PATIENCE, absent).unwrap();
        assert!(!result.timed_out(), "only these requests came: {seen:?}");
    }
}

async fn answer<F: Fn(&Seen) -> Reply>(
    mut request: Request<Incoming>,
    log: Log,
    reply: Arc<F>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    let upgrade = hyper::upgrade::on(&mut request);
    let body = request.into_body().collect().await.unwrap().to_bytes().to_vec();
    let seen = Seen { line, body };
    log.0.lock().unwrap().push(seen.clone());
    log.1.notify_all();
    let response = Response::builder();
    let response = match reply(&seen) {
        Reply::Json(status, value) => response.status(status).body(value.to_string().into()),
        Reply::Bytes(bytes) => response.body(bytes.into()),
        Reply::Empty => response.status(StatusCode::NO_CONTENT).body(Full::default()),
        Reply::Stream(process) => {
            tokio::spawn(async move {
                let io = TokioIo::new(upgrade.await.unwrap());
                let handle = Handle::current();
                let stream = Stream { io, handle, decoder: Decoder::default() };
                tokio::task::spawn_blocking(move || process(stream));
            });
            response
                .status(StatusCode::SWITCHING_PROTOCOLS)
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "vswitch-stream")
                .body(Full::default())
        }
    };
    Ok(response.unwrap())
}

/// The daemon's end of an upgraded connection, for threads that may block.
pub struct Stream {
    io: TokioIo<hyper::upgrade::Upgraded>,
    handle: Handle,
    decoder: Decoder,
}

impl Stream {
    pub fn send(&mut self, frames: &[Frame]) {
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::to_bytes).collect();
        self.handle.block_on(self.io.write_all(&bytes)).unwrap();
        self.handle.block_on(self.io.flush()).unwrap();
    }

    /// The next frame, `None` when the client has closed.
    pub fn receive(&mut self) -> Option<Frame> {
        let mut block = [0; 4096];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            match self.handle.block_on(self.io.read(&mut block)) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&block[..count]),
            }
        }
    }
}
