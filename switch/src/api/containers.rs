//! `/v1/containers`.

use std::time::{Duration, SystemTime};

use axum::Json as Answer;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use serde::Deserialize;
use vswitch_proto::api::{Adopt, Container, ContainerSummary, Created, Exit, Run};

use super::failure::{Caller, Failure, Forced, Json, invalid, query, request_id};
use super::networks::warned;
use super::{settings, view};
use crate::daemon::{Change, Handle};
use crate::state::Phase;

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    all: bool,
}

pub async fn list(State(handle): State<Handle>, uri: Uri) -> Result<Answer<Vec<ContainerSummary>>, Failure> {
    let List { all } = query(&uri)?;
    let snapshot = handle.snapshot();
    let now = SystemTime::now();
    let is_restarting = |c: &crate::state::Container| handle.is_restarting(&c.id);
    let shown = snapshot.local.containers().filter(|c| all || c.phase == Phase::Running || is_restarting(c));
    let shown = shown.filter(|c| view::is_shown(&snapshot.local, c));
    let mut rows: Vec<_> = shown.collect();
    rows.sort_by_key(|container| std::cmp::Reverse(container.created_at_ms));
    let row = |container| {
        let row = view::summary(snapshot.view(), container, now);
        if is_restarting(container) { settings::restarting_summary(row) } else { row }
    };
    Ok(Answer(rows.into_iter().map(row).collect()))
}

pub async fn inspect(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
) -> Result<Answer<Container>, Failure> {
    let snapshot = handle.snapshot();
    let container = handle.find_container(&snapshot.local, &reference)?;
    let dir = handle.container_dir(&container.id);
    let pid = if container.phase == Phase::Running { handle.pid(&container.id) } else { 0 };
    let shown = view::container(snapshot.view(), container, pid, &dir);
    let is_restarting = handle.is_restarting(&container.id);
    Ok(Answer(if is_restarting { settings::restarting(shown) } else { shown }))
}

pub async fn run(
    Caller(handle): Caller,
    headers: HeaderMap,
    Json(request): Json<Run>,
) -> Result<(StatusCode, Answer<Created>), Failure> {
    let created = handle.change(Change::Run(request), request_id(&headers)?).await?.created();
    Ok((StatusCode::CREATED, Answer(created)))
}

pub async fn adopt(
    Caller(handle): Caller,
    headers: HeaderMap,
    Json(request): Json<Adopt>,
) -> Result<(StatusCode, Answer<Created>), Failure> {
    let created = handle.change(Change::Adopt(request), request_id(&headers)?).await?.created();
    Ok((StatusCode::CREATED, Answer(created)))
}

pub async fn start(
    Caller(handle): Caller,
    Path(reference): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let done = handle.change(Change::Start(reference), request_id(&headers)?).await?;
    Ok(warned(done.warnings()))
}

pub async fn remove(
    Caller(handle): Caller,
    Path(reference): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<StatusCode, Failure> {
    let Forced { force } = query(&uri)?;
    handle.change(Change::Remove { reference, force }, request_id(&headers)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Without a time, that of the container.
#[derive(Deserialize)]
pub(super) struct Stop {
    #[serde(default)]
    timeout_s: Option<u32>,
}

impl Stop {
    pub(super) fn patience(&self) -> Option<Duration> {
        self.timeout_s.map(|s| Duration::from_secs(s.into()))
    }
}

pub async fn stop(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Failure> {
    handle.stop(&reference, query::<Stop>(&uri)?.patience()).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
pub struct Kill {
    #[serde(default = "kill_signal")]
    signal: String,
}

/// The number of the signal that is asked for.
pub fn signal(Kill { signal }: &Kill) -> Result<i32, Failure> {
    signal_number(signal).ok_or_else(|| {
        invalid(format!("{signal:?} is not a signal; give a name such as TERM or a number from 1 to 64"))
    })
}

fn kill_signal() -> String {
    "KILL".into()
}

pub async fn kill(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
    uri: Uri,
) -> Result<StatusCode, Failure> {
    let number = signal(&query(&uri)?)?;
    handle.kill(&reference, number).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `TERM`, `SIGTERM` or `15`.
fn signal_number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

pub async fn wait(
    State(handle): State<Handle>,
    Path(reference): Path<String>,
) -> Result<Answer<Exit>, Failure> {
    Ok(Answer(handle.wait(&reference).await?))
}

#[cfg(test)]
mod tests {
    use super::signal_number;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [("TERM", Some(15)), ("sigkill", Some(9)), ("2", Some(2)), ("64", Some(64))] {
            assert_eq!(signal_number(text), number);
        }
        for bad in ["", "0", "65", "-9", "SIG", "SIGSIGTERM", "NOPE"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
    }
}
