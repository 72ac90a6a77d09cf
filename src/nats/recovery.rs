//! Messages that the client library cannot deliver.
//!
//! The library reads headers in the task of its connection. A header that it cannot read ends the connection, or the
//! task, whatever else that connection carries, and the message is never handed over. The broker still counts it as
//! delivered, so it can be found among those that are not acknowledged, fetched as JSON, which is safe, and answered.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{
    datetime::DateTime,
    jetstream::{self, ErrorCode, consumer, response::Response, stream::RawMessage},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    consumer::MAX_ACK_PENDING,
    handler::{Delivery, Handler},
    header_block::HeaderBlock,
};

/// How many messages are fetched in one run, and how long a run takes; the next one goes on where it ended.
const MAX_FETCHED: usize = 1_000;
const MAX_TIME: Duration = Duration::from_secs(10);

/// What is known of the messages that were delivered and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// Of which consumer: one that was made anew delivers everything again.
    created: Option<DateTime>,
    /// The last sequence number of the stream that was looked at. Messages do not change.
    examined: u64,
    /// Sequence numbers of messages that the library cannot deliver and that are not answered yet.
    unanswered: BTreeSet<u64>,
}

impl Recovery {
    /// Handles the messages that were delivered, are not acknowledged, and cannot be read by the client library.
    pub(super) async fn run(&mut self, handler: &Handler, info: &consumer::Info, in_flight: &TaskTracker) {
        if let Err(error) = self.try_run(handler, info, in_flight).await {
            let subject = format!("$JS.API.STREAM.MSG.GET.{}", info.stream_name);
            tracing::error!(
                %error,
                subject,
                "messages with damaged headers could not be looked for, and may stay unhandled; if the broker is up, \
                 allow the subscriber's user to publish to this subject"
            );
        }
    }

    async fn try_run(
        &mut self,
        handler: &Handler,
        info: &consumer::Info,
        in_flight: &TaskTracker,
    ) -> Result<(), async_nats::Error> {
        let end = Instant::now() + MAX_TIME;
        self.update(info);
        for sequence in self.unanswered.clone() {
            if Instant::now() > end {
                return Ok(());
            }
            let request = json!({ "seq": sequence });
            let answered = match fetch(&handler.jetstream, &info.stream_name, request).await? {
                Some(message) => handle(handler, info, in_flight, message).await?,
                // The stream dropped it.
                None => true,
            };
            if answered {
                self.unanswered.remove(&sequence);
            }
        }
        // At least one request is made, so that a missing permission shows before it matters.
        for _ in 0..MAX_FETCHED {
            let full = self.unanswered.len() >= MAX_ACK_PENDING as usize;
            if full || Instant::now() > end {
                return Ok(());
            }
            let request = json!({ "seq": self.examined + 1, "next_by_subj": &*handler.subject });
            let next = fetch(&handler.jetstream, &info.stream_name, request).await?;
            let Some(message) = next.filter(|it| it.sequence <= info.delivered.stream_sequence) else {
                self.examined = self.examined.max(info.delivered.stream_sequence);
                return Ok(());
            };
            let sequence = message.sequence;
            if !handle(handler, info, in_flight, message).await? {
                self.unanswered.insert(sequence);
            }
            self.examined = sequence;
        }
        Ok(())
    }

    /// Forgets what was acknowledged, or everything if the consumer is another one.
    fn update(&mut self, info: &consumer::Info) {
        if self.created != Some(info.created) {
            *self = Self { created: Some(info.created), ..Self::default() };
        }
        let floor = info.ack_floor.stream_sequence;
        self.examined = self.examined.max(floor);
        self.unanswered = self.unanswered.split_off(&(floor + 1));
    }
}

/// Handles a message if the client library cannot deliver it. Returns whether nothing is left to do for it here.
async fn handle(
    handler: &Handler,
    info: &consumer::Info,
    in_flight: &TaskTracker,
    raw: RawMessage,
) -> Result<bool, async_nats::Error> {
    let Some(delivery) = undeliverable(handler, info, raw)? else { return Ok(true) };
    let handler = handler.clone();
    // A task of its own: it is not cut off when the connection is lost.
    Ok(in_flight.spawn(async move { handler.handle(delivery).await }).await?)
}

/// Returns the message in a form that can be handled, if the client library cannot deliver it.
fn undeliverable(
    handler: &Handler,
    info: &consumer::Info,
    raw: RawMessage,
) -> Result<Option<Delivery>, async_nats::Error> {
    let block = raw.headers.map(|block| BASE64_STANDARD.decode(block)).transpose()?;
    let HeaderBlock { headers, damaged } = block.as_deref().map(HeaderBlock::read).unwrap_or_default();
    // The broker takes white space but the ASCII one, and any bytes, which JSON replaces.
    let odd_subject = raw.subject.contains(|letter: char| letter.is_whitespace() || letter == '\u{fffd}');
    if !damaged && !odd_subject {
        return Ok(None);
    }
    let block = block.unwrap_or_default();
    let payload = BASE64_STANDARD.decode(raw.payload)?;
    // The broker finds the delivery by the sequence number of the stream alone.
    let reply = format!("$JS.ACK.{}.{}.1.{}.0.0.0", info.stream_name, info.name, raw.sequence);
    let message = async_nats::Message {
        subject: raw.subject.into(),
        reply: Some(reply.into()),
        length: payload.len() + block.len(),
        payload: payload.into(),
        headers: Some(headers),
        status: None,
        description: None,
    };
    let message = jetstream::Message { message, context: handler.jetstream.clone() };
    Ok(Some(Delivery { message, undeliverable: Some(block) }))
}

#[derive(Deserialize)]
struct Found {
    message: RawMessage,
}

/// Fetches a message as JSON, or returns `None` if there is none such.
async fn fetch(
    jetstream: &jetstream::Context,
    stream: &str,
    request: serde_json::Value,
) -> Result<Option<RawMessage>, async_nats::Error> {
    match jetstream.request(format!("STREAM.MSG.GET.{stream}"), &request).await? {
        Response::Ok::<Found>(found) => Ok(Some(found.message)),
        Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Response::Err { error } => Err(error.into()),
    }
}
