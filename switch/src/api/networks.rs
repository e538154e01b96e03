//! `/v1/networks`.

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use vswitch_proto::api::{
    Connect, Created, Disconnect, Network, NetworkCreate, NetworkPrune, Pruned, Warned,
};

use super::failure::{Caller, Failure, Forced, Json, query, request_id};
use super::view;
use crate::daemon::{Change, Handle};

pub async fn list(State(handle): State<Handle>) -> Answer<Vec<Network>> {
    let snapshot = handle.snapshot();
    let networks = snapshot.view().networks();
    Answer(networks.map(|network| view::network(snapshot.view(), network)).collect())
}

pub async fn inspect(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
) -> Result<Answer<Network>, Failure> {
    let snapshot = handle.snapshot();
    let network = handle.find_network(snapshot.view(), &reference)?;
    Ok(Answer(view::network(snapshot.view(), network)))
}

pub async fn create(
    Caller(handle): Caller,
    headers: HeaderMap,
    Json(request): Json<NetworkCreate>,
) -> Result<(StatusCode, Answer<Created>), Failure> {
    let created = handle.change(Change::CreateNetwork(request), request_id(&headers)?).await?.created();
    Ok((StatusCode::CREATED, Answer(created)))
}

pub async fn remove(
    Caller(handle): Caller,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let Forced { force } = query(&uri)?;
    handle.change(Change::RemoveNetwork { reference, force }, request_id(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub async fn prune(
    Caller(handle): Caller,
    headers: HeaderMap,
    Json(filter): Json<NetworkPrune>,
) -> Result<Answer<Pruned>, Failure> {
    let networks = handle.change(Change::PruneNetworks(filter), request_id(&headers)?).await?.pruned();
    Ok(Answer(Pruned { networks }))
}

/// No content, unless there is something to warn of.
pub fn warned(warnings: Vec<String>) -> Response {
    if warnings.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    Answer(Warned { warnings }).into_response()
}

pub async fn connect(
    Caller(handle): Caller,
    Path(network): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Connect>,
) -> Result<Response, Failure> {
    let done = handle.change(Change::Connect { network, request }, request_id(&headers)?).await?;
    Ok(warned(done.warnings()))
}

pub async fn disconnect(
    Caller(handle): Caller,
    Path(network): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Disconnect>,
) -> Result<StatusCode, Failure> {
    handle.change(Change::Disconnect { network, request }, request_id(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
