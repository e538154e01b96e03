//! `/v1/nodes`: the nodes of the cluster, each by its name or number.

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use vswitch_proto::api::{Node, NodeAddress};

use super::cluster::{Force, whole};
use super::failure::{Failure, Json, query};
use crate::daemon::Handle;

pub async fn list(State(handle): State<Handle>) -> Result<Answer<Vec<Node>>, Failure> {
    Ok(Answer(handle.cluster().nodes().await?))
}

pub async fn promote(State(handle): State<Handle>, Path(node): Path<String>) -> Result<StatusCode, Failure> {
    whole(async move { Ok(handle.cluster().promote(&node).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn demote(State(handle): State<Handle>, Path(node): Path<String>) -> Result<StatusCode, Failure> {
    whole(async move { Ok(handle.cluster().demote(&node).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn remove(
    State(handle): State<Handle>,
    Path(node): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Failure> {
    let Force { force } = query(&uri)?;
    whole(async move { Ok(handle.cluster().remove(&node, force).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn update_address(
    State(handle): State<Handle>,
    Path(node): Path<String>,
    Json(NodeAddress { address }): Json<NodeAddress>,
) -> Result<StatusCode, Failure> {
    whole(async move { Ok(handle.cluster().update_address(&node, address).await?) }).await?;
    Ok(StatusCode::NO_CONTENT)
}
