//! HTTP/1.1 over the daemon's unix socket, one connection per request.
//!
//! A connection that breaks before the whole answer was read is followed by one more attempt: what changes
//! something carries an `Idempotency-Key`, so that the daemon applies it once however often it comes. Answers are
//! not trusted: their size is bounded, and what is not vswitchd's is told apart from what is.

mod call;
mod events;

pub use call::{ANSWER_TIMEOUT, Call};
pub use events::follow_events;

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use vswitch_proto::api::{self, Warned};

use crate::args::Socket;
use crate::failure::{FAILED, Failure, UNREACHABLE, complain};

/// Largest answer that is read, bytes. A container takes about 1 KiB of a list.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The protocol after an upgrade: frames of [`api::stream`] both ways.
const STREAM_PROTOCOL: &str = "vswitch-stream";

#[derive(Debug, Clone)]
pub struct Client {
    socket: Socket,
}

/// Why there is no answer.
#[derive(Debug)]
enum Broken {
    Connect(io::Error),
    /// The connection ended before the answer did.
    Lost,
    /// What came is no HTTP.
    NotHttp,
    TooLong,
    Timeout(Duration),
}

impl Client {
    pub fn new(socket: Socket) -> Client {
        Client { socket }
    }

    fn path(&self) -> &Path {
        &self.socket.0
    }

    /// # Errors
    /// The daemon's own error, or that it did not answer.
    pub async fn fetch<T: DeserializeOwned>(&self, call: Call) -> Result<T, Failure> {
        let answer = self.answer(&call).await?;
        serde_json::from_slice(&answer).map_err(|_| self.foreign("an answer that is not of its API"))
    }

    /// For answers that are not JSON.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn fetch_bytes(&self, call: Call) -> Result<Bytes, Failure> {
        self.answer(&call).await
    }

    /// For calls whose success says everything.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn perform(&self, call: Call) -> Result<(), Failure> {
        self.answer(&call).await.map(drop)
    }

    /// For calls whose success says everything, save for warnings, which are printed.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn perform_warned(&self, call: Call) -> Result<(), Failure> {
        let answer = self.answer(&call).await?;
        let warned: Warned = serde_json::from_slice(&answer).unwrap_or_default();
        warned.warnings.iter().for_each(|warning| complain(format_args!("warning: {warning}")));
        Ok(())
    }

    async fn answer(&self, call: &Call) -> Result<Bytes, Failure> {
        let mut result = self.exchange(call).await;
        if matches!(result, Err(Broken::Lost)) {
            result = self.exchange(call).await;
        }
        match result {
            Ok((status, body)) if status.is_success() => Ok(body),
            Ok((status, body)) => Err(self.refusal(status, &body)),
            Err(broken) => Err(self.failure(broken)),
        }
    }

    async fn exchange(&self, call: &Call) -> Result<(StatusCode, Bytes), Broken> {
        let whole = async {
            let response = self.send(call, None).await?;
            let status = response.status();
            Ok((status, read_body(response.into_body()).await?))
        };
        match call.timeout {
            Some(limit) => tokio::time::timeout(limit, whole).await.map_err(|_| Broken::Timeout(limit))?,
            None => whole.await,
        }
    }

    /// Answers as soon as the head of the response is there.
    async fn send(&self, call: &Call, upgrade: Option<&str>) -> Result<Response<Incoming>, Broken> {
        let stream = UnixStream::connect(self.path()).await.map_err(Broken::Connect)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        // Its errors are the sender's and the body's, too.
        tokio::spawn(async { drop(connection.with_upgrades().await) });
        let mut request = Request::builder()
            .method(call.method.clone())
            .uri(&call.uri)
            .header(header::HOST, "vswitchd")
            .header(header::CONTENT_TYPE, call.content_type);
        if let Some(key) = &call.key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(id) = &call.last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        if let Some(protocol) = upgrade {
            request = request.header(header::CONNECTION, "Upgrade").header(header::UPGRADE, protocol);
        }
        let request =
            request.body(Full::new(call.body.clone())).expect("paths and header values are encoded");
        sender.send_request(request).await.map_err(broken)
    }

    /// The body of a successful answer, to be read as it comes.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn stream(&self, call: Call) -> Result<Incoming, Failure> {
        let response = self.head(&call, None).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        Err(self.refused(response).await)
    }

    /// Changes the protocol of the connection to frames both ways. With it comes the number of the exec, if the daemon
    /// gives one.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn upgrade(&self, call: Call) -> Result<(TokioIo<Upgraded>, Option<String>), Failure> {
        let response = self.head(&call, Some(STREAM_PROTOCOL)).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let exec = response.headers().get(api::EXEC_HEADER).and_then(|exec| exec.to_str().ok());
            let exec = exec.map(String::from);
            let upgraded = hyper::upgrade::on(response).await;
            let io = upgraded.map(TokioIo::new).map_err(|e| self.failure(broken(e)))?;
            return Ok((io, exec));
        }
        if response.status().is_success() {
            return Err(self.foreign("an answer without the upgrade to a stream"));
        }
        Err(self.refused(response).await)
    }

    async fn head(&self, call: &Call, upgrade: Option<&str>) -> Result<Response<Incoming>, Failure> {
        let head = tokio::time::timeout(ANSWER_TIMEOUT, self.send(call, upgrade)).await;
        head.unwrap_or(Err(Broken::Timeout(ANSWER_TIMEOUT))).map_err(|e| self.failure(e))
    }

    async fn refused(&self, response: Response<Incoming>) -> Failure {
        let status = response.status();
        match tokio::time::timeout(ANSWER_TIMEOUT, read_body(response.into_body())).await {
            Ok(Ok(body)) => self.refusal(status, &body),
            Ok(Err(e)) => self.failure(e),
            Err(_) => self.failure(Broken::Timeout(ANSWER_TIMEOUT)),
        }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> Failure {
        match serde_json::from_slice::<api::Error>(body) {
            Ok(error) => error.into(),
            Err(_) => self.foreign(&format!("HTTP status {}", status.as_u16())),
        }
    }

    fn foreign(&self, what: &str) -> Failure {
        let path = self.path().display();
        Failure::new(
            FAILED,
            format_args!(
                "unix://{path} gave {what}; is it the socket of a vswitchd of this version? (see -H)"
            ),
        )
    }

    fn failure(&self, broken: Broken) -> Failure {
        let path = self.path().display();
        let message = match broken {
            Broken::Connect(error) => return self.unreachable(&error),
            Broken::Lost => {
                format!("the daemon at unix://{path} closed the connection before it answered; see its log")
            }
            Broken::NotHttp => return self.foreign("an answer that is not HTTP"),
            Broken::TooLong => return self.foreign("an answer of more than 64 MiB"),
            Broken::Timeout(limit) => {
                format!(
                    "the daemon at unix://{path} did not answer within {} s; see its log",
                    limit.as_secs()
                )
            }
        };
        Failure::new(UNREACHABLE, message)
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let (cause, remedy) = match error.kind() {
            io::ErrorKind::NotFound => {
                ("there is no such socket".into(), "start vswitchd, or name its socket with -H")
            }
            io::ErrorKind::PermissionDenied => {
                ("permission denied".into(), "use sudo, or join the group that owns the socket")
            }
            io::ErrorKind::ConnectionRefused => {
                ("nobody listens there".into(), "start vswitchd, or name its socket with -H")
            }
            _ => (error.to_string(), "name the socket of vswitchd with -H"),
        };
        let path = self.path().display();
        Failure::new(UNREACHABLE, format_args!("cannot reach the daemon at unix://{path}: {cause}; {remedy}"))
    }
}

fn broken(error: hyper::Error) -> Broken {
    if error.is_parse() { Broken::NotHttp } else { Broken::Lost }
}

async fn read_body(body: Incoming) -> Result<Bytes, Broken> {
    match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Broken::TooLong),
        Err(_) => Err(Broken::Lost),
    }
}

#[cfg(test)]
mod tests;
