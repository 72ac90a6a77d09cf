//! Handles one message: applies it or writes a dead letter, then answers the broker.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind, Message};
use opentelemetry::trace::SpanKind;
use tracing::{Instrument as _, Span, field::Empty};

use super::{backoff::delay, dead_letters, subject};
use crate::{
    account_events::{EventCounts, UserDeleted},
    registry::TokenRegistry,
    telemetry::{ENTRY, NatsHeaders, enter},
};

/// A message, as it was delivered or as it was fetched from the stream.
pub(super) struct Delivery {
    /// With those headers that can be read.
    pub(super) message: Message,
    /// The whole header block, if the client library cannot read it or the subject. The message was fetched then.
    pub(super) undeliverable: Option<Vec<u8>>,
}

/// Handles messages; clones share everything.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) jetstream: jetstream::Context,
    pub(super) registry: Arc<TokenRegistry>,
    pub(super) counts: Arc<EventCounts>,
    /// The configured subject, which may have wildcards.
    pub(super) subject: Arc<str>,
    /// How long handling may take.
    pub(super) bound: Duration,
}

impl Handler {
    /// Handles a message and answers the broker. Returns whether the message is answered for good.
    pub(super) async fn handle(&self, delivery: Delivery) -> bool {
        let message = &delivery.message;
        let info = message.info().ok();
        let deliveries = info.as_ref().map_or(1, |info| u64::try_from(info.delivered).unwrap_or(1));
        let id = info.as_ref().map(|info| format!("{}:{}", info.stream, info.stream_sequence));
        let id = id.unwrap_or_else(|| message.subject.to_string());
        if deliveries > 1 {
            self.counts.count_redelivered();
        }
        let span = enter(&NatsHeaders(message.headers.as_ref()), SpanKind::Consumer, || {
            tracing::info_span!(
                target: ENTRY,
                "process",
                otel.name = format!("process {}", message.subject),
                otel.kind = "consumer",
                otel.status_code = Empty,
                messaging.system = "nats",
                messaging.operation.name = "process",
                messaging.operation.type = "process",
                messaging.destination.name = %message.subject,
                messaging.message.id = id,
                latchkey.answer = Empty,
            )
        });
        self.answer(&delivery, &id, deliveries).instrument(span).await
    }

    async fn answer(&self, delivery: &Delivery, id: &str, deliveries: u64) -> bool {
        let answer = match self.process(delivery, id).await {
            Ok(answer) => answer,
            Err(error) => give_back(delivery, id, deliveries, &error),
        };
        let (word, status, is_final) = match answer {
            AckKind::Ack => ("acknowledged", "OK", true),
            AckKind::Term => ("dead-lettered", "ERROR", true),
            _ => ("given back", "ERROR", false),
        };
        Span::current().record("latchkey.answer", word).record("otel.status_code", status);
        let sent = if delivery.undeliverable.is_some() {
            // Nobody else can handle it: whether the broker took the answer must be known.
            delivery.message.double_ack_with(answer).await
        } else {
            delivery.message.ack_with(answer).await
        };
        // If the answer is lost the message comes again, and changes nothing.
        if let Err(error) = &sent {
            tracing::warn!(message_id = id, %error, "a message was not answered; it will come again");
        }
        is_final && sent.is_ok()
    }

    /// Applies the message or writes a dead letter, and returns the answer for the broker; or why neither was done.
    async fn process(&self, delivery: &Delivery, id: &str) -> Result<AckKind, String> {
        let reason = match self.read(delivery, id) {
            Ok(event) => {
                let applied = tokio::time::timeout(self.bound, event.apply(&self.registry)).await;
                applied.map_err(|_| "it took too long".to_owned())?.map_err(|error| error.to_string())?;
                self.counts.count_handled();
                if delivery.undeliverable.is_some() {
                    tracing::warn!(message_id = id, "a message with damaged headers was handled by its body");
                }
                return Ok(AckKind::Ack);
            }
            Err(reason) => reason,
        };
        dead_letters::write(&self.jetstream, delivery, &reason)
            .await
            .map_err(|error| format!("no dead letter could be written: {error}"))?;
        tracing::error!(message_id = id, reason, "a message can never be read; it is in the dead letters");
        self.counts.count_dead_lettered();
        Ok(AckKind::Term)
    }

    fn read(&self, delivery: &Delivery, id: &str) -> Result<UserDeleted, String> {
        let Delivery { message, undeliverable } = delivery;
        if !subject::matches(&self.subject, &message.subject) {
            let subject = message.subject.as_str();
            return Err(format!("subject: is {subject:?}; only messages of {:?} are applied", self.subject));
        }
        // Where the subject does not tell what a message is, only the type of a CloudEvent does.
        let plain_id = (!subject::has_wildcard(&self.subject)).then(|| id.to_owned());
        let headers = NatsHeaders(message.headers.as_ref());
        let header = |wanted: &str| headers.first(wanted);
        if undeliverable.is_none() {
            return UserDeleted::read(header, &message.payload, plain_id).map_err(|error| error.to_string());
        }
        UserDeleted::read_without_some_headers(header, &message.payload, plain_id, id).map_err(|error| {
            format!("headers or subject: cannot be read; the body alone does not do: {error}")
        })
    }
}

/// Returns the answer that brings a message back later.
fn give_back(delivery: &Delivery, id: &str, deliveries: u64, error: &str) -> AckKind {
    if delivery.undeliverable.is_some() {
        tracing::warn!(
            message_id = id,
            error,
            "a message with damaged headers could not be handled; it will be tried again"
        );
        // Keeps the broker from delivering it, which would break the connection.
        return AckKind::Progress;
    }
    let delay = delay(deliveries);
    tracing::warn!(
        message_id = id,
        deliveries,
        error,
        ?delay,
        "a message could not be handled; it will come again"
    );
    AckKind::Nak(Some(delay))
}
