//! `/v1/cluster`: this node in its cluster, and the cluster as a whole.

use axum::Json as Answer;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use vswitch_proto::api::{
    AuthorityRotation, ClusterFounded, ClusterHash, ClusterHealth, ClusterInit, ClusterJoin, ClusterJoined,
    ClusterStatus, ClusterToken, SnapshotSummary, TransferLeader,
};
use vswitch_proto::command::Role;

use super::failure::{Failure, Json, Snapshot, query};
use crate::cluster::service;
use crate::daemon::Handle;

#[derive(Deserialize)]
struct Look {
    #[serde(default)]
    stale: bool,
}

#[derive(Deserialize)]
pub struct Force {
    #[serde(default)]
    pub force: bool,
}

#[derive(Deserialize)]
struct Of {
    #[serde(default = "voter")]
    role: Role,
}

fn voter() -> Role {
    Role::Voter
}

/// To its end, also when the client goes away meanwhile: half of it would be worse than all or nothing.
pub async fn whole<T: Send + 'static>(
    work: impl Future<Output = Result<T, Failure>> + Send + 'static,
) -> Result<T, Failure> {
    tokio::spawn(work).await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

pub async fn status(State(handle): State<Handle>, uri: Uri) -> Result<Answer<ClusterStatus>, Failure> {
    let Look { stale } = query(&uri)?;
    Ok(Answer(handle.cluster().status(stale).await))
}

pub async fn init(
    State(handle): State<Handle>,
    Json(ClusterInit {}): Json<ClusterInit>,
) -> Result<(StatusCode, Answer<ClusterFounded>), Failure> {
    let founded = whole(async move { Ok(handle.cluster().init().await?) }).await?;
    Ok((StatusCode::CREATED, Answer(founded)))
}

pub async fn join(
    State(handle): State<Handle>,
    Json(request): Json<ClusterJoin>,
) -> Result<Answer<ClusterJoined>, Failure> {
    whole(async move { Ok(Answer(handle.cluster().join(&request).await?)) }).await
}

pub async fn leave(State(handle): State<Handle>, uri: Uri) -> Result<StatusCode, Failure> {
    let Force { force } = query(&uri)?;
    whole(async move { Ok(handle.leave_cluster(force).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn transfer_leader(
    State(handle): State<Handle>,
    Json(TransferLeader { to }): Json<TransferLeader>,
) -> Result<StatusCode, Failure> {
    whole(async move { Ok(handle.cluster().transfer_leader(to.as_deref()).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn token(State(handle): State<Handle>, uri: Uri) -> Result<Answer<ClusterToken>, Failure> {
    let Of { role } = query(&uri)?;
    Ok(Answer(handle.cluster().token(role).await?))
}

pub async fn rotate_token(State(handle): State<Handle>, uri: Uri) -> Result<Answer<ClusterToken>, Failure> {
    let Of { role } = query(&uri)?;
    whole(async move { Ok(Answer(handle.cluster().rotate_token(role).await?)) }).await
}

#[derive(Deserialize)]
struct Finish {
    #[serde(default)]
    finish: bool,
}

pub async fn rotate_authority(
    State(handle): State<Handle>,
    uri: Uri,
) -> Result<Answer<AuthorityRotation>, Failure> {
    let Finish { finish } = query(&uri)?;
    whole(async move {
        let cluster = handle.cluster();
        let rotation =
            if finish { cluster.drop_former_authority().await } else { cluster.rotate_authority().await };
        Ok(Answer(rotation?))
    })
    .await
}

pub async fn health(State(handle): State<Handle>) -> Result<Answer<ClusterHealth>, Failure> {
    Ok(Answer(handle.cluster().health().await?))
}

pub async fn hash(State(handle): State<Handle>) -> Result<Answer<ClusterHash>, Failure> {
    Ok(Answer(handle.cluster().hash().await?))
}

pub async fn snapshot(State(handle): State<Handle>) -> Result<Response, Failure> {
    let bytes = handle.cluster().save_snapshot().await?;
    Ok(([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

pub async fn inspect_snapshot(Snapshot(bytes): Snapshot) -> Result<Answer<SnapshotSummary>, Failure> {
    // Tens of megabytes are digested and decoded.
    let summary = tokio::task::spawn_blocking(move || service::inspect(&bytes)).await;
    let summary = summary.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    Ok(Answer(summary?))
}

pub async fn restore_snapshot(
    State(handle): State<Handle>,
    Snapshot(bytes): Snapshot,
) -> Result<(StatusCode, Answer<ClusterFounded>), Failure> {
    let founded = whole(async move { Ok(handle.cluster().restore(&bytes).await?) }).await?;
    Ok((StatusCode::CREATED, Answer(founded)))
}
