//! `/v1/containers/{ref}/` `restart`, `rename`, `update` and `top`.

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use vswitch_proto::api::{Top, Update};
use vswitch_proto::id::Name;

use super::containers::Stop;
use super::failure::{Failure, Json, query, request_id};
use super::networks::warned;
use crate::daemon::{Change, Handle};

pub async fn restart(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    uri: Uri,
) -> Result<Response, Failure> {
    let done = handle.restart(&reference, query::<Stop>(&uri)?.patience()).await?;
    Ok(warned(done.warnings()))
}

#[derive(Deserialize)]
struct NewName {
    name: Name,
}

pub async fn rename(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let NewName { name } = query(&uri)?;
    handle.change(Change::Rename { reference, name }, request_id(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn update(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Update>,
) -> Result<StatusCode, Failure> {
    handle.change(Change::Update { reference, request }, request_id(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn top(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
) -> Result<Answer<Top>, Failure> {
    Ok(Answer(handle.top(&reference).await?))
}
