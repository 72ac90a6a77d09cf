//! Dead letters: copies of messages that can never be handled, each with the reason, for an operator to inspect.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::{self, stream},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use opentelemetry::propagation::Injector;

use super::delivery::Delivery;
use crate::telemetry::inject;

/// Operators, permissions and tools rely on both names: they must not change.
const STREAM: &str = "LATCHKEY_DEAD_LETTERS";
const SUBJECT: &str = "latchkey.v1.dead_letter";
const MAX_AGE: Duration = Duration::from_secs(90 * 86_400);
const MAX_MESSAGES: i64 = 100_000;
/// How many bytes of the original's headers, and of its encoded header block, a copy carries. JetStream limits all
/// headers of a message to 64 KiB.
const MAX_ORIGINAL_HEADERS: usize = 24 * 1024;
/// Spare bytes below the broker's limit on a message, for what the copy and the protocol add to the headers.
const HEADROOM: usize = 4 * 1024;
/// The longest reason that is kept, in bytes. A reason may quote the message.
const MAX_REASON: usize = 1024;

/// Creates the stream of dead letters if it does not exist.
pub(super) async fn prepare(jetstream: &jetstream::Context) -> Result<(), async_nats::Error> {
    let config = stream::Config {
        name: STREAM.to_owned(),
        description: Some("Messages that Latchkey can never handle, with the reason".to_owned()),
        subjects: vec![SUBJECT.to_owned()],
        max_age: MAX_AGE,
        max_messages: MAX_MESSAGES,
        ..stream::Config::default()
    };
    jetstream.get_or_create_stream(config).await?;
    Ok(())
}

/// Copies a message and returns once JetStream has stored the copy. A message that is copied twice within JetStream's
/// deduplication window is stored once.
pub(super) async fn write(
    jetstream: &jetstream::Context,
    delivery: &Delivery,
    reason: &str,
) -> Result<(), async_nats::Error> {
    let Delivery { message, undeliverable } = delivery;
    let max_payload = jetstream.client().server_info().max_payload;
    let mut headers = original_headers(delivery, MAX_ORIGINAL_HEADERS.min(max_payload / 4));
    inject(&mut Carrier(&mut headers));
    headers.insert("Latchkey-Reason", one_line(reason).as_str());
    headers.insert("Latchkey-Subject", one_line(&message.subject).as_str());
    if let Ok(info) = message.info() {
        headers.insert("Latchkey-Stream", info.stream);
        headers.insert("Latchkey-Stream-Sequence", info.stream_sequence.to_string().as_str());
        headers.insert("Nats-Msg-Id", format!("{}:{}", info.stream, info.stream_sequence).as_str());
    }
    if let Some(block) = undeliverable {
        let longest = MAX_ORIGINAL_HEADERS.min(max_payload / 4) / 4 * 3;
        let kept = &block[..block.len().min(longest)];
        headers.insert("Latchkey-Original-Headers-Base64", BASE64_STANDARD.encode(kept).as_str());
        if kept.len() < block.len() {
            headers.insert("Latchkey-Headers-Truncated-From", block.len().to_string().as_str());
        }
    }
    let longest = max_payload.saturating_sub(headers_length(&headers) + HEADROOM);
    let mut body = message.payload.clone();
    if body.len() > longest {
        headers.insert("Latchkey-Truncated-From", body.len().to_string().as_str());
        body.truncate(longest);
    }
    jetstream.publish_with_headers(SUBJECT, headers, body).await?.await?;
    Ok(())
}

/// Returns the original's headers. Those that do not fit into `longest` bytes are omitted and counted.
fn original_headers(delivery: &Delivery, longest: usize) -> HeaderMap {
    let original = delivery.message.headers.iter().flat_map(HeaderMap::iter);
    let all = original.flat_map(|(name, values)| values.iter().map(move |value| (name.to_string(), value)));
    let (mut headers, mut length, mut omitted) = (HeaderMap::new(), 0, 0);
    for (name, value) in all {
        // The broker acts on these headers. On the copy they are only information.
        let kept = if name.to_ascii_lowercase().starts_with("nats-") {
            format!("Latchkey-Original-{name}")
        } else {
            name
        };
        let line = line_length(&kept, value.as_str());
        if length + line > longest {
            omitted += 1;
        } else {
            length += line;
            headers.append(kept.as_str(), value.clone());
        }
    }
    if omitted > 0 {
        headers.insert("Latchkey-Headers-Omitted", omitted.to_string().as_str());
    }
    headers
}

/// Injects the trace context into the copy, in place of the original's.
struct Carrier<'a>(&'a mut HeaderMap);

impl Injector for Carrier<'_> {
    fn set(&mut self, name: &str, value: String) {
        if !value.is_empty() {
            self.0.insert(name, value.as_str());
        }
    }
}

fn headers_length(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(move |value| line_length(name.as_ref(), value.as_str())))
        .sum()
}

fn line_length(name: &str, value: &str) -> usize {
    name.len() + value.len() + ": \r\n".len()
}

/// Returns a text as a header value: without control characters, and at most [`MAX_REASON`] bytes.
fn one_line(reason: &str) -> String {
    let mut line: String =
        reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    line.truncate(line.floor_char_boundary(MAX_REASON));
    line
}
