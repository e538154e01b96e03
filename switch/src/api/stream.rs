//! Attached streams: `attach` and `exec` after an upgrade, `logs` as a body.
//!
//! After the 101 answer the daemon passes bytes between the client and the container's shim, which speaks the
//! framing of [`vswitch_proto::api::stream`] itself.

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::Response;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use vswitch_proto::api::{Error, ErrorKind, Exec};

use super::failure::{Failure, Json, UPGRADE_PROTOCOL, invalid, query, wants_stream};
use crate::container::{LogOptions, ShimError};
use crate::daemon::Handle;

pub async fn attach(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    request: Request,
) -> Result<Response, Failure> {
    wants_stream(request.headers())?;
    let shim = handle.running_shim(&reference)?;
    let stream = shim.attach().await.map_err(refused)?;
    Ok(switch_to(stream, request))
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
    let stream = shim.exec(&exec).await.map_err(refused)?;
    let mut head = Request::new(Body::empty());
    if let Some(upgrade) = upgrade {
        head.extensions_mut().insert(upgrade);
    }
    Ok(switch_to(stream, head))
}

fn refused(error: ShimError) -> Failure {
    let kind = match error {
        ShimError::NotRunning => ErrorKind::Conflict,
        _ => ErrorKind::Failed,
    };
    Error { kind, message: error.to_string(), exit_code: None }.into()
}

/// Answers 101 and passes bytes until either side closes.
fn switch_to(mut shim: UnixStream, request: Request) -> Response {
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                // Either side may go at any time; that is how these connections end.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(upgraded), &mut shim).await;
            }
            Err(error) => tracing::debug!(%error, "a client did not go on after its upgrade"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(UPGRADE_PROTOCOL));
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
