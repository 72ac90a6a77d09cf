//! Wires the parts, opens the listeners, and shuts down in order.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    config::{Config, ConfigError},
    grpc::{self, GrpcLimits, TOKEN_SERVICE},
    registry::TokenRegistry,
    store::{DatabaseUrl, Store, StoreError, create_private_folder},
    token::{Hasher, KeyRing, KeyRingError, Prover},
};

/// A running service.
#[derive(Debug)]
pub struct Server {
    grpc_addr: SocketAddr,
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
    /// The address cannot be listened on.
    #[error("--grpc-addr (LATCHKEY_GRPC_ADDR): cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
}

/// Why the service ended other than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The listener failed.
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
        ));
        let cannot_listen = |fault| StartError::Listen(config.grpc_addr, fault);
        let listener = TcpListener::bind(config.grpc_addr).await.map_err(cannot_listen)?;
        let grpc_addr = listener.local_addr().map_err(cannot_listen)?;

        let stop = CancellationToken::new();
        let service = Service { registry: Arc::clone(&registry), store, stop: stop.clone() };
        let running = tokio::spawn(service.run(listener, config.clone()));
        Ok(Self { grpc_addr, registry, stop, running })
    }

    /// The address of the gRPC listener.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
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
            let file = config.database.data_dir.join("keyring.toml");
            let ring = KeyRing::open_or_create(&file);
            (file, ring)
        }
        (None, DatabaseUrl::Postgres(_)) => {
            tracing::warn!(
                "no key ring (LATCHKEY_KEY_RING): the first validation of each token after a start runs argon2"
            );
            return Ok(KeyRing::empty());
        }
    };
    ring.map_err(|fault| StartError::KeyRing { file: file.display().to_string(), fault })
}

struct Service {
    registry: Arc<TokenRegistry>,
    store: Store,
    stop: CancellationToken,
}

impl Service {
    async fn run(self, listener: TcpListener, config: Config) -> Result<(), ServeError> {
        let health = HealthReporter::new();
        report(&health, true).await;
        let watch = tokio::spawn(watch_database(self.store.clone(), health.clone(), self.stop.clone()));
        let notes = tokio::spawn(write_notes(
            Arc::clone(&self.registry),
            config.last_used_interval,
            self.stop.clone(),
        ));
        let limits = GrpcLimits {
            request_timeout: config.request_timeout,
            concurrent_requests: config.max_concurrent_requests as usize,
            streams: config.max_streams,
        };
        let grpc = grpc::serve(listener, Arc::clone(&self.registry), health, limits, self.stop.clone());
        let served = self.until_drained(grpc, config.shutdown_grace).await;

        // Also when the listener failed: the other parts end too.
        self.stop.cancel();
        watch.await?;
        notes.await?;
        // After the last call, so that its use is noted.
        let bound = config.database.database_timeout;
        bounded(bound, "last uses were not written", self.registry.flush_last_used()).await;
        bounded(bound, "the database was not closed in order", self.store.close()).await;
        Ok(served?)
    }

    /// Ends with the listener, which drains when told to stop, or when the time for that is up.
    async fn until_drained(
        &self,
        grpc: impl Future<Output = Result<(), tonic::transport::Error>>,
        grace: Duration,
    ) -> Result<(), tonic::transport::Error> {
        let grace_over = async {
            self.stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        tokio::select! {
            served = grpc => served,
            () = grace_over => {
                tracing::warn!(?grace, "calls were cut off: they took longer than the grace period");
                Ok(())
            }
        }
    }
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

/// Reports in health whether the database answers.
async fn watch_database(store: Store, health: HealthReporter, stop: CancellationToken) {
    let mut serving = true;
    while stop.run_until_cancelled(tokio::time::sleep(PULSE)).await.is_some() {
        let Some(answer) = stop.run_until_cancelled(store.ping(PULSE_TIMEOUT)).await else {
            break;
        };
        if answer.is_ok() == serving {
            continue;
        }
        serving = answer.is_ok();
        report(&health, serving).await;
        match answer {
            Ok(()) => tracing::info!("the database answers again"),
            Err(fault) => tracing::warn!(%fault, "the database is away"),
        }
    }
    report(&health, false).await;
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
