//! `/v1/events`: every change as a server-sent event.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use tokio_stream::Stream;
use tokio_stream::StreamExt;

use super::failure::{Failure, invalid};
use crate::daemon::Handle;

pub async fn events(
    State(handle): State<Handle>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    let after = match headers.get("last-event-id") {
        None => None,
        Some(value) => {
            let seq = value.to_str().ok().and_then(|text| text.parse::<u64>().ok());
            Some(seq.ok_or_else(|| invalid("Last-Event-ID is not the id of an event"))?)
        }
    };
    let events = handle.feed().subscribe(after).map(|event| {
        let data = serde_json::to_string(&event).expect("an event has only string keys");
        Ok(Event::default().id(event.seq.to_string()).event(&event.kind).data(data))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}
