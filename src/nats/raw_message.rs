//! Messages that are fetched from the stream as JSON, which also works if the client library cannot parse their headers.

use async_nats::jetstream::{self, ErrorCode, response::Response, stream::RawMessage};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::{delivery::Delivery, header_block::HeaderBlock};

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// Returns the subject to which [`fetch`] publishes, without `$JS.API`.
fn api_subject(stream: &str) -> String {
    format!("STREAM.MSG.GET.{stream}")
}

/// Returns the permission that [`fetch`] needs.
pub(super) fn permission(stream: &str) -> String {
    format!("$JS.API.{}", api_subject(stream))
}

/// Fetches a message as JSON. Returns `None` if the stream has no such message.
pub(super) async fn fetch(
    jetstream: &jetstream::Context,
    stream: &str,
    request: serde_json::Value,
) -> Result<Option<RawMessage>, async_nats::Error> {
    match jetstream.request(api_subject(stream), &request).await? {
        Response::Ok::<Found>(found) => Ok(Some(found.message)),
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(error.into()),
    }
}

/// Returns a fetched message as a delivery, to be acknowledged by a message to `reply`.
pub(super) fn into_delivery(
    raw: RawMessage,
    jetstream: &jetstream::Context,
    reply: Option<String>,
) -> Result<Delivery, async_nats::Error> {
    let block = raw.headers.map(|block| BASE64_STANDARD.decode(block)).transpose()?;
    let HeaderBlock { headers, damaged } = block.as_deref().map(HeaderBlock::read).unwrap_or_default();
    // The broker accepts white space outside ASCII, and bytes that are not UTF-8, which JSON replaces by U+FFFD.
    let odd_subject = raw.subject.contains(|letter: char| letter.is_whitespace() || letter == '\u{fffd}');
    let block = block.unwrap_or_default();
    let payload = BASE64_STANDARD.decode(raw.payload)?;
    let message = async_nats::Message {
        subject: raw.subject.into(),
        reply: reply.map(Into::into),
        length: payload.len() + block.len(),
        payload: payload.into(),
        headers: Some(headers),
        status: None,
        description: None,
    };
    let message = jetstream::Message { message, context: jetstream.clone() };
    Ok(Delivery { message, undeliverable: (damaged || odd_subject).then_some(block) })
}
