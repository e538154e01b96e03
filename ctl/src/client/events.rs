//! `GET /v1/events`: server-sent events (HTML standard, section 9.2.6), resumed after a broken connection with
//! `Last-Event-ID`.

use std::time::Duration;

use http_body_util::BodyExt;
use vswitch_proto::api::Event;

use super::{Call, Client};
use crate::failure::{FAILED, Failure, UNREACHABLE, complain};

/// Longest event, bytes.
const EVENT_BYTES_MAX: usize = 1 << 20;
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// One minute of attempts, after which the daemon counts as gone.
const RECONNECTS_MAX: u32 = 120;

/// Hands every event to `each` until that fails.
///
/// # Errors
/// What `each` says, or that the daemon could not be reached (again).
pub async fn follow_events(
    client: &Client,
    mut each: impl FnMut(&Event) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut parser = Parser::default();
    let mut last_id = None;
    let mut body = client.stream(Call::get(&["events"])).await?;
    loop {
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(bytes) = frame.into_data() else { continue };
            for data in parser.push(&bytes)? {
                let event: Event = serde_json::from_str(&data)
                    .map_err(|_| client.foreign("an event that is not of its API"))?;
                last_id = Some(event.seq.to_string());
                each(&event)?;
            }
        }
        complain("the connection to the daemon broke; connecting again");
        parser = Parser::default();
        body = reconnect(client, last_id.as_deref()).await?;
    }
}

async fn reconnect(client: &Client, last_id: Option<&str>) -> Result<hyper::body::Incoming, Failure> {
    let mut attempt = 0;
    loop {
        tokio::time::sleep(RECONNECT_PAUSE).await;
        attempt += 1;
        let mut call = Call::get(&["events"]);
        call.last_event_id = last_id.map(String::from);
        match client.stream(call).await {
            Err(failure) if failure.code() == UNREACHABLE && attempt < RECONNECTS_MAX => {}
            result => return result,
        }
    }
}

/// Cuts the stream into the data of its events. Comments and other fields are skipped: the position that
/// `Last-Event-ID` needs is in the data, too.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: Option<String>,
}

impl Parser {
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > EVENT_BYTES_MAX {
                    return Err(Failure::new(FAILED, "the daemon sent an event of more than 1 MiB"));
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            if line.is_empty() {
                events.extend(self.data.take());
            } else if let Some(text) = line.strip_prefix("data:") {
                let text = text.strip_prefix(' ').unwrap_or(text);
                let data = self.data.get_or_insert_default();
                if data.len() + text.len() > EVENT_BYTES_MAX {
                    return Err(Failure::new(FAILED, "the daemon sent an event of more than 1 MiB"));
                }
                let newline = if data.is_empty() { "" } else { "\n" };
                data.push_str(newline);
                data.push_str(text);
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_however_they_are_cut() {
        let stream = ": keep-alive\n\nid: 1\nevent: x\ndata: {\"a\":1}\n\ndata:one\r\ndata: two\r\n\r\ndata: unfinished\n";
        for step in [1, 2, 7, stream.len()] {
            let mut parser = Parser::default();
            let mut seen = Vec::new();
            for chunk in stream.as_bytes().chunks(step) {
                seen.extend(parser.push(chunk).unwrap());
            }
            assert_eq!(seen, ["{\"a\":1}", "one\ntwo"]);
        }
    }

    #[test]
    fn endless_events_are_refused() {
        assert!(Parser::default().push(&vec![b'x'; EVENT_BYTES_MAX + 1]).is_err());
        let mut parser = Parser::default();
        let line = [b"data:".to_vec(), vec![b'x'; EVENT_BYTES_MAX / 2], b"\n".to_vec()].concat();
        assert!(parser.push(&line).is_ok() && parser.push(&line).is_ok());
        assert!(parser.push(&line).is_err());
    }
}
