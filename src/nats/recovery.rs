//! Finds and handles messages that the client library cannot deliver.
//!
//! The library parses headers in its connection task. A header that it cannot parse ends the connection or the task,
//! and the message never arrives. The broker counts it as delivered, so it can be found among the messages that are
//! not acknowledged, fetched as JSON, which is safe, and then handled and acknowledged.

use std::{collections::BTreeSet, time::Duration};

use async_nats::{
    datetime::DateTime,
    jetstream::{consumer, stream::RawMessage},
};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{
    consumer::MAX_ACK_PENDING,
    handler::Handler,
    raw_message::{fetch, into_delivery, permission},
};

/// Limits of one run. The next run continues where the last one ended.
const MAX_FETCHED: usize = 1_000;
const MAX_TIME: Duration = Duration::from_secs(10);

/// The state of the search through the messages that were delivered and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Recovery {
    /// When the consumer was created: a new consumer with the same name starts from the first message.
    created: Option<DateTime>,
    /// The last stream sequence that was examined. Messages do not change, so each is examined once.
    examined: u64,
    /// Stream sequences of messages that the library cannot deliver and that are not settled yet.
    unsettled: BTreeSet<u64>,
}

impl Recovery {
    /// Handles the messages that were delivered, are not acknowledged, and cannot be parsed by the client library.
    pub(super) async fn run(&mut self, handler: &Handler, info: &consumer::Info, in_flight: &TaskTracker) {
        if let Err(error) = self.try_run(handler, info, in_flight).await {
            tracing::error!(
                %error,
                subject = permission(&info.stream_name),
                "cannot search for messages with damaged headers; they may stay unhandled. If the broker is up, \
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
        for sequence in self.unsettled.clone() {
            if Instant::now() > end {
                return Ok(());
            }
            let request = json!({ "seq": sequence });
            let settled = match fetch(&handler.jetstream, &info.stream_name, request).await? {
                Some(message) => handle(handler, info, in_flight, message).await?,
                // The stream dropped it.
                None => true,
            };
            if settled {
                self.unsettled.remove(&sequence);
            }
        }
        // Makes at least one request, so that a missing permission shows before it matters.
        for _ in 0..MAX_FETCHED {
            let full = self.unsettled.len() >= MAX_ACK_PENDING as usize;
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
                self.unsettled.insert(sequence);
            }
            self.examined = sequence;
        }
        Ok(())
    }

    /// Drops what was acknowledged, or everything if the consumer was created again.
    fn update(&mut self, info: &consumer::Info) {
        if self.created != Some(info.created) {
            *self = Self { created: Some(info.created), ..Self::default() };
        }
        let floor = info.ack_floor.stream_sequence;
        self.examined = self.examined.max(floor);
        self.unsettled = self.unsettled.split_off(&(floor + 1));
    }
}

/// Handles a message if the client library cannot deliver it. Returns whether nothing is left to do for it.
async fn handle(
    handler: &Handler,
    info: &consumer::Info,
    in_flight: &TaskTracker,
    raw: RawMessage,
) -> Result<bool, async_nats::Error> {
    // The broker identifies the delivery by the stream sequence alone.
    let reply = format!("$JS.ACK.{}.{}.1.{}.0.0.0", info.stream_name, info.name, raw.sequence);
    let delivery = into_delivery(raw, &handler.jetstream, Some(reply))?;
    if delivery.undeliverable.is_none() {
        return Ok(true);
    }
    let handler = handler.clone();
    // In its own task, so that a lost connection does not cancel it.
    Ok(in_flight.spawn(async move { handler.handle(delivery).await }).await?)
}
