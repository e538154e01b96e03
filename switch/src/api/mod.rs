//! The HTTP API on a unix socket. What each path takes and gives is written at [`vswitch_proto::api`].
//!
//! Reads are answered from the published state without a detour through the control loop; everything that changes
//! something is a [`Change`](crate::daemon::Change) that the loop handles in order. The cluster is asked directly: it
//! keeps its own order, and waiting for other nodes holds nobody up. Bounds: at most [`CONNECTIONS_MAX`] connections
//! at a time (more wait in the listener's backlog), a head within [`HEAD_TIMEOUT`], a body of at most
//! [`BODY_BYTES_MAX`](vswitch_proto::api::BODY_BYTES_MAX) bytes, a snapshot of at most
//! [`SNAPSHOT_BYTES_MAX`](vswitch_proto::api::SNAPSHOT_BYTES_MAX).

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, post, put};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::daemon::Handle;

mod cluster;
mod containers;
pub mod docker;
mod failure;
mod feed;
mod networks;
mod nodes;
mod observe;
mod relay;
mod stream;
pub mod view;

/// More connections than this at a time wait.
pub const CONNECTIONS_MAX: usize = 1024;

/// How long a client may take to send the head of a request.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let router = router(handle);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((connection, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    serve_connection(connection, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: let others finish first.
                tracing::warn!(%error, "cannot accept a connection on the API socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(connection: UnixStream, router: Router) {
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(64 << 10)
        .serve_connection(TokioIo::new(connection), TowerToHyperService::new(router))
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "an API connection ended");
    }
}

fn router(handle: Handle) -> Router {
    let v1 = Router::new()
        .route("/version", get(observe::version))
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
