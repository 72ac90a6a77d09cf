//! Wires the parts, opens the listeners, and shuts down in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::{self, Config, ConfigError},
    events::{self, EventCounts, NatsError, USER_EVENTS},
    grpc::{self, GrpcLimits, LIVENESS, TOKEN_SERVICE},
    http::{self, HttpLimits, Sources},
    registry::TokenRegistry,
    store::{DatabaseUrl, Store, StoreError, create_private_folder},
    token::{Hasher, KeyRing, KeyRingError, Prover},
    validation::RevocationTail,
};

/// A running service.
#[derive(Debug)]
pub struct Server {
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    registry: Arc<TokenRegistry>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServeError>>,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The argon2 costs do not go together.
    #[error("--argon2-memory-kib and --argon2-iterations: {0}")]
    Argon2(argon2::Error),
    /// The key ring cannot be used.
    #[error("--key-ring (LATCHKEY_KEY_RING): {file} {fault}")]
    KeyRing {
        /// The file.
        file: String,
        /// Why.
        fault: KeyRingError,
    },
    /// The data folder cannot be made.
    #[error("--data-dir (LATCHKEY_DATA_DIR): {0}")]
    DataDir(std::io::Error),
    /// The database cannot be opened or brought up to date.
    #[error("--database-url (LATCHKEY_DATABASE_URL): {0}")]
    Store(#[from] StoreError),
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {addr}: {fault}")]
    Listen {
        /// The setting.
        setting: &'static str,
        /// The address.
        addr: SocketAddr,
        /// Why.
        fault: std::io::Error,
    },
    /// A metric is described in a way that Prometheus does not take.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The subscriber cannot be set up.
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// Why the service ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The gRPC listener failed.
    #[error("the gRPC listener failed: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// A task panicked.
    #[error("a part of the service failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Server {
    /// Opens the database, brings it up to date, and serves.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        config.check()?;
        let url = config.database.url()?;
        let hasher = Hasher::new(config.hash_limits()).map_err(StartError::Argon2)?;
        let keys = open_key_ring(config, &url)?;
        let store = Store::connect(&url, config.database.pool_limits()).await?;
        store.migrate().await?;

        let registry = Arc::new(TokenRegistry::new(
            store.clone(),
            Prover::new(hasher, keys),
            config.token_prefix.clone(),
            u64::from(config.max_tokens_per_user),
            config.validation_limits(),
        ));
        let mut tail = registry.revocation_tail();
        if let Err(fault) = tail.look().await {
            tracing::warn!(%fault, "revocations are not seen yet; every validation asks the database");
        }
        let grpc = listen("--grpc-addr (LATCHKEY_GRPC_ADDR)", config.grpc_addr).await?;
        let http = listen("--http-addr (LATCHKEY_HTTP_ADDR)", config.http_addr).await?;
        let (grpc_addr, http_addr) = (grpc.1, http.1);

        let stop = CancellationToken::new();
        let health = HealthReporter::new();
        health.set_service_status(LIVENESS, ServingStatus::Serving).await;
        report(&health, true).await;
        let (unready, watched) = watch::channel(None);
        let durations = grpc::durations()?;
        let events = Arc::new(EventCounts::default());
        let mut doors = JoinSet::new();
        if let Some(settings) = config.nats.settings() {
            let subscriber = events::subscribe(
                settings,
                Arc::clone(&registry),
                Arc::clone(&events),
                health.clone(),
                stop.clone(),
            )
            .await?;
            doors.spawn(async {
                subscriber.await;
                Ok(())
            });
        }
        let sources = Sources {
            registry: Arc::clone(&registry),
            store: store.clone(),
            durations: durations.clone(),
            events,
            subscribes: config.nats.nats_url.is_some(),
            unready: watched,
        };
        let serving = http::serve(http.0, sources, http_limits(config), stop.clone());
        doors.spawn(async {
            serving.await;
            Ok(())
        });
        let serving = grpc::serve(
            grpc.0,
            Arc::clone(&registry),
            durations,
            health.clone(),
            grpc_limits(config),
            stop.clone(),
        );
        doors.spawn(async { Ok(serving.await?) });

        let service = Service { registry: Arc::clone(&registry), store, health, unready, stop: stop.clone() };
        let running = tokio::spawn(service.run(doors, tail, config.clone()));
        Ok(Self { grpc_addr, http_addr, registry, stop, running })
    }

    /// The address of the gRPC listener.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// The address of the HTTP listener.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// The rules, for callers in the same process.
    pub fn registry(&self) -> &Arc<TokenRegistry> {
        &self.registry
    }

    /// Makes the service stop when this is cancelled.
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until the service has ended.
    ///
    /// # Errors
    ///
    /// It ended other than by being told to.
    pub async fn ended(self) -> Result<(), ServeError> {
        self.running.await?
    }
}

/// The ring that is configured; with none, that of the data folder, if the database is the embedded one.
fn open_key_ring(config: &Config, url: &DatabaseUrl) -> Result<KeyRing, StartError> {
    let (file, ring) = match (&config.key_ring, url) {
        (Some(file), _) => (file.clone(), KeyRing::open(file)),
        (None, DatabaseUrl::Sqlite(_)) => {
            create_private_folder(&config.database.data_dir).map_err(StartError::DataDir)?;
            let file = config.database.data_dir.join(config::KEY_RING);
            let ring = KeyRing::open_or_create(&file);
            (file, ring)
        }
        (None, DatabaseUrl::Postgres(_)) => {
            tracing::warn!(
                "no key ring (LATCHKEY_KEY_RING): argon2 runs for each token that is not in memory"
            );
            return Ok(KeyRing::empty());
        }
    };
    ring.map_err(|fault| StartError::KeyRing { file: file.display().to_string(), fault })
}

async fn listen(setting: &'static str, addr: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listening = async {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        Ok((listener, addr))
    };
    listening.await.map_err(|fault| StartError::Listen { setting, addr, fault })
}

fn grpc_limits(config: &Config) -> GrpcLimits {
    GrpcLimits {
        request_timeout: config.request_timeout,
        concurrent_requests: config.max_concurrent_requests as usize,
        streams: config.max_streams,
    }
}

fn http_limits(config: &Config) -> HttpLimits {
    HttpLimits {
        request_timeout: config.request_timeout,
        concurrent_requests: config.max_concurrent_requests as usize,
    }
}

struct Service {
    registry: Arc<TokenRegistry>,
    store: Store,
    health: HealthReporter,
    unready: watch::Sender<Option<String>>,
    stop: CancellationToken,
}

impl Service {
    /// Runs until the doors have closed: when told to stop, or when one of them failed. Then puts things in order.
    async fn run(
        self,
        mut doors: JoinSet<Result<(), ServeError>>,
        tail: RevocationTail,
        config: Config,
    ) -> Result<(), ServeError> {
        let watch =
            tokio::spawn(watch_database(self.store.clone(), self.health, self.unready, self.stop.clone()));
        let revocations = tokio::spawn(tail.follow(config.revocation_poll));
        let notes = tokio::spawn(write_notes(
            Arc::clone(&self.registry),
            config.last_used_interval,
            self.stop.clone(),
        ));
        let closed = close(&mut doors, &self.stop, config.shutdown_grace).await;
        watch.await?;
        notes.await?;
        revocations.abort();
        // After the last call, so that its use is noted.
        let bound = config.database.database_timeout;
        bounded(bound, "last uses were not written", self.registry.flush_last_used()).await;
        bounded(bound, "the database was not closed in order", self.store.close()).await;
        closed
    }
}

/// Ends when all doors have ended, which they do when told to stop, once their calls are done; or when the time for that
/// is up. A door that fails stops the others.
async fn close(
    doors: &mut JoinSet<Result<(), ServeError>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let mut ended = Ok(());
    let closing = async {
        while let Some(door) = doors.join_next().await {
            let door = door.map_err(ServeError::from).flatten();
            if door.is_err() {
                stop.cancel();
            }
            if ended.is_ok() {
                ended = door;
            }
        }
    };
    let grace_over = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = closing => {}
        () = grace_over => {
            tracing::warn!(?grace, "calls were cut off: they took longer than the grace period");
        }
    }
    doors.shutdown().await;
    ended
}

/// Awaits what must not hold the shutdown up for longer than `bound`; complains if it fails.
async fn bounded<E: std::fmt::Display>(
    bound: Duration,
    complaint: &str,
    work: impl Future<Output = Result<(), E>>,
) {
    match tokio::time::timeout(bound, work).await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => tracing::warn!(%fault, "{complaint}"),
        Err(_) => tracing::warn!("{complaint}: it took too long"),
    }
}

/// How often the database is asked for a sign of life, and how long it has for an answer.
const PULSE: Duration = Duration::from_millis(500);
const PULSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports in health, and by `unready`, whether the database answers and is up to date.
async fn watch_database(
    store: Store,
    mut health: HealthReporter,
    unready: watch::Sender<Option<String>>,
    stop: CancellationToken,
) {
    let mut serving = true;
    while stop.run_until_cancelled(tokio::time::sleep(PULSE)).await.is_some() {
        let Some(answer) = stop.run_until_cancelled(store.check(PULSE_TIMEOUT)).await else {
            break;
        };
        unready.send_replace(answer.as_ref().err().map(ToString::to_string));
        if answer.is_ok() == serving {
            continue;
        }
        serving = answer.is_ok();
        report(&health, serving).await;
        match answer {
            Ok(()) => tracing::info!("the database answers again"),
            Err(fault) => tracing::warn!(%fault, "the database cannot be used"),
        }
    }
    unready.send_replace(Some("the service is stopping".to_owned()));
    report(&health, false).await;
    // Ends the streams of whoever watches: they would hold the shutdown up.
    for service in ["", TOKEN_SERVICE, USER_EVENTS, LIVENESS] {
        health.clear_service_status(service).await;
    }
}

async fn report(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", TOKEN_SERVICE] {
        health.set_service_status(service, status).await;
    }
}

/// Writes down when tokens were last used, every `interval`.
async fn write_notes(registry: Arc<TokenRegistry>, interval: Duration, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
        if let Err(fault) = registry.flush_last_used().await {
            tracing::warn!(%fault, "last uses are not written yet");
        }
    }
}
