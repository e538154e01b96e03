//! The plugin side of a Docker engine: HTTP on a unix socket, one path per call, written at [`vswitch_proto::docker`].
//!
//! The engine waits for an answer for as long as it takes, and keeps others waiting meanwhile. So every call is answered
//! within `DEADLINE`, with an error if need be; what it asked for may still come to pass, and asked again is answered
//! as done. Longer may take what needs a leader of the cluster when the daemon has just started, see
//! [`Handle::wait_for_leader`]. A connection that idles is never closed from here: the engine might repeat a call on it
//! without its body.
//!
//! Errors have status 200: the engine then shows their text as it is. Bounds: bodies of `BODY_BYTES_MAX`, and as many
//! connections and large bodies as `Bounds::of_plugin` says; one that has sent half a request gives way to others.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use vswitch_proto::docker::{
    ADDRESS_SPACE, AddressSpaces, Answer, Call, DriverCapabilities, IpamCapabilities, MEDIA_TYPE, Manifest,
    OperInfo,
};

use super::admission::bounds::SMALL_BODY_BYTES_MAX;
use super::admission::{Bounds, Class, Connection, Gate, Refusal, Socket};
use crate::daemon::Handle;

/// For the rest of a request after its head.
const RECEIVE_PATIENCE: Duration = Duration::from_secs(2);

/// For what a request asks for. On a busy host the kernel takes seconds to make and remove interfaces when tens of
/// containers start or end at once: its lock for that (RTNL) is one for the whole host.
const DEADLINE: Duration = Duration::from_secs(10);

/// From the head of a request until what it asks of the cluster is given up. The rest is for telling the engine why.
const CLUSTER_PATIENCE: Duration = Duration::from_millis(1500);

/// A container's published ports come twice, with some hundred bytes for each: all that a protocol has are 6.5 MB.
const BODY_BYTES_MAX: usize = 8 << 20;

/// Of a body, in the log.
const LOGGED_BYTES_MAX: usize = 4 << 10;

const IPAM: &str = "/IpamDriver.";

/// What a request turns out to be.
enum Asked {
    /// Answered without a look at anything.
    Fixed(Vec<u8>),
    Call(Call),
}

/// Why a request is not carried out.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("{0} is no call of a network or address plugin")]
    NoSuchCall(String),
    #[error("{call}: the request has no body; the engine has lost it, try again")]
    Empty { call: String },
    #[error("{call}: {reason}")]
    Malformed { call: String, reason: String },
}

/// Serves until the task is dropped, and its connections with it.
pub async fn serve(listener: UnixListener, handle: Handle) {
    let gate = Arc::new(Gate::new(Bounds::of_plugin(handle.descriptors_max())));
    let mut connections = JoinSet::new();
    loop {
        let (stream, admitted) = gate.accept(&listener).await;
        while connections.try_join_next().is_some() {}
        match admitted {
            Ok(connection) => {
                let handle = handle.clone().of(connection.client());
                connections.spawn(serve_connection(stream, connection, handle));
            }
            Err(refused) => {
                tracing::warn!(%refused, "a connection to the plugin socket was refused");
                let gate = Arc::clone(&gate);
                connections.spawn(async move { gate.turn_away(refuse(stream, refused)).await });
            }
        }
    }
}

async fn serve_connection(stream: UnixStream, connection: Arc<Connection>, handle: Handle) {
    let socket = Socket::new(stream, Arc::clone(&connection));
    let of_requests = Arc::clone(&connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let (handle, connection) = (handle.clone(), Arc::clone(&of_requests));
        async move {
            let bytes = request.body().size_hint().upper().unwrap_or(u64::MAX);
            let class = (bytes > SMALL_BODY_BYTES_MAX).then_some(Class::Body);
            let response = match connection.begin(class, false) {
                Ok(working) => working.with(answer(&handle, request).await.map(Body::new)),
                Err(refused) => too_many(refused),
            };
            Ok::<_, Infallible>(response)
        }
    });
    let served = http1::Builder::new().max_buf_size(64 << 10).serve_connection(TokioIo::new(socket), service);
    tokio::select! {
        served = served => {
            if let Err(error) = served {
                tracing::debug!(%error, "a connection of the engine ended");
            }
        }
        () = connection.evicted() => tracing::warn!("a connection to the plugin socket with half a request gave way"),
    }
}

/// Answers one request of a connection that has no place.
async fn refuse(stream: UnixStream, refused: Refusal) {
    let service = service_fn(move |_: Request<Incoming>| async move {
        let mut response = too_many(refused);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Ok::<_, Infallible>(response)
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a client was not told that there is no place for it");
    }
}

/// With both drivers' keys for an error, whichever was called.
fn too_many(refused: Refusal) -> Response<Body> {
    let message = refused.to_string();
    let body = json(&serde_json::json!({ "Err": message, "Error": message }));
    response(StatusCode::TOO_MANY_REQUESTS, body).map(Body::new)
}

async fn answer(handle: &Handle, request: Request<Incoming>) -> Response<Full<Bytes>> {
    handle.engine_calls();
    let path = request.uri().path().to_owned();
    let asked = timeout(RECEIVE_PATIENCE, receive(request, &path)).await;
    let answer = match asked {
        Ok(Ok(Asked::Fixed(body))) => Ok(body),
        Ok(Ok(Asked::Call(call))) => {
            handle.wait_for_leader(&call).await;
            in_time(&path, |until| carry_out(handle, call, until)).await
        }
        Ok(Err(message)) => Err(message),
        Err(_) => Err(late(&path, RECEIVE_PATIENCE)),
    };
    match answer {
        Ok(body) => response(StatusCode::OK, body),
        Err(message) => {
            tracing::warn!(call = path, message, "refused a call of the Docker engine");
            let status = if is_known(&path) { StatusCode::OK } else { StatusCode::NOT_FOUND };
            response(status, refusal(&path, &message))
        }
    }
}

fn late(path: &str, patience: Duration) -> String {
    format!("vswitchd did not get to {path} within {} s; try again", patience.as_secs())
}

/// What comes of it by the deadline. It is told when to give up what it asks of the cluster.
async fn in_time<F>(path: &str, carry_out: impl FnOnce(Instant) -> F) -> Result<Vec<u8>, String>
where
    F: Future<Output = Result<Vec<u8>, String>>,
{
    let done = timeout(DEADLINE, carry_out(Instant::now() + CLUSTER_PATIENCE)).await;
    done.unwrap_or_else(|_| Err(late(path, DEADLINE)))
}

async fn receive(request: Request<Incoming>, path: &str) -> Result<Asked, String> {
    if request.method() != Method::POST {
        return Err(format!("{path} takes POST only"));
    }
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("{path}: the request cannot be read: {error}"))?.to_bytes();
    let told = &body[..body.len().min(LOGGED_BYTES_MAX)];
    tracing::debug!(call = path, body = %String::from_utf8_lossy(told), "the Docker engine asks");
    parse(path, &body).map_err(|refused| refused.to_string())
}

async fn carry_out(handle: &Handle, call: Call, until: Instant) -> Result<Vec<u8>, String> {
    let answer = handle.docker(call, until).await.map_err(|error| error.message)?;
    Ok(json(&answer))
}

/// The calls that there are, for fuzzing: whatever comes is refused or a call.
pub fn check(path: &str, body: &[u8]) -> Result<(), Refused> {
    parse(path, body).map(|_| ())
}

fn parse(path: &str, body: &[u8]) -> Result<Asked, Refused> {
    if let Some(answer) = always(path) {
        if !is_empty(body) {
            read::<BTreeMap<String, IgnoredAny>>(path, body)?;
        }
        return Ok(Asked::Fixed(answer));
    }
    let call = match path {
        "/NetworkDriver.CreateNetwork" => Call::CreateNetwork(read(path, body)?),
        "/NetworkDriver.DeleteNetwork" => Call::DeleteNetwork(read(path, body)?),
        "/NetworkDriver.CreateEndpoint" => Call::CreateEndpoint(read(path, body)?),
        "/NetworkDriver.DeleteEndpoint" => Call::DeleteEndpoint(read(path, body)?),
        "/NetworkDriver.Join" => Call::Join(read(path, body)?),
        "/NetworkDriver.Leave" => Call::Leave(read(path, body)?),
        "/IpamDriver.RequestPool" => Call::RequestPool(read(path, body)?),
        "/IpamDriver.ReleasePool" => Call::ReleasePool(read(path, body)?),
        "/IpamDriver.RequestAddress" => Call::RequestAddress(read(path, body)?),
        "/IpamDriver.ReleaseAddress" => Call::ReleaseAddress(read(path, body)?),
        _ => return Err(Refused::NoSuchCall(path.into())),
    };
    Ok(Asked::Call(call))
}

/// What a call is answered with whatever its body says. It may have none.
fn always(path: &str) -> Option<Vec<u8>> {
    let answer = match path {
        "/Plugin.Activate" => json(&Manifest { implements: ["NetworkDriver", "IpamDriver"] }),
        "/NetworkDriver.GetCapabilities" => {
            json(&DriverCapabilities { scope: "local", connectivity_scope: "global" })
        }
        "/NetworkDriver.EndpointOperInfo" => json(&OperInfo { value: Default::default() }),
        "/NetworkDriver.ProgramExternalConnectivity"
        | "/NetworkDriver.RevokeExternalConnectivity"
        | "/NetworkDriver.DiscoverNew"
        | "/NetworkDriver.DiscoverDelete" => json(&Answer::NOTHING),
        "/IpamDriver.GetCapabilities" => {
            json(&IpamCapabilities { requires_mac_address: true, requires_request_replay: false })
        }
        "/IpamDriver.GetDefaultAddressSpaces" => json(&AddressSpaces {
            local_default_address_space: ADDRESS_SPACE,
            global_default_address_space: ADDRESS_SPACE,
        }),
        _ => return None,
    };
    Some(answer)
}

fn is_empty(body: &[u8]) -> bool {
    body.trim_ascii().is_empty()
}

/// The engine takes 404 for "this plugin does without that call".
fn is_known(path: &str) -> bool {
    !matches!(parse(path, b""), Err(Refused::NoSuchCall(_)))
}

fn read<T: DeserializeOwned>(path: &str, body: &[u8]) -> Result<T, Refused> {
    let call = || path.trim_start_matches('/').to_owned();
    if is_empty(body) {
        return Err(Refused::Empty { call: call() });
    }
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Refused::Malformed { call: call(), reason: "the body is no JSON object".into() });
    }
    serde_json::from_slice(body).map_err(|e| Refused::Malformed { call: call(), reason: e.to_string() })
}

fn json(answer: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(answer).expect("answers are plain data")
}

fn refusal(path: &str, message: &str) -> Vec<u8> {
    let key = if path.starts_with(IPAM) { "Error" } else { "Err" };
    json(&serde_json::json!({ key: message }))
}

fn response(status: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_from_nonsense() {
        assert!(matches!(parse("/Plugin.Activate", b""), Ok(Asked::Fixed(_))));
        for body in [&b""[..], b" \n", b"{}", br#"{"DiscoveryType":1,"DiscoveryData":{"Self":true}}"#] {
            assert!(matches!(parse("/NetworkDriver.DiscoverNew", body), Ok(Asked::Fixed(_))), "{body:?}");
        }
        for body in [&b"\xff"[..], b"null", b"[]", b"7", b"{", b"{}{}"] {
            let refused = check("/NetworkDriver.DiscoverNew", body);
            assert!(matches!(refused, Err(Refused::Malformed { .. })), "{body:?}: {refused:?}");
        }
        assert!(matches!(check("/IpamDriver.RequestPool", b"[]"), Err(Refused::Malformed { .. })));
        assert_eq!(
            check("/NetworkDriver.Join", b" \n"),
            Err(Refused::Empty { call: "NetworkDriver.Join".into() })
        );
        assert!(matches!(check("/IpamDriver.RequestPool", b"{"), Err(Refused::Malformed { .. })));
        assert!(matches!(parse("/IpamDriver.RequestPool", b"{}"), Ok(Asked::Call(Call::RequestPool(_)))));
        assert!(matches!(check("/NetworkDriver.AllocateNetwork", b"{}"), Err(Refused::NoSuchCall(_))));
        assert!(is_known("/NetworkDriver.Join") && !is_known("/VolumeDriver.Create"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_answered_in_time_whatever_it_waits_for() {
        let start = Instant::now();
        let late = in_time("/NetworkDriver.Join", |_| std::future::pending()).await;
        assert_eq!(start.elapsed().as_secs(), DEADLINE.as_secs());
        assert!(late.unwrap_err().contains("/NetworkDriver.Join within 10 s"));
        // What the cluster does not answer ends before, with its own reason.
        let start = Instant::now();
        let refused = in_time("/IpamDriver.RequestAddress", |until| async move {
            tokio::time::sleep_until(until).await;
            Err::<Vec<u8>, String>("no quorum".into())
        });
        assert_eq!(refused.await, Err("no quorum".into()));
        assert!(start.elapsed() < DEADLINE);
    }

    #[test]
    fn each_driver_has_its_own_word_for_errors() {
        assert_eq!(refusal("/IpamDriver.RequestPool", "no"), br#"{"Error":"no"}"#);
        assert_eq!(refusal("/NetworkDriver.Join", "no"), br#"{"Err":"no"}"#);
    }
}
