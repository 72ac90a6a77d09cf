//! The subscriber: a durable pull consumer on the identity service's stream, shared by all replicas.
//!
//! A message is acknowledged after its transaction has been committed. A passing fault gives it back, to be delivered
//! again after a delay that grows, for ever. One that can never be read goes to the dead letters first.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_nats::{
    ConnectOptions, Event, ServerAddr,
    jetstream::{
        self, AckKind, Message,
        consumer::{AckPolicy, PullConsumer, pull},
        stream,
    },
};
use futures_util::StreamExt as _;
use opentelemetry::trace::SpanKind;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Semaphore, watch};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};
use tonic_health::{ServingStatus, server::HealthReporter};
use tracing::{Instrument as _, Span, field::Empty};

use super::{EventCounts, dead_letters, user_deleted::UserDeleted};
use crate::{
    instrumentation::{ENTRY, NatsHeaders, enter},
    registry::TokenRegistry,
};

/// The name under which health says whether the subscriber is attached.
pub const USER_EVENTS: &str = "latchkey.v1.UserEvents";

/// Where the events come from.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// The broker; may hold a password.
    pub url: SecretString,
    /// The stream of the identity service.
    pub stream: String,
    /// The subject on that stream.
    pub subject: String,
    /// The name of the consumer that all replicas share.
    pub durable: String,
    /// Whether to make the stream where there is none.
    pub create_stream: bool,
    /// How long the broker waits for an answer before it delivers a message again.
    pub ack_wait: Duration,
    /// File with the credentials: a JWT and its seed.
    pub credentials: Option<PathBuf>,
    /// Whether to insist on TLS.
    pub tls: bool,
    /// File with the certificate authorities to trust beside the machine's.
    pub tls_ca: Option<PathBuf>,
    /// Files with this client's certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

/// Why there is no subscriber, and never will be with these settings.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The URL is none; it may hold a password and is not shown.
    #[error(
        "--nats-url (LATCHKEY_NATS_URL) must be nats://HOST:PORT or tls://HOST:PORT, or several with commas between"
    )]
    Url,
    /// The credentials are not of their form.
    #[error("--nats-credentials (LATCHKEY_NATS_CREDENTIALS): {0}")]
    Credentials(std::io::Error),
    /// A file cannot be read.
    #[error("{setting} names {}, which cannot be read: {fault}", .file.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        fault: std::io::Error,
    },
    /// The TLS files cannot be used.
    #[error("--nats-tls-ca, --nats-tls-cert and --nats-tls-key (LATCHKEY_NATS_TLS_…): {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// How many messages are handled at once: one of a user with many tokens does not hold up the others.
const CONCURRENCY: usize = 8;
/// How long one request for messages stands, and how often the broker shows that it still does.
const PULL_EXPIRY: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How often the broker is asked how far behind the consumer is, and how long it has for an answer.
const LAG_INTERVAL: Duration = Duration::from_secs(10);
const LAG_TIMEOUT: Duration = Duration::from_secs(5);
/// How many unanswered messages the broker lets the replicas have together.
const MAX_ACK_PENDING: i64 = 1_024;
/// How long the last acknowledgements may take at the end.
const FLUSH: Duration = Duration::from_secs(1);
/// The first delay after a fault, and the longest.
const DELAY: Duration = Duration::from_millis(500);
const MAX_DELAY: Duration = Duration::from_secs(30);

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
    let servers: Vec<ServerAddr> = settings
        .url
        .expose_secret()
        .split(',')
        .map(|url| url.trim().parse().map_err(|_| NatsError::Url))
        .collect::<Result<_, _>>()?;
    let (disconnects, disconnected) = watch::channel(());
    let options = connect_options(&settings, disconnects).await?;
    let (options, servers) = with_login(options, servers)?;
    let client = options.connect(servers).await?;
    let subscriber = Subscriber {
        jetstream: jetstream::new(client),
        settings,
        registry,
        counts,
        health,
        stop,
        disconnected,
    };
    subscriber.report(false).await;
    Ok(subscriber.run())
}

async fn connect_options(
    settings: &NatsSettings,
    disconnects: watch::Sender<()>,
) -> Result<ConnectOptions, NatsError> {
    let mut options = ConnectOptions::new()
        .name("latchkey")
        .retry_on_initial_connect()
        .reconnect_delay_callback(|attempts| delay(attempts as u64))
        .event_callback(move |event| {
            match event {
                Event::Connected => tracing::info!("connected to NATS"),
                Event::Disconnected => {
                    tracing::warn!("disconnected from NATS");
                    disconnects.send_replace(());
                }
                other => tracing::warn!(event = %other, "NATS"),
            }
            std::future::ready(())
        });
    if let Some(file) = &settings.credentials {
        check_readable("--nats-credentials (LATCHKEY_NATS_CREDENTIALS)", file)?;
        options = options.credentials_file(file).await.map_err(NatsError::Credentials)?;
    }
    if let Some(file) = &settings.tls_ca {
        check_readable("--nats-tls-ca (LATCHKEY_NATS_TLS_CA)", file)?;
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &settings.tls_identity {
        check_readable("--nats-tls-cert (LATCHKEY_NATS_TLS_CERT)", certificate)?;
        check_readable("--nats-tls-key (LATCHKEY_NATS_TLS_KEY)", key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options.require_tls(settings.tls))
}

/// Takes what the URLs say of a user, `USER:PASSWORD@` or `TOKEN@`, out of them: the client would not use it, and would
/// log it.
fn with_login(
    options: ConnectOptions,
    servers: Vec<ServerAddr>,
) -> Result<(ConnectOptions, Vec<ServerAddr>), NatsError> {
    let login = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    let options = match login {
        Some((user, Some(password))) => options.user_and_password(decoded(user)?, decoded(password)?),
        Some((token, None)) => options.token(decoded(token)?),
        None => options,
    };
    let without = servers.into_iter().map(|server| {
        let mut url = server.into_inner();
        url.set_username("").map_err(|()| NatsError::Url)?;
        url.set_password(None).map_err(|()| NatsError::Url)?;
        ServerAddr::from_url(url).map_err(|_| NatsError::Url)
    });
    Ok((options, without.collect::<Result<_, _>>()?))
}

/// A part of a URL as it was before it was percent-encoded.
fn decoded(part: &str) -> Result<String, NatsError> {
    Ok(percent_decode_str(part).decode_utf8().map_err(|_| NatsError::Url)?.into_owned())
}

/// The client would find out only when it connects, and try for ever.
fn check_readable(setting: &'static str, file: &Path) -> Result<(), NatsError> {
    match File::open(file) {
        Ok(_) => Ok(()),
        Err(fault) => Err(NatsError::File { setting, file: file.to_owned(), fault }),
    }
}

/// The delay after the `attempt`th fault in a row, from 1: twice the one before, up to a limit.
fn delay(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    DELAY.saturating_mul(2_u32.saturating_pow(doublings)).min(MAX_DELAY)
}

struct Subscriber {
    jetstream: jetstream::Context,
    settings: NatsSettings,
    registry: Arc<TokenRegistry>,
    counts: Arc<EventCounts>,
    health: HealthReporter,
    stop: CancellationToken,
    disconnected: watch::Receiver<()>,
}

impl Subscriber {
    async fn run(mut self) {
        let under_way = TaskTracker::new();
        let mut faults = 0;
        while !self.stop.is_cancelled() {
            self.disconnected.mark_unchanged();
            let fault = match self.stop.clone().run_until_cancelled(self.attach()).await {
                Some(Ok((consumer, messages))) => {
                    tracing::info!(
                        stream = self.settings.stream,
                        durable = self.settings.durable,
                        "attached"
                    );
                    self.report(true).await;
                    faults = 0;
                    let fault = self.consume(consumer, messages, &under_way).await;
                    self.report(false).await;
                    fault
                }
                Some(Err(fault)) => Some(fault),
                None => None,
            };
            let Some(fault) = fault else { break };
            faults += 1;
            let pause = delay(faults);
            tracing::warn!(%fault, ?pause, "not attached to the stream of user events; trying again");
            self.stop.run_until_cancelled(tokio::time::sleep(pause)).await;
        }
        under_way.close();
        under_way.wait().await;
        // The last acknowledgements are still on their way out; with the broker away they never get there.
        let _ = tokio::time::timeout(FLUSH, self.jetstream.client().flush()).await;
    }

    async fn report(&self, attached: bool) {
        let status = if attached { ServingStatus::Serving } else { ServingStatus::NotServing };
        self.counts.set_attached(attached);
        if !attached {
            self.counts.set_lag(None);
        }
        self.health.set_service_status(USER_EVENTS, status).await;
    }

    /// Finds the streams and the consumer, making what is ours to make, and asks for messages.
    async fn attach(&self) -> Result<(PullConsumer, pull::Stream), async_nats::Error> {
        dead_letters::prepare(&self.jetstream).await?;
        let settings = &self.settings;
        let stream = if settings.create_stream {
            let config = stream::Config {
                name: settings.stream.clone(),
                subjects: vec![settings.subject.clone()],
                ..stream::Config::default()
            };
            self.jetstream.get_or_create_stream(config).await?
        } else {
            self.jetstream.get_stream(&settings.stream).await?
        };
        let wanted = pull::Config {
            durable_name: Some(settings.durable.clone()),
            description: Some("Latchkey: revokes the tokens of deleted users".to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: settings.ack_wait,
            max_deliver: -1,
            max_ack_pending: MAX_ACK_PENDING,
            filter_subject: settings.subject.clone(),
            ..pull::Config::default()
        };
        let consumer = stream.get_or_create_consumer(&settings.durable, wanted).await?;
        check_consumer(&consumer, &settings.subject)?;
        let messages = consumer.stream().max_messages_per_batch(CONCURRENCY).expires(PULL_EXPIRY);
        let messages = messages.heartbeat(HEARTBEAT).messages().await?;
        Ok((consumer, messages))
    }

    /// Handles messages until told to stop, or until something is wrong with the connection or the consumer.
    async fn consume(
        &mut self,
        consumer: PullConsumer,
        mut messages: pull::Stream,
        under_way: &TaskTracker,
    ) -> Option<async_nats::Error> {
        let room = Arc::new(Semaphore::new(CONCURRENCY));
        // Asked for beside the messages: a broker that is slow to tell does not hold them up. Ends with this.
        let _watch = AbortOnDropHandle::new(tokio::spawn(watch_lag(consumer, Arc::clone(&self.counts))));
        loop {
            let next = async {
                let place = Arc::clone(&room).acquire_owned().await;
                (place, messages.next().await)
            };
            let (place, message) = tokio::select! {
                () = self.stop.cancelled() => return None,
                _ = self.disconnected.changed() => return Some("the connection was lost".into()),
                next = next => next,
            };
            match message {
                Some(Ok(message)) => {
                    let handler = Handler {
                        jetstream: self.jetstream.clone(),
                        registry: Arc::clone(&self.registry),
                        counts: Arc::clone(&self.counts),
                        bound: self.settings.ack_wait,
                    };
                    under_way.spawn(async move {
                        let _held = place;
                        handler.handle(message).await;
                    });
                }
                Some(Err(fault)) => return Some(fault.into()),
                None => return Some("the consumer ended".into()),
            }
        }
    }
}

/// Asks the broker again and again how many messages no replica has acknowledged yet.
async fn watch_lag(mut consumer: PullConsumer, counts: Arc<EventCounts>) {
    let mut turns = tokio::time::interval(LAG_INTERVAL);
    turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        let info = tokio::time::timeout(LAG_TIMEOUT, consumer.info()).await;
        let info = info.ok().and_then(Result::ok);
        counts.set_lag(info.map(|info| info.num_pending + info.num_ack_pending as u64));
    }
}

/// A consumer that somebody else made may lose messages: it must offer each for ever, and wait for an answer.
fn check_consumer(consumer: &PullConsumer, subject: &str) -> Result<(), async_nats::Error> {
    let config = &consumer.cached_info().config;
    let filters_otherwise = !config.filter_subject.is_empty() && config.filter_subject != subject;
    if config.ack_policy != AckPolicy::Explicit || config.max_deliver > 0 || filters_otherwise {
        let name = &consumer.cached_info().name;
        return Err(format!(
            "the consumer {name:?} exists with other settings than explicit acknowledgement, unlimited deliveries \
             and the subject {subject:?}: delete it, or set another LATCHKEY_NATS_DURABLE"
        )
        .into());
    }
    Ok(())
}

struct Handler {
    jetstream: jetstream::Context,
    registry: Arc<TokenRegistry>,
    counts: Arc<EventCounts>,
    bound: Duration,
}

impl Handler {
    async fn handle(&self, message: Message) {
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
        self.answer(message, &id, deliveries).instrument(span).await;
    }

    async fn answer(&self, message: Message, id: &str, deliveries: u64) {
        let answer = match self.read(&message, id) {
            Ok(event) => match tokio::time::timeout(self.bound, event.apply(&self.registry)).await {
                Ok(Ok(())) => {
                    self.counts.count_handled();
                    AckKind::Ack
                }
                Ok(Err(fault)) => give_back(id, deliveries, &fault.to_string()),
                Err(_) => give_back(id, deliveries, "it took too long"),
            },
            Err(reason) => match dead_letters::bury(&self.jetstream, &message, &reason).await {
                Ok(()) => {
                    tracing::error!(
                        message = id,
                        reason,
                        "a message can never be read; it is in the dead letters"
                    );
                    self.counts.count_dead_lettered();
                    AckKind::Term
                }
                Err(fault) => give_back(id, deliveries, &format!("no dead letter could be written: {fault}")),
            },
        };
        let (word, status) = match answer {
            AckKind::Ack => ("acknowledged", "OK"),
            AckKind::Term => ("dead-lettered", "ERROR"),
            _ => ("given back", "ERROR"),
        };
        Span::current().record("latchkey.answer", word).record("otel.status_code", status);
        // If the answer is lost the message comes again, and changes nothing.
        if let Err(fault) = message.ack_with(answer).await {
            tracing::warn!(message = id, %fault, "a message was not answered; it will come again");
        }
    }

    fn read(&self, message: &Message, id: &str) -> Result<UserDeleted, String> {
        let headers = NatsHeaders(message.headers.as_ref());
        let header = |wanted: &str| headers.first(wanted);
        UserDeleted::read(header, &message.payload, Some(id.to_owned())).map_err(|fault| fault.to_string())
    }
}

fn give_back(id: &str, deliveries: u64, fault: &str) -> AckKind {
    let delay = delay(deliveries);
    tracing::warn!(
        message = id,
        deliveries,
        fault,
        ?delay,
        "a message could not be handled; it will come again"
    );
    AckKind::Nak(Some(delay))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_a_limit() {
        let millis = |attempt| delay(attempt).as_millis();
        assert_eq!(
            [0, 1, 2, 3, 6, 7, 8, u64::MAX].map(millis),
            [500, 500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]
        );
    }
}
