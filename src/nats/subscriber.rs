//! The subscriber: a durable pull consumer on the identity service's stream, shared by all replicas.
//!
//! A message is acknowledged after its transaction has been committed. A passing fault gives it back, to be delivered
//! again after a delay that grows, for ever. One that can never be read goes to the dead letters first.

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
    handler::{Delivery, Handler},
    recovery::Recovery,
};
use crate::{account_events::EventCounts, registry::TokenRegistry};

/// The name under which health says whether the subscriber is attached.
pub const USER_EVENTS: &str = "latchkey.v1.UserEvents";

/// How many messages are handled at once: one of a user with many tokens does not hold up the others.
const CONCURRENCY: usize = 8;
/// How long one request for messages stands, and how often the broker shows that it still does.
const PULL_EXPIRY: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the broker is asked how far behind the consumer is, and how long it has for an answer.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);
/// What a consumer that somebody else made is taken to wait for an answer, if it waits for less.
const MIN_ACK_WAIT: Duration = Duration::from_secs(1);
/// How long the last acknowledgements may take at the end.
const FLUSH: Duration = Duration::from_secs(1);
/// Subscribes, and stays subscribed until `stop`; then finishes the messages under way.
///
/// # Errors
///
/// The settings cannot be used. That the broker is away is no error: it keeps trying.
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

/// What there is once the consumer was found.
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
            tracing::warn!(%error, ?pause, "not attached to the stream of user events; trying again");
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        in_flight.close();
        in_flight.wait().await;
        // The last acknowledgements are still on their way out; with the broker away they never get there.
        let _ = tokio::time::timeout(FLUSH, self.connection.jetstream.client().flush()).await;
    }

    async fn report(&self, attached: bool) {
        let status = if attached { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.counts.set_attached(attached);
        if !attached {
            self.counts.set_lag(None);
        }
        self.health.set_service_status(USER_EVENTS, status).await;
    }

    /// Finds the streams and the consumer, making what is ours to make, and asks for messages. Those that the client
    /// library cannot deliver are handled first: delivered again, they would break the connection again.
    async fn attach(&mut self, in_flight: &TaskTracker) -> Result<Attached, async_nats::Error> {
        if self.connection.is_closed() {
            tracing::warn!("the NATS client has ended; making another one");
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
        let consumer = consumer::find_or_create(&stream, settings).await?;
        let handler = Handler {
            jetstream: jetstream.clone(),
            registry: Arc::clone(&self.registry),
            counts: Arc::clone(&self.counts),
            subject: settings.subject.as_str().into(),
            // Of the consumer as it is: one that exists is not changed by our setting.
            bound: consumer.cached_info().config.ack_wait.max(MIN_ACK_WAIT),
        };
        self.recovery.run(&handler, consumer.cached_info(), in_flight).await;
        let messages = consumer.stream().max_messages_per_batch(CONCURRENCY).expires(PULL_EXPIRY);
        let messages = messages.heartbeat(HEARTBEAT).messages().await?;
        Ok(Attached { consumer, messages, handler })
    }

    /// Handles messages until told to stop, or until something is wrong with the connection or the consumer.
    async fn consume(&mut self, attached: Attached, in_flight: &TaskTracker) -> Option<async_nats::Error> {
        let Attached { consumer, messages, handler } = attached;
        // Often enough to tell the broker, before it delivers a message again, that it is still being tried.
        let check_interval = CHECK_INTERVAL.min(handler.bound / 3);
        // Beside the messages: a broker that is slow to tell does not hold them up.
        let check = check(consumer, &handler, &mut self.recovery, check_interval, in_flight);
        tokio::select! {
            () = self.stop.cancelled() => None,
            _ = self.connection.disconnected.changed() => Some("the connection was lost".into()),
            error = receive(messages, &handler, in_flight) => Some(error),
            error = check => Some(error),
        }
    }
}

/// Handles messages as they come, until there are none any more.
async fn receive(
    mut messages: pull::Stream,
    handler: &Handler,
    in_flight: &TaskTracker,
) -> async_nats::Error {
    let permits = Arc::new(Semaphore::new(CONCURRENCY));
    loop {
        // Never closed, so that there is always one to come.
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

/// Asks the broker again and again about the consumer: how many messages no replica has acknowledged yet, whether its
/// settings are still good, and whether messages stay unacknowledged because the client library cannot deliver them.
async fn check(
    mut consumer: PullConsumer,
    handler: &Handler,
    recovery: &mut Recovery,
    interval: Duration,
    in_flight: &TaskTracker,
) -> async_nats::Error {
    let mut turns = tokio::time::interval(interval);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut floor_before = None;
    loop {
        turns.tick().await;
        let Ok(Ok(info)) = tokio::time::timeout(CHECK_TIMEOUT, consumer.info()).await else {
            handler.counts.set_lag(None);
            continue;
        };
        handler.counts.set_lag(Some(info.num_pending + info.num_ack_pending as u64));
        if let Err(refused) = consumer::check(info, &handler.subject) {
            return refused.into();
        }
        let floor = Some(info.ack_floor.stream_sequence);
        if info.num_ack_pending > 0 && floor == floor_before {
            recovery.run(handler, info, in_flight).await;
        }
        floor_before = floor;
    }
}
