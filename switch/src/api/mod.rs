//! The HTTP API on a unix socket. What each path takes and gives is written at [`vswitch_proto::api`].
//!
//! Reads are answered from the published state without a detour through the control loop; everything that changes
//! something is a [`Change`](crate::daemon::Change) that the loop handles in order. The cluster is asked directly: it
//! keeps its own order, and waiting for other nodes holds nobody up. How many connections and requests a client may have
//! is up to `admission`. Bodies have at most [`BODY_BYTES_MAX`] bytes, snapshots
//! [`SNAPSHOT_BYTES_MAX`](vswitch_proto::api::SNAPSHOT_BYTES_MAX).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Method, Request};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use vswitch_proto::api::BODY_BYTES_MAX;

use crate::daemon::Handle;
use admission::{Bounds, Class, Connection, Gate, HEAD_TIMEOUT, Refusal, Socket};
use failure::Failure;

mod admission;
mod amend;
mod cluster;
mod containers;
pub mod docker;
mod failure;
mod feed;
mod networks;
mod nodes;
mod observe;
mod relay;
mod settings;
mod stream;
pub mod view;

/// How long a body that nobody wants is read.
const DISCARD_TIMEOUT: Duration = Duration::from_millis(500);

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let gate = Arc::new(Gate::new(Bounds::of_api(handle.descriptors_max())));
    let router = TowerToHyperService::new(router(handle));
    loop {
        match gate.accept(&listener).await {
            (stream, Ok(connection)) => {
                tokio::spawn(serve_connection(stream, connection, router.clone()));
            }
            (stream, Err(refused)) => {
                let gate = Arc::clone(&gate);
                tokio::spawn(async move { gate.turn_away(refuse(stream, refused)).await });
            }
        }
    }
}

async fn serve_connection(
    stream: UnixStream,
    connection: Arc<Connection>,
    router: TowerToHyperService<Router>,
) {
    let socket = Socket::new(stream, Arc::clone(&connection));
    let of_requests = Arc::clone(&connection);
    let service = service_fn(move |request: Request<Incoming>| {
        answer(Arc::clone(&of_requests), router.clone(), request)
    });
    let served = http().serve_connection(TokioIo::new(socket), service).with_upgrades();
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "an API connection ended");
            }
        }
        () = connection.evicted() => tracing::debug!("an API connection without a request gave way to another"),
    }
}

fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    builder
}

async fn answer(
    connection: Arc<Connection>,
    router: TowerToHyperService<Router>,
    mut request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let (class, is_patient) = class_of(&request);
    let working = match connection.begin(class, is_patient) {
        Ok(working) => working,
        Err(refused) => {
            discard(request.into_body()).await;
            return Ok(Failure::from(refused).into_response());
        }
    };
    request.extensions_mut().insert(Arc::clone(&connection));
    let is_read = request.method() == Method::GET && class.is_none();
    let turn = if is_read { Some(connection.read_turn().await) } else { None };
    let response = router.call(request).await?;
    drop(turn);
    Ok(working.with(response))
}

/// What a request counts as, and whether its answer may be read as slowly as the reader likes.
fn class_of<B>(request: &Request<B>) -> (Option<Class>, bool) {
    let mut segments = request.uri().path().split('/').skip(2);
    let path = [segments.next(), segments.next(), segments.next()].map(Option::unwrap_or_default);
    let is_deeper = segments.next().is_some();
    match path {
        ["events", "", ""] => return (Some(Class::Stream), false),
        // A signal for an exec.
        ["containers", _, "exec"] if is_deeper => {}
        ["containers", _, "logs" | "attach" | "exec"] => return (Some(Class::Stream), true),
        ["containers", _, "wait" | "stop" | "restart"] => return (Some(Class::Stream), false),
        ["cluster", "snapshot", _] => return (Some(Class::Snapshot), false),
        _ => {}
    }
    let headers = request.headers();
    let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let is_large = match length {
        Some(bytes) => bytes > admission::bounds::SMALL_BODY_BYTES_MAX,
        None => headers.contains_key(TRANSFER_ENCODING),
    };
    (is_large.then_some(Class::Body), false)
}

/// Reads a body, for a while, that nobody wants: a client that is still sending when its connection is closed would not
/// see the answer.
async fn discard(body: Incoming) {
    let mut body = Limited::new(body, BODY_BYTES_MAX);
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    // One that takes longer is not told.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, all).await;
}

/// Answers one request of a connection that has no place.
async fn refuse(stream: UnixStream, refused: Refusal) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        discard(request.into_body()).await;
        let mut response: Response<Body> = Failure::from(refused).into_response();
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    if let Err(error) = http().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a client was not told that there is no place for it");
    }
}

fn router(handle: Handle) -> Router {
    let v1 = Router::new()
        .route("/version", get(observe::version))
        .route("/info", get(observe::info))
        .route("/networks", get(networks::list).post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route("/networks/{network}", get(networks::inspect).delete(networks::remove))
        .route("/networks/{network}/connect", post(networks::connect))
        .route("/networks/{network}/disconnect", post(networks::disconnect))
        .route("/containers", get(containers::list).post(containers::run))
        .route("/containers/adopt", post(containers::adopt))
        .route("/containers/{container}", get(containers::inspect).delete(containers::remove))
        .route("/containers/{container}/start", post(containers::start))
        .route("/containers/{container}/stop", post(containers::stop))
        .route("/containers/{container}/restart", post(amend::restart))
        .route("/containers/{container}/rename", post(amend::rename))
        .route("/containers/{container}/update", post(amend::update))
        .route("/containers/{container}/top", get(amend::top))
        .route("/containers/{container}/kill", post(containers::kill))
        .route("/containers/{container}/wait", post(containers::wait))
        .route("/containers/{container}/logs", get(stream::logs))
        .route("/containers/{container}/attach", post(stream::attach))
        .route("/containers/{container}/exec", post(stream::exec))
        .route("/containers/{container}/exec/{exec}/kill", post(stream::kill_exec))
        .route("/ports", get(observe::ports))
        .route("/fdb", get(observe::fdb).post(observe::fdb_add).delete(observe::fdb_remove))
        .route("/fdb/flush", post(observe::fdb_flush))
        .route("/stats", get(observe::stats))
        .route("/problems", get(observe::problems))
        .route("/events", get(feed::events))
        .merge(cluster_routes())
        .with_state(handle);
    Router::new()
        .nest("/v1", v1)
        .fallback(failure::unknown_path)
        .method_not_allowed_fallback(failure::wrong_method)
}

fn cluster_routes() -> Router<Handle> {
    Router::new()
        .route("/cluster", get(cluster::status))
        .route("/cluster/init", post(cluster::init))
        .route("/cluster/join", post(cluster::join))
        .route("/cluster/leave", post(cluster::leave))
        .route("/cluster/transfer-leader", post(cluster::transfer_leader))
        .route("/cluster/token", get(cluster::token))
        .route("/cluster/token/rotate", post(cluster::rotate_token))
        .route("/cluster/ca/rotate", post(cluster::rotate_authority))
        .route("/cluster/health", get(cluster::health))
        .route("/cluster/hash", get(cluster::hash))
        .route("/cluster/snapshot", get(cluster::snapshot))
        .route("/cluster/snapshot/inspect", post(cluster::inspect_snapshot))
        .route("/cluster/snapshot/restore", post(cluster::restore_snapshot))
        .route("/nodes", get(nodes::list))
        .route("/nodes/{node}", delete(nodes::remove))
        .route("/nodes/{node}/promote", post(nodes::promote))
        .route("/nodes/{node}/demote", post(nodes::demote))
        .route("/nodes/{node}/address", put(nodes::update_address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_count_as_what_they_keep() {
        let class = |method: &str, path: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(path);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            class_of(&request.body(()).unwrap())
        };
        let plain = |method, path| class(method, path, &[]);
        assert_eq!(plain("GET", "/v1/events"), (Some(Class::Stream), false));
        for path in ["/v1/containers/c/logs?follow=true", "/v1/containers/c/attach", "/v1/containers/c/exec"]
        {
            assert_eq!(plain("POST", path), (Some(Class::Stream), true), "{path}");
        }
        assert_eq!(plain("POST", "/v1/containers/c/wait"), (Some(Class::Stream), false));
        assert_eq!(plain("POST", "/v1/cluster/snapshot/restore"), (Some(Class::Snapshot), false));
        assert_eq!(plain("GET", "/v1/cluster/snapshot"), (Some(Class::Snapshot), false));
        for path in [
            "/v1/containers/c/exec/3/kill",
            "/v1/containers/logs",
            "/v1/networks/events",
            "/v1/containers",
            "/",
            "/v1",
        ] {
            assert_eq!(plain("GET", path), (None, false), "{path}");
        }
        let body = |name, value| class("POST", "/v1/networks", &[(name, value)]).0;
        assert_eq!(body("content-length", "65536"), None);
        assert_eq!(body("content-length", "65537"), Some(Class::Body));
        assert_eq!(body("transfer-encoding", "chunked"), Some(Class::Body));
    }
}
