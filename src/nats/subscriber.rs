//! The subscriber: a durable pull consumer on the identity service's stream, shared by all replicas.
//!
//! A message is acknowledged after its transaction has committed. After a temporary error it is redelivered, with a
//! growing delay and without end. A message that can never be handled is copied to the dead letters before it is
//! terminated.

use std::{future::pending, sync::Arc, time::Duration};

use async_nats::jetstream::{
    consumer::{PullConsumer, pull},
    stream,
};
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{
    backoff::delay,
    connect::{Connection, NatsError, NatsSettings},
    consumer, dead_letters,
    delivery::Delivery,
    handler::Handler,
    recovery::Recovery,
    replay,
};
use crate::{account_events::EventCounts, registry::TokenRegistry};

/// The name of the gRPC health service that says whether the subscriber is attached to its stream.
pub const USER_EVENTS: &str = "latchkey.v1.UserEvents";

/// How many messages are handled at once, so that a slow one does not delay the others.
const CONCURRENCY: usize = 8;
/// How long a pull request stays open, and how often the broker sends a heartbeat on it.
const PULL_EXPIRY: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the consumer's lag and settings are checked, and how long the broker may take to answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// The shortest timeout for handling a message. A consumer that was created elsewhere may have a shorter `ack_wait`.
const MIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long sending the last acknowledgements may take at shutdown.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Returns a future that consumes events until `stop` is cancelled, and then finishes the messages in flight.
///
/// # Errors
///
/// The settings are wrong. A broker that is down is not an error: the subscriber keeps trying.
pub async fn subscribe(
    settings: NatsSettings,
    registry: Arc<TokenRegistry>,
    counts: Arc<EventCounts>,
    health: HealthReporter,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + 'static, NatsError> {
    let connection = Connection::open(&settings).await?;
    let subscriber =
        Subscriber { connection, settings, registry, counts, health, stop, recovery: Recovery::default() };
    subscriber.report(false).await;
    Ok(subscriber.run())
}

struct Subscriber {
    connection: Connection,
    settings: NatsSettings,
    registry: Arc<TokenRegistry>,
    counts: Arc<EventCounts>,
    health: HealthReporter,
    stop: CancellationToken,
    recovery: Recovery,
}

/// What the subscriber has while it is attached.
struct Attached {
    consumer: PullConsumer,
    messages: pull::Stream,
    handler: Handler,
}

impl Subscriber {
    async fn run(mut self) {
        let in_flight = TaskTracker::new();
        let mut failures = 0;
        while !self.stop.is_cancelled() {
            let failure = match self.stop.clone().run_until_cancelled(self.attach(&in_flight)).await {
                Some(Ok(attached)) => {
                    tracing::info!(
                        stream = self.settings.stream,
                        durable = self.settings.durable,
                        "attached"
                    );
                    self.report(true).await;
                    failures = 0;
                    let failure = self.consume(attached, &in_flight).await;
                    self.report(false).await;
                    failure
                }
                Some(Err(failure)) => Some(failure),
                None => None,
            };
            let Some(error) = failure else { break };
            failures += 1;
            let pause = delay(failures);
            tracing::warn!(%error, ?pause, "not attached to the stream of account events; trying again");
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        in_flight.close();
        in_flight.wait().await;
        // Acknowledgements are buffered. The timeout is for a broker that is down.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.connection.jetstream.client().flush()).await;
    }

    async fn report(&self, attached: bool) {
        let status = if attached { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.counts.set_attached(attached);
        if !attached {
            self.counts.set_lag(None);
        }
        self.health.set_service_status(USER_EVENTS, status).await;
    }

    /// Finds or creates the streams and the consumer, and starts to pull messages. Messages that the client library
    /// cannot deliver are handled first, because redelivered they would break the connection again.
    async fn attach(&mut self, in_flight: &TaskTracker) -> Result<Attached, async_nats::Error> {
        if self.connection.is_closed() {
            tracing::warn!("the NATS client has ended; starting a new one");
            self.connection = Connection::open(&self.settings).await?;
        }
        let jetstream = &self.connection.jetstream;
        let settings = &self.settings;
        dead_letters::prepare(jetstream).await?;
        let stream = if settings.create_stream {
            let config = stream::Config {
                name: settings.stream.clone(),
                subjects: vec![settings.subject.clone()],
                ..stream::Config::default()
            };
            jetstream.get_or_create_stream(config).await?
        } else {
            jetstream.get_stream(&settings.stream).await?
        };
        let mut consumer = consumer::find_or_create(&stream, settings).await?;
        let handler = Handler {
            jetstream: jetstream.clone(),
            registry: Arc::clone(&self.registry),
            counts: Arc::clone(&self.counts),
            subject: settings.subject.as_str().into(),
            // From the consumer, not from our settings: an existing consumer keeps its own value.
            timeout: consumer.cached_info().config.ack_wait.max(MIN_TIMEOUT),
        };
        replay::skip_if_new(&handler, &mut consumer).await;
        self.recovery.run(&handler, consumer.cached_info(), in_flight).await;
        let messages = consumer.stream().max_messages_per_batch(CONCURRENCY).expires(PULL_EXPIRY);
        let messages = messages.heartbeat(HEARTBEAT).messages().await?;
        Ok(Attached { consumer, messages, handler })
    }

    /// Handles messages until `stop` is cancelled, or until the connection or the consumer fails. Returns the failure.
    async fn consume(&mut self, attached: Attached, in_flight: &TaskTracker) -> Option<async_nats::Error> {
        let Attached { consumer, messages, handler } = attached;
        // Often enough to postpone the redelivery of a damaged message that is being retried.
        let check_interval = CHECK_INTERVAL.min(handler.timeout / 3);
        // Concurrent with the messages, so that a slow answer does not delay them.
        let check = check(consumer, &handler, &mut self.recovery, check_interval, in_flight);
        let replay = replay::run(&handler, &self.settings.stream);
        tokio::select! {
            () = self.stop.cancelled() => None,
            _ = self.connection.disconnected.changed() => Some("the connection was lost".into()),
            error = receive(messages, &handler, in_flight) => Some(error),
            error = check => Some(error),
            never = replay => match never {},
        }
    }
}

/// Handles messages as they arrive. Returns why no more arrive.
async fn receive(
    mut messages: pull::Stream,
    handler: &Handler,
    in_flight: &TaskTracker,
) -> async_nats::Error {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    loop {
        // The semaphore is never closed, so this never fails.
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { pending().await };
        match messages.next().await {
            Some(Ok(message)) => {
                let handler = handler.clone();
                in_flight.spawn(async move {
                    handler.handle(Delivery { message, undeliverable: None }).await;
                    drop(permit);
                });
            }
            Some(Err(error)) => return error.into(),
            None => return "the consumer ended".into(),
        }
    }
}

/// Checks the consumer periodically: records its lag, returns an error if its settings were changed, and recovers
/// messages that the client library cannot deliver.
async fn check(
    mut consumer: PullConsumer,
    handler: &Handler,
    recovery: &mut Recovery,
    interval: Duration,
    in_flight: &TaskTracker,
) -> async_nats::Error {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_floor = None;
    loop {
        ticks.tick().await;
        let Ok(Ok(info)) = tokio::time::timeout(CHECK_TIMEOUT, consumer.info()).await else {
            handler.counts.set_lag(None);
            continue;
        };
        handler.counts.set_lag(Some(info.num_pending + info.num_ack_pending as u64));
        if let Err(refused) = consumer::check(info, &handler.subject) {
            return refused.into();
        }
        let floor = Some(info.ack_floor.stream_sequence);
        // No progress since the last check: damaged messages may be the reason.
        if info.num_ack_pending > 0 && floor == last_floor {
            recovery.run(handler, info, in_flight).await;
        }
        last_floor = floor;
    }
}
