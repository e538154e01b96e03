//! HTTP/1.1 over the daemon's socket, by hand: a client library would refuse to send what hostile clients send.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use vswitch_proto::api::{Error, ErrorKind, Event};

use crate::wait::DEADLINE;

#[derive(Debug, Clone)]
pub struct Request {
    head: String,
    body: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Names are in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Request {
        Request { head: format!("{method} {path} HTTP/1.1\r\nHost: vswitch\r\n"), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// With a JSON body, unless it is empty.
    pub fn json(mut self, body: &str) -> Request {
        if body.is_empty() {
            return self;
        }
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Content-Type", "application/json").header("Content-Length", &length)
    }

    /// With a body of no declared type, as a Docker engine sends it.
    pub fn body(mut self, body: &str) -> Request {
        self.body = body.into();
        let length = self.body.len().to_string();
        self.header("Accept", "application/vnd.docker.plugins.v1.2+json").header("Content-Length", &length)
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), b"Connection: close\r\n\r\n", &self.body].concat()
    }

    pub fn send(&self, socket: &Path) -> anyhow::Result<Answer> {
        let mut stream = connect(socket)?;
        // The daemon may refuse a request before it has read all of it; then its answer counts.
        let sent = stream.write_all(&self.to_bytes());
        let mut reader = BufReader::new(stream);
        match Answer::read_head(&mut reader) {
            Ok(mut answer) => {
                reader.read_to_string(&mut answer.body)?;
                Ok(answer)
            }
            Err(error) => Err(sent.err().map_or(error, Into::into)),
        }
    }

    /// Opens the stream of events that this request asks for.
    pub fn events(&self, socket: &Path) -> anyhow::Result<Events> {
        let mut stream = connect(socket)?;
        stream.write_all(&self.to_bytes())?;
        let mut reader = BufReader::new(stream);
        let answer = Answer::read_head(&mut reader)?;
        let kind = answer.headers.get("content-type").map_or("", String::as_str);
        if answer.status != 200 || !kind.starts_with("text/event-stream") {
            bail!("not a stream of events: {answer:?}");
        }
        Ok(Events(reader))
    }
}

impl Answer {
    /// Reads what comes before the body.
    pub fn read_head(reader: &mut impl BufRead) -> anyhow::Result<Answer> {
        let status_line = read_line(reader)?;
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("not a status line: {status_line:?}"))?;
        let mut headers = BTreeMap::new();
        loop {
            let line = read_line(reader)?;
            match line.split_once(": ") {
                Some((name, value)) => headers.insert(name.to_lowercase(), value.into()),
                None => return Ok(Answer { status, headers, body: String::new() }),
            };
        }
    }

    /// # Panics
    /// Unless the request succeeded and the body is what the API says.
    pub fn parsed<T: DeserializeOwned>(&self) -> T {
        assert!((200..300).contains(&self.status), "{self:?}");
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// # Panics
    /// Unless this is an error in the form that the API promises: its kind fixes the status, its message is one line.
    pub fn error(&self) -> (ErrorKind, String) {
        let error: Error = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        assert_eq!(self.status, error.kind.http_status(), "{self:?}");
        assert!(!error.message.is_empty() && !error.message.contains('\n'), "{self:?}");
        (error.kind, error.message)
    }
}

/// A connection that gives up when the daemon hangs.
pub fn connect(socket: &Path) -> anyhow::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// A stream of server-sent events (WHATWG HTML section 9.2).
pub struct Events(BufReader<UnixStream>);

impl Events {
    /// The next event, with the id that the stream gave it. Chunk boundaries and comments are skipped.
    pub fn next_event(&mut self) -> anyhow::Result<(u64, Event)> {
        let (mut id, mut data) = (None, None);
        loop {
            let line = read_line(&mut self.0).context("the stream of events stopped")?;
            if let Some(value) = line.strip_prefix("id:") {
                id = Some(value.trim().parse().with_context(|| format!("id {value:?}"))?);
            } else if let Some(value) = line.strip_prefix("data:") {
                data = Some(serde_json::from_str(value).with_context(|| value.to_string())?);
            }
            if line.is_empty()
                && let (Some(id), Some(event)) = (id, data.take())
            {
                return Ok((id, event));
            }
        }
    }

    /// Events up to and with the first one that `last` accepts.
    pub fn until(&mut self, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut seen = Vec::new();
        loop {
            let (id, event) = self.next_event().unwrap_or_else(|e| panic!("{e:#}; before: {seen:#?}"));
            assert_eq!(id, event.seq, "the id of an event is its position");
            seen.push(event);
            if seen.last().is_some_and(&last) {
                return seen;
            }
        }
    }
}

/// A line without its end; an error at the end of the stream.
fn read_line(reader: &mut impl BufRead) -> anyhow::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        bail!("the daemon closed the connection");
    }
    Ok(line.trim_end_matches(['\r', '\n']).into())
}
