//! What the switch knows and counts: `/v1/version`, `/v1/info`, `/v1/ports`, `/v1/fdb`, `/v1/stats`, `/v1/problems`.

use std::sync::Arc;

use axum::Json as Answer;
use axum::extract::Extension;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use serde::Deserialize;
use vswitch_proto::api::{FdbChange, FdbEntry, FdbFlush, Flushed, Info, Port, Problem, Stats, Version};

use super::admission::Connection;
use super::failure::{Failure, Json, query};
use crate::daemon::Handle;

pub async fn version(State(handle): State<Handle>) -> Answer<Version> {
    Answer(handle.version())
}

/// What does not work on this node at present.
pub async fn problems(State(handle): State<Handle>) -> Answer<Vec<Problem>> {
    Answer(handle.cluster().faults())
}

pub async fn info(
    State(handle): State<Handle>,
    Extension(connection): Extension<Arc<Connection>>,
) -> Answer<Info> {
    let mut info = handle.info().await;
    let occupancy = connection.occupancy();
    let limits = &mut info.limits;
    (limits.connections, limits.connections_max) = (occupancy.connections, occupancy.connections_max);
    (limits.streams, limits.streams_max) = (occupancy.streams, occupancy.streams_max);
    (limits.refusals, limits.evictions) = (occupancy.refusals, occupancy.evictions);
    Answer(info)
}

pub async fn ports(State(handle): State<Handle>) -> Answer<Vec<Port>> {
    Answer(handle.ports())
}

#[derive(Deserialize)]
struct Show {
    network: Option<String>,
}

pub async fn fdb(State(handle): State<Handle>, uri: Uri) -> Result<Answer<Vec<FdbEntry>>, Failure> {
    let Show { network } = query(&uri)?;
    Ok(Answer(handle.fdb_entries(network.as_deref())?))
}

pub async fn fdb_add(
    State(handle): State<Handle>,
    Json(change): Json<FdbChange>,
) -> Result<StatusCode, Failure> {
    handle.fdb_add(&change)?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn fdb_remove(
    State(handle): State<Handle>,
    Json(change): Json<FdbChange>,
) -> Result<StatusCode, Failure> {
    handle.fdb_remove(&change)?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn fdb_flush(
    State(handle): State<Handle>,
    Json(flush): Json<FdbFlush>,
) -> Result<Answer<Flushed>, Failure> {
    let entries = handle.fdb_flush(flush.network.as_deref())?;
    Ok(Answer(Flushed { entries }))
}

pub async fn stats(State(handle): State<Handle>) -> Answer<Stats> {
    Answer(handle.stats())
}
