//! Replays the account events after a crash, a failover or a restore, which may have lost the effect of some.
//!
//! Such a message was acknowledged, so the consumer does not deliver it again. The replay reads the whole stream, up to the
//! last message that exists when it begins, and applies the deletions that the database lacks. It fetches each message by
//! its sequence number, because a consumer would deliver messages whose headers break the connection, and needs the
//! permission to create it.

use std::{collections::HashMap, convert::Infallible, future::pending, ops::RangeInclusive, sync::Arc};

use async_nats::jetstream::{
    consumer::{Info, PullConsumer},
    stream::{RawMessage, State},
};
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

use super::{
    backoff::delay,
    handler::Handler,
    raw_message::{fetch, into_delivery, permission},
};
use crate::{account_events::UserDeleted, token::UserId};

/// How many parts of the stream are read at once. Each message takes a round trip to the broker.
const READERS: u64 = 8;
/// How many users one query to the database covers.
const BATCH: usize = 500;

/// Replays a stream. Clones do the same.
#[derive(Clone)]
struct Replay {
    handler: Handler,
    stream: Arc<str>,
    epoch: Uuid,
}

/// Records that there is nothing to replay if the consumer is new: it will deliver all messages. To be called before
/// messages are pulled.
pub(super) async fn skip_if_new(handler: &Handler, consumer: &mut PullConsumer) {
    if is_new(consumer.cached_info())
        && let Err(error) = try_skip(handler, consumer).await
    {
        tracing::debug!(%error, "cannot record that there is nothing to replay; the stream will be read twice");
    }
}

async fn try_skip(handler: &Handler, consumer: &mut PullConsumer) -> Result<(), async_nats::Error> {
    let Some(epoch) = handler.registry.epoch().await? else { return Ok(()) };
    // Asked again, because another replica may have pulled messages before this epoch began.
    if is_new(consumer.info().await?) {
        handler.registry.record_replay(epoch).await?;
    }
    Ok(())
}

/// Returns whether the consumer has delivered nothing yet, so that nothing was acknowledged.
fn is_new(info: &Info) -> bool {
    info.delivered.consumer_sequence == 0
}

/// Replays the stream whenever the database is in an epoch in which that was not done yet. A replay that fails, or is
/// interrupted, begins again.
pub(super) async fn run(handler: &Handler, stream: &str) -> Infallible {
    let mut epochs = handler.registry.epochs();
    let mut failures = 0;
    loop {
        let epoch = *epochs.borrow_and_update();
        let replayed = match epoch {
            Some(epoch) => Replay { handler: handler.clone(), stream: stream.into(), epoch }.run().await,
            None => Ok(()),
        };
        if let Err(error) = replayed {
            failures += 1;
            let pause = delay(failures);
            tracing::warn!(
                %error,
                ?pause,
                subject = permission(stream),
                "the account events are not replayed yet, so deleted users may have tokens that work; trying again. \
                 If the broker is up, allow the subscriber's user to publish to this subject"
            );
            // A newer epoch is tried at once.
            let _ = timeout(pause, epochs.changed()).await;
            continue;
        }
        failures = 0;
        if epochs.changed().await.is_err() {
            // Only if the registry is gone.
            pending::<()>().await;
        }
    }
}

impl Replay {
    async fn run(self) -> Result<(), async_nats::Error> {
        let Self { handler, stream, epoch } = &self;
        if handler.registry.is_replayed(*epoch).await? {
            return Ok(());
        }
        let state = handler.jetstream.get_stream(&**stream).await?.cached_info().state.clone();
        let (first, last) = (state.first_sequence, state.last_sequence);
        tracing::info!(
            %epoch,
            stream = &**stream,
            first,
            last,
            "replaying the account events: a crash, a failover or a restore may have lost deletions"
        );
        // Dropped with this future, which ends the readers.
        let mut readers = JoinSet::new();
        for part in parts(&state) {
            readers.spawn(self.clone().read(part));
        }
        let mut applied = 0;
        while let Some(read) = readers.join_next().await {
            applied += read??;
        }
        handler.registry.record_replay(*epoch).await?;
        tracing::info!(%epoch, applied, "the account events were replayed");
        Ok(())
    }

    /// Reads a part of the stream, and returns how many events were applied.
    async fn read(self, part: RangeInclusive<u64>) -> Result<u64, async_nats::Error> {
        let (mut next, last) = part.into_inner();
        let mut events = HashMap::new();
        let mut applied = 0;
        loop {
            let request = json!({ "seq": next, "next_by_subj": &*self.handler.subject });
            let found = fetch(&self.handler.jetstream, &self.stream, request).await?;
            let Some(message) = found.filter(|message| message.sequence <= last) else {
                return Ok(applied + self.apply(&events).await?);
            };
            next = message.sequence + 1;
            if let Some(event) = self.decode(message)? {
                // The first one has the time of the deletion.
                events.entry(event.user_id.clone()).or_insert(event);
            }
            if events.len() == BATCH {
                applied += self.apply(&events).await?;
                events.clear();
            }
        }
    }

    /// Returns the event of a message, if it can be read.
    fn decode(&self, message: RawMessage) -> Result<Option<UserDeleted>, async_nats::Error> {
        let id = format!("{}:{}", self.stream, message.sequence);
        let delivery = into_delivery(message, &self.handler.jetstream, None)?;
        match self.handler.read(&delivery, &id) {
            Ok(event) => Ok(Some(event)),
            Err(reason) => {
                // It became a dead letter when the consumer delivered it.
                tracing::debug!(message_id = id, reason, "a message cannot be read; it is not replayed");
                Ok(None)
            }
        }
    }

    /// Applies the events whose users are not deleted, and returns how many those are.
    async fn apply(&self, events: &HashMap<UserId, UserDeleted>) -> Result<u64, async_nats::Error> {
        if events.is_empty() {
            return Ok(0);
        }
        let Handler { registry, counts, timeout: bound, .. } = &self.handler;
        let users: Vec<_> = events.keys().collect();
        let lost = registry.not_deleted(self.epoch, &users).await?;
        if lost.is_empty() {
            return Ok(0);
        }
        for event in lost.iter().filter_map(|user| events.get(user)) {
            timeout(*bound, event.apply_again(registry))
                .await
                .map_err(|_| "a transaction took too long")??;
            counts.count_replayed();
        }
        // A transaction may have used a connection to the server that a failover has replaced.
        if !registry.not_deleted(self.epoch, &lost.iter().collect::<Vec<_>>()).await?.is_empty() {
            return Err("a deletion did not reach the present database server".into());
        }
        Ok(lost.len() as u64)
    }
}

/// Divides the messages of a stream among the readers.
fn parts(state: &State) -> impl Iterator<Item = RangeInclusive<u64>> + use<> {
    // The first number is 0 if there was never a message.
    let (first, last) = (state.first_sequence.max(1), state.last_sequence);
    let length = (last + 1).saturating_sub(first).div_ceil(READERS).max(1);
    (0..READERS)
        .map(move |n| first + n * length)
        .take_while(move |start| *start <= last)
        .map(move |start| start..=last.min(start + length - 1))
}
