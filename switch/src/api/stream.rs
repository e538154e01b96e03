//! Attached streams: `attach` and `exec` after an upgrade, `logs` as a body.
//!
//! After the 101 answer the daemon passes bytes between the client and the container's shim ([`relay`]), which speaks the
//! framing of [`vswitch_proto::api::stream`] itself.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use vswitch_proto::api::{EXEC_HEADER, Error, ErrorKind, Exec};

use super::containers::{Kill, signal};
use super::failure::{Failure, Json, UPGRADE_PROTOCOL, invalid, query, wants_stream};
use super::relay::relay;
use crate::container::{LogOptions, Shim, ShimError};
use crate::daemon::Handle;

#[derive(Deserialize)]
struct Attach {
    #[serde(default)]
    foreground: bool,
}

pub async fn attach(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    wants_stream(request.headers())?;
    let Attach { foreground } = query(request.uri())?;
    let shim = handle.running_shim(&reference)?;
    let stream = shim.attach(foreground).await.map_err(refused)?;
    Ok(switch_to(stream, None, request))
}

pub async fn exec(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    mut request: Request,
) -> Result<Response, Failure> {
    wants_stream(request.headers())?;
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let Json(exec) = <Json<Exec> as axum::extract::FromRequest<()>>::from_request(request, &()).await?;
    if exec.command.is_empty() {
        return Err(invalid("the command to execute is missing"));
    }
    let shim = handle.started_shim(&reference)?;
    let (stream, number) = shim.exec(&exec).await.map_err(refused)?;
    let mut head = Request::new(Body::empty());
    if let Some(upgrade) = upgrade {
        head.extensions_mut().insert(upgrade);
    }
    let mut response = switch_to(stream, number.map(|number| (shim, number)), head);
    if let Some(number) = number {
        response.headers_mut().insert(EXEC_HEADER, HeaderValue::from(number));
    }
    Ok(response)
}

pub async fn kill_exec(
    State(handle): State<Handle>,
    Path((reference, exec)): Path<(String, u64)>,
    uri: Uri,
) -> Result<StatusCode, Failure> {
    let number = signal(&query::<Kill>(&uri)?)?;
    let shim = handle.started_shim(&reference)?;
    match shim.signal_exec(exec, number).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(ShimError::Refused { line }) => {
            Err(Error { kind: ErrorKind::Conflict, message: line, exit_code: None }.into())
        }
        Err(error) => Err(refused(error)),
    }
}

fn refused(error: ShimError) -> Failure {
    let kind = match error {
        ShimError::NotRunning => ErrorKind::Conflict,
        _ => ErrorKind::Failed,
    };
    Error { kind, message: error.to_string(), exit_code: None }.into()
}

/// Answers 101 and passes bytes until the shim has closed or the client is gone.
fn switch_to(stream: UnixStream, exec: Option<(Arc<Shim>, u64)>, request: Request) -> Response {
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => relay(upgraded, stream, exec).await,
            Err(error) => tracing::debug!(%error, "a client did not go on after its upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(UPGRADE_PROTOCOL));
    response
}

#[derive(Deserialize)]
struct Logs {
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
    #[serde(default)]
    timestamps: bool,
}

pub async fn logs(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    uri: Uri,
) -> Result<Response, Failure> {
    let Logs { follow, tail, timestamps } = query(&uri)?;
    let frames = handle.logs(&reference, LogOptions { follow, tail, timestamps })?;
    let bytes = ReceiverStream::new(frames).map(|frame| Ok::<_, std::convert::Infallible>(frame.to_bytes()));
    Ok(Response::new(Body::from_stream(bytes)))
}
