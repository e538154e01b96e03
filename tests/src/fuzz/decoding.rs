//! What clients and shims send: JSON requests, and the frames of attached streams.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vswitch_proto::api;
use vswitch_proto::api::stream::{Decoder, Frame, PAYLOAD_BYTES_MAX, StreamError};

/// Every request body of the API: refused, or decoded to what it is encoded from.
pub fn api_decoding(data: &[u8]) {
    round_trip::<api::NetworkCreate>(data);
    round_trip::<api::Connect>(data);
    round_trip::<api::Disconnect>(data);
    round_trip::<api::Run>(data);
    round_trip::<api::Adopt>(data);
    round_trip::<api::Exec>(data);
    round_trip::<api::FdbChange>(data);
    round_trip::<api::FdbFlush>(data);
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(json: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(json) else { return };
    let encoded = serde_json::to_vec(&value).expect("what was decoded can be encoded");
    let decoded = serde_json::from_slice::<T>(&encoded).expect("what was encoded can be decoded");
    assert_eq!(decoded, value);
}

/// However the bytes are cut, the same frames come out, and they encode to the bytes they came from.
pub fn stream_decoding(data: &[u8]) {
    let (frames, end) = decode(data.chunks(data.len().max(1)));
    // The first byte also says how it is cut the second time.
    let step = 1 + usize::from(data.first().copied().unwrap_or_default());
    assert_eq!(decode(data.chunks(step)), (frames.clone(), end));

    let mut rest = data;
    for frame in &frames {
        let encoded = encode(frame);
        rest = rest.strip_prefix(&encoded[..]).expect("a frame encodes to the bytes it came from");
    }
    let is_partial = rest.len() < 5 + PAYLOAD_BYTES_MAX;
    assert!(end.is_some() || is_partial, "{} bytes are no frame and no error", rest.len());
}

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, Option<StreamError>) {
    let (mut decoder, mut frames) = (Decoder::default(), vec![]);
    for chunk in chunks {
        decoder.push(chunk);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Data without a byte is never sent, so the encoder has nothing for it; on receipt it is a header.
fn encode(frame: &Frame) -> Vec<u8> {
    match frame {
        Frame::Stdin(data) if data.is_empty() => vec![0, 0, 0, 0, 0],
        Frame::Stdout(data) if data.is_empty() => vec![2, 0, 0, 0, 0],
        Frame::Stderr(data) if data.is_empty() => vec![3, 0, 0, 0, 0],
        frame => frame.to_bytes(),
    }
}
