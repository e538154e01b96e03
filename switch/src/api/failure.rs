//! From every way a request can go wrong to one [`Error`] with its status.

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use vswitch_proto::api::{BODY_BYTES_MAX, Error, ErrorKind, SNAPSHOT_BYTES_MAX};
use vswitch_proto::id::RequestId;

use super::admission::{Connection, Refusal};
use crate::cluster::service::ClusterError;
use crate::daemon::{Client, Handle};

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// An [`Error`] as an HTTP answer.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status =
            StatusCode::from_u16(error.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Failure { status, error }
    }
}

impl From<ClusterError> for Failure {
    fn from(error: ClusterError) -> Failure {
        Error { kind: error.kind(), message: error.to_string(), exit_code: None }.into()
    }
}

impl From<Refusal> for Failure {
    fn from(refused: Refusal) -> Failure {
        Error { kind: ErrorKind::Busy, message: refused.to_string(), exit_code: None }.into()
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, axum::Json(self.error)).into_response()
    }
}

pub fn invalid(message: impl Into<String>) -> Failure {
    Error { kind: ErrorKind::Invalid, message: message.into(), exit_code: None }.into()
}

pub async fn unknown_path(uri: Uri) -> Failure {
    let message = format!("{} is not part of this API; its paths begin with /v1", uri.path());
    Error { kind: ErrorKind::NotFound, message, exit_code: None }.into()
}

pub async fn wrong_method(uri: Uri) -> Failure {
    Failure {
        status: StatusCode::METHOD_NOT_ALLOWED,
        ..invalid(format!("{} has no such method", uri.path()))
    }
}

/// A JSON body. An empty one stands for `{}`.
pub struct Json<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Json<T>, Failure> {
        let bytes = body(request.into_body(), BODY_BYTES_MAX).await?;
        let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
        serde_json::from_slice(bytes).map(Json).map_err(|error| invalid(format!("request body: {error}")))
    }
}

/// The daemon as the client that sent a request has it: for requests that change something.
pub struct Caller(pub Handle);

impl FromRequestParts<Handle> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, handle: &Handle) -> Result<Caller, Infallible> {
        let connection = parts.extensions.get::<Arc<Connection>>();
        let client = connection.map_or(Client::DAEMON, |connection| connection.client());
        Ok(Caller(handle.clone().of(client)))
    }
}

/// The bytes of a snapshot.
pub struct Snapshot(pub Bytes);

impl<S: Sync> FromRequest<S> for Snapshot {
    type Rejection = Failure;

    async fn from_request(request: Request, _: &S) -> Result<Snapshot, Failure> {
        body(request.into_body(), SNAPSHOT_BYTES_MAX).await.map(Snapshot)
    }
}

async fn body(body: Body, bytes_max: usize) -> Result<Bytes, Failure> {
    match timeout(BODY_TIMEOUT, to_bytes(body, bytes_max)).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(invalid(format!("request body is broken off or over {bytes_max} bytes"))),
        Err(_) => Err(invalid(format!("request body did not arrive within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Query parameters, with our kind of error.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Failure> {
    axum::extract::Query::try_from_uri(uri)
        .map(|axum::extract::Query(value)| value)
        .map_err(|error| invalid(format!("query parameters: {}", error.body_text())))
}

/// `?force=true`.
#[derive(Deserialize)]
pub struct Forced {
    #[serde(default)]
    pub force: bool,
}

/// `Idempotency-Key`, if there is one.
pub fn request_id(headers: &HeaderMap) -> Result<Option<RequestId>, Failure> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.map(Some).ok_or_else(|| invalid("Idempotency-Key is not 32 hexadecimal digits"))
}

/// The client asks for `Upgrade: vswitch-stream`.
pub fn wants_stream(headers: &HeaderMap) -> Result<(), Failure> {
    let asked = headers.get(header::UPGRADE).is_some_and(|value| value == UPGRADE_PROTOCOL);
    if asked {
        Ok(())
    } else {
        Err(invalid(format!("this path needs the header Upgrade: {UPGRADE_PROTOCOL}")))
    }
}

pub const UPGRADE_PROTOCOL: &str = "vswitch-stream";
