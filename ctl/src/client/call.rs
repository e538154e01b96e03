//! One request to the daemon, as data.

use std::time::Duration;

use hyper::Method;
use hyper::body::Bytes;
use serde::Serialize;

/// How long an answer may take when nothing in the request makes it wait.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    pub uri: String,
    pub body: Bytes,
    pub content_type: &'static str,
    /// `None` for what lasts as long as a container does.
    pub timeout: Option<Duration>,
    /// Repeated with this key, it is applied once.
    pub key: Option<String>,
    pub last_event_id: Option<String>,
}

impl Call {
    fn new(method: Method, segments: &[&str]) -> Call {
        let mut uri = String::from("/v1");
        for segment in segments {
            uri.push('/');
            encode(segment, &mut uri);
        }
        let key = (method != Method::GET).then(|| format!("{:032x}", rand::random::<u128>()));
        Call {
            method,
            uri,
            body: Bytes::new(),
            content_type: "application/json",
            timeout: Some(ANSWER_TIMEOUT),
            key,
            last_event_id: None,
        }
    }

    pub fn get(segments: &[&str]) -> Call {
        Call::new(Method::GET, segments)
    }

    pub fn post(segments: &[&str]) -> Call {
        Call::new(Method::POST, segments)
    }

    pub fn put(segments: &[&str]) -> Call {
        Call::new(Method::PUT, segments)
    }

    pub fn delete(segments: &[&str]) -> Call {
        Call::new(Method::DELETE, segments)
    }

    pub fn query(mut self, key: &str, value: &str) -> Call {
        self.uri.push(if self.uri.contains('?') { '&' } else { '?' });
        self.uri.push_str(key);
        self.uri.push('=');
        encode(value, &mut self.uri);
        self
    }

    pub fn body<T: Serialize>(mut self, body: &T) -> Call {
        self.body = serde_json::to_vec(body).expect("requests of the API are JSON").into();
        self
    }

    /// A body that is not JSON.
    pub fn bytes(mut self, bytes: Vec<u8>) -> Call {
        (self.body, self.content_type) = (bytes.into(), "application/octet-stream");
        self
    }

    pub fn timeout(mut self, timeout: Option<Duration>) -> Call {
        self.timeout = timeout;
        self
    }
}

/// Percent-encodes everything that RFC 3986 section 2.3 does not call unreserved.
fn encode(text: &str, uri: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_segment() {
        let call = Call::get(&["networks", "a/../b?c#d é%"]).query("x", "1&y=2").query("z", "");
        assert_eq!(call.uri, "/v1/networks/a%2F..%2Fb%3Fc%23d%20%C3%A9%25?x=1%26y%3D2&z=");
    }

    #[test]
    fn what_changes_something_has_a_key_of_its_own() {
        assert_eq!(Call::get(&["networks"]).key, None);
        let [a, b] = [Call::post(&["x"]).key.unwrap(), Call::delete(&["x"]).key.unwrap()];
        assert!(a != b && a.len() == 32 && a.bytes().all(|c| c.is_ascii_hexdigit()));
    }
}
