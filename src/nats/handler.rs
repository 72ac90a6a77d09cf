//! Handles one message: applies the event or writes a dead letter, then acknowledges the message.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{self, AckKind};
use opentelemetry::trace::SpanKind;
use tracing::{Instrument as _, Span, field::Empty};

use super::{backoff::delay, dead_letters, delivery::Delivery, subject};
use crate::{
    account_events::{EventCounts, UserDeleted},
    registry::TokenRegistry,
    telemetry::{ENTRY, NatsHeaders, enter, excerpt, quote},
};

/// Handles messages. Clones share the same state.
#[derive(Clone)]
pub(super) struct Handler {
    pub(super) jetstream: jetstream::Context,
    pub(super) registry: Arc<TokenRegistry>,
    pub(super) counts: Arc<EventCounts>,
    /// The configured subject; may have wildcards.
    pub(super) subject: Arc<str>,
    /// How long the transaction for one message may take.
    pub(super) timeout: Duration,
}

impl Handler {
    /// Handles a message and acknowledges it. Returns whether it is settled: it will not be redelivered.
    pub(super) async fn handle(&self, delivery: Delivery) -> bool {
        let message = &delivery.message;
        let info = message.info().ok();
        let deliveries = info.as_ref().map_or(1, |info| u64::try_from(info.delivered).unwrap_or(1));
        let id = info.as_ref().map(|info| format!("{}:{}", info.stream, info.stream_sequence));
        let id = id.unwrap_or_else(|| quote(&message.subject));
        if deliveries > 1 {
            self.counts.count_redelivered();
        }
        let span = enter(&NatsHeaders(message.headers.as_ref()), SpanKind::Consumer, || {
            let subject = excerpt(&message.subject);
            tracing::info_span!(
                target: ENTRY,
                "process",
                otel.name = format!("process {subject}"),
                otel.kind = "consumer",
                otel.status_code = Empty,
                messaging.system = "nats",
                messaging.operation.name = "process",
                messaging.operation.type = "process",
                messaging.destination.name = subject,
                messaging.message.id = id,
                latchkey.answer = Empty,
            )
        });
        self.process_and_ack(&delivery, &id, deliveries).instrument(span).await
    }

    async fn process_and_ack(&self, delivery: &Delivery, id: &str, deliveries: u64) -> bool {
        let answer = match self.process(delivery, id).await {
            Ok(answer) => answer,
            Err(error) => retry_later(delivery, id, deliveries, &error),
        };
        let (word, status, is_final) = match answer {
            AckKind::Ack => ("acknowledged", "OK", true),
            AckKind::Term => ("dead-lettered", "ERROR", true),
            _ => ("to be redelivered", "ERROR", false),
        };
        Span::current().record("latchkey.answer", word).record("otel.status_code", status);
        let sent = if delivery.undeliverable.is_some() {
            // The broker must confirm it: a redelivery would break the connection again.
            delivery.message.double_ack_with(answer).await
        } else {
            delivery.message.ack_with(answer).await
        };
        // Harmless: a redelivered message changes nothing.
        if let Err(error) = &sent {
            tracing::warn!(message_id = id, %error, "a message could not be acknowledged; it will be redelivered");
        }
        is_final && sent.is_ok()
    }

    /// Applies the event or writes a dead letter, and returns the acknowledgement to send; or why neither could be
    /// done.
    async fn process(&self, delivery: &Delivery, id: &str) -> Result<AckKind, String> {
        let reason = match self.read(delivery, id) {
            Ok(event) => {
                let applied = tokio::time::timeout(self.timeout, event.apply(&self.registry)).await;
                applied
                    .map_err(|_| "the transaction took too long".to_owned())?
                    .map_err(|error| error.to_string())?;
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
            .map_err(|error| format!("the dead letter could not be written: {error}"))?;
        tracing::error!(
            message_id = id,
            reason,
            "a message can never be read; it was copied to the dead letters"
        );
        self.counts.count_dead_lettered();
        Ok(AckKind::Term)
    }

    /// Reads the event of a message, or returns why it can never be read.
    pub(super) fn read(&self, delivery: &Delivery, id: &str) -> Result<UserDeleted, String> {
        let Delivery { message, undeliverable } = delivery;
        if !subject::matches(&self.subject, &message.subject) {
            let subject = quote(&message.subject);
            return Err(format!("subject: is {subject}; only messages of {:?} are applied", self.subject));
        }
        // With wildcards the subject does not identify the event; only the type of a CloudEvent does.
        let plain_id = (!subject::has_wildcard(&self.subject)).then(|| id.to_owned());
        let headers = NatsHeaders(message.headers.as_ref());
        let header = |wanted: &str| headers.first(wanted);
        if undeliverable.is_none() {
            return UserDeleted::read(header, &message.payload, plain_id).map_err(|error| error.to_string());
        }
        UserDeleted::read_with_damaged_headers(header, &message.payload, plain_id, id).map_err(|error| {
            format!("headers or subject: cannot be read, and the body alone is not enough: {error}")
        })
    }
}

/// Returns the acknowledgement that makes the broker redeliver a message later.
fn retry_later(delivery: &Delivery, id: &str, deliveries: u64, error: &str) -> AckKind {
    if delivery.undeliverable.is_some() {
        tracing::warn!(
            message_id = id,
            error,
            "a message with damaged headers could not be handled; it will be retried"
        );
        // Postpones the redelivery, which would break the connection. `Recovery` retries before it is due.
        return AckKind::Progress;
    }
    let delay = delay(deliveries);
    tracing::warn!(
        message_id = id,
        deliveries,
        error,
        ?delay,
        "a message could not be handled; it will be redelivered"
    );
    AckKind::Nak(Some(delay))
}
