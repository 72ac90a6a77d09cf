//! Opens the listeners and the database, and starts the parts of the service.

use std::{net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use super::{listeners::Listeners, readiness::DatabaseWatch, shutdown::Service};
use crate::{
    caller::{Callers, CallersError},
    clock::Clock,
    config::{self, Config, ConfigError},
    credentials::{Hasher, KeyRing, KeyRingError, SecretVerifier},
    gateway::Gateway,
    grpc::{self, GrpcLimits, LIVENESS, Services},
    http::{self, HttpLimits, HttpState},
    listener::{ClientAuth, TlsError},
    nats::{self, NatsError},
    oauth::OAuth,
    page::{Look, Page, PageState, Recognition},
    registry::TokenRegistry,
    store::{DatabaseUrl, Store, StoreError, create_private_folder},
};

/// A running service.
#[derive(Debug)]
pub struct Server {
    grpc_addr: SocketAddr,
    http_addr: SocketAddr,
    admin_addr: SocketAddr,
    has_page: bool,
    registry: Arc<TokenRegistry>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServeError>>,
}

/// A service for which nothing can fail any more but the database. It has the listeners' ports, but answers nothing yet, and
/// is not registered as a replica: dropping it leaves nothing behind.
pub struct PreparedServer {
    config: Config,
    listeners: Listeners,
    state: HttpState,
    subscriber: Option<Subscriber>,
    health: HealthReporter,
    unready: watch::Sender<Option<String>>,
    stop: CancellationToken,
    is_prepared: bool,
}

type Subscriber = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why the service did not start.
#[allow(missing_docs, reason = "the fields are what their names say")]
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The combination of argon2 costs is not allowed.
    #[error("--argon2-memory-kib and --argon2-iterations: {0}")]
    Argon2(argon2::Error),
    /// The key ring cannot be used.
    #[error("--key-ring (LATCHKEY_KEY_RING): {file} {error}")]
    KeyRing { file: String, error: KeyRingError },
    /// The data folder cannot be created.
    #[error("--data-dir (LATCHKEY_DATA_DIR): {}: {error}", .folder.display())]
    DataDir { folder: PathBuf, error: std::io::Error },
    /// The certificates cannot be used.
    #[error("TLS (LATCHKEY_TLS_CERT, LATCHKEY_TLS_KEY, LATCHKEY_TLS_CLIENT_CA): {0}")]
    Tls(#[from] TlsError),
    /// The callers file cannot be used.
    #[error("--callers (LATCHKEY_CALLERS): {}: {error}", .file.display())]
    Callers { file: PathBuf, error: CallersError },
    /// The database cannot be opened or migrated, and retrying would not help.
    #[error("--database-url (LATCHKEY_DATABASE_URL): {location}: {error}")]
    Store { location: String, error: StoreError },
    /// An address cannot be listened on.
    #[error("{setting}: cannot listen on {addr}: {error}")]
    Listen { setting: &'static str, addr: SocketAddr, error: std::io::Error },
    /// A metric's description is not valid in Prometheus.
    #[error(transparent)]
    Metrics(#[from] prometheus::Error),
    /// The settings of the subscriber cannot be used.
    #[error(transparent)]
    Nats(#[from] NatsError),
}

/// Why the service stopped without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A task panicked.
    #[error("a part of the service failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl Server {
    /// Opens the listeners and the database, migrates the database, and serves. If PostgreSQL is out of reach, the service
    /// answers UNAVAILABLE and keeps trying.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn start(config: &Config, clock: Clock) -> Result<Self, StartError> {
        Ok(Self::prepare(config, clock).await?.run().await)
    }

    /// Opens the listeners and the database, and migrates the database. Can be dropped at any time.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub async fn prepare(config: &Config, clock: Clock) -> Result<PreparedServer, StartError> {
        config.check()?;
        let url = config.database.url()?;
        let hasher = Hasher::new(config.hash_limits()).map_err(StartError::Argon2)?;
        // First: a second service on the same address must not touch the data of the first.
        let listeners = Listeners::open(config).await?;
        let keys = open_key_ring(config, &url)?;
        let callers = Arc::new(open_callers(config)?);
        let (store, is_prepared) = open_store(config, &url).await?;
        let registry = Arc::new(TokenRegistry::new(
            store.clone(),
            clock,
            SecretVerifier::new(hasher, keys),
            config.token_prefix.clone(),
            u64::from(config.max_tokens_per_user),
            config.callers.creation_rates(),
            config.validation_limits(),
        ));
        let stop = CancellationToken::new();
        let health = HealthReporter::new();
        let (unready, watched) = watch::channel(None);
        let page = page_state(config, &registry, &callers)?;
        let state = HttpState {
            registry: Arc::clone(&registry),
            gateway: Gateway {
                registry: Arc::clone(&registry),
                api_key_header: config.gateway.api_key_header.clone(),
            },
            page: Page(Arc::new(page)),
            oauth: OAuth { registry: Arc::clone(&registry), issuer: config.gateway.issuer.clone() },
            store,
            durations: grpc::durations()?,
            callers,
            events: Arc::default(),
            subscribes: config.nats.nats_url.is_some(),
            unready: watched,
            connections: listeners.connections(),
        };
        let subscriber = subscriber(config, &state, &health, &stop).await?;
        let config = config.clone();
        Ok(PreparedServer { config, listeners, state, subscriber, health, unready, stop, is_prepared })
    }

    /// Returns the address of the gRPC listener.
    pub fn grpc_addr(&self) -> SocketAddr {
        self.grpc_addr
    }

    /// Returns the address of the HTTP listener.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Returns the address of the admin listener.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Returns whether there is a web page.
    pub(crate) fn has_page(&self) -> bool {
        self.has_page
    }

    /// Returns the registry, for callers in the same process.
    pub fn registry(&self) -> &Arc<TokenRegistry> {
        &self.registry
    }

    /// Returns the token that stops the service when it is cancelled.
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits until the service has ended.
    ///
    /// # Errors
    ///
    /// It stopped without being asked to.
    pub async fn ended(self) -> Result<(), ServeError> {
        self.running.await?
    }
}

impl PreparedServer {
    /// Registers the service as a replica, and serves. Not to be dropped before it has returned: the others would wait for
    /// this replica. It returns within a few seconds, whatever the database does.
    pub async fn run(self) -> Server {
        let Self { config, listeners, state, subscriber, health, unready, stop, is_prepared } = self;
        let [grpc_addr, http_addr, admin_addr] =
            [listeners.grpc.addr, listeners.http.addr, listeners.admin.addr];
        let has_page = !matches!(state.page.0.recognition, Recognition::Off);
        let (registry, store) = (Arc::clone(&state.registry), state.store.clone());
        let mut tail = registry.revocation_tail();
        if is_prepared && let Err(error) = tail.poll_once().await {
            tracing::warn!(%error, "the revocation log cannot be read yet");
        }
        health.set_service_status(LIVENESS, ServingStatus::Serving).await;
        let watch =
            DatabaseWatch::new(store.clone(), Arc::clone(&registry), health.clone(), unready, is_prepared)
                .await;
        let transports = start_transports(&config, listeners, state, subscriber, health, &stop);
        let service = Service { registry: Arc::clone(&registry), store, watch, stop: stop.clone() };
        let running = tokio::spawn(service.run(transports, tail, config));
        Server { grpc_addr, http_addr, admin_addr, has_page, registry, stop, running }
    }
}

/// Returns the subscriber, if one is configured.
async fn subscriber(
    config: &Config,
    state: &HttpState,
    health: &HealthReporter,
    stop: &CancellationToken,
) -> Result<Option<Subscriber>, StartError> {
    let Some(settings) = config.nats.settings() else { return Ok(None) };
    let (registry, events) = (Arc::clone(&state.registry), Arc::clone(&state.events));
    let subscriber = nats::subscribe(settings, registry, events, health.clone(), stop.clone()).await?;
    Ok(Some(Box::pin(subscriber)))
}

/// Starts the subscriber, and serves on all listeners, gRPC first.
fn start_transports(
    config: &Config,
    listeners: Listeners,
    state: HttpState,
    subscriber: Option<Subscriber>,
    health: HealthReporter,
    stop: &CancellationToken,
) -> JoinSet<Result<(), ServeError>> {
    let mut transports = JoinSet::new();
    if let Some(subscriber) = subscriber {
        transports.spawn(async {
            subscriber.await;
            Ok(())
        });
    }
    transports.spawn(follow(Arc::clone(&state.callers), stop.clone()));
    let services = Services {
        registry: Arc::clone(&state.registry),
        gateway: state.gateway.clone(),
        removes_credential: config.gateway.remove_credential,
        callers: Arc::clone(&state.callers),
        durations: state.durations.clone(),
        health,
    };
    for tls in listeners.tls() {
        let stop = stop.clone();
        transports.spawn(async move {
            stop.run_until_cancelled(tls.follow()).await;
            Ok(())
        });
    }
    let Listeners { grpc, http, admin } = listeners;
    let serving = grpc::serve(grpc.tcp, grpc.listener, services, grpc_limits(config), stop.clone());
    transports.spawn(async {
        serving.await;
        Ok(())
    });
    let state = Arc::new(state);
    let serving = http::serve_admin(admin.tcp, admin.listener, Arc::clone(&state), stop.clone());
    transports.spawn(async {
        serving.await;
        Ok(())
    });
    let serving = http::serve(http.tcp, http.listener, state, http_limits(config), stop.clone());
    transports.spawn(async {
        serving.await;
        Ok(())
    });
    transports
}

/// Returns what the web page is made of.
fn page_state(
    config: &Config,
    registry: &Arc<TokenRegistry>,
    callers: &Arc<Callers>,
) -> Result<PageState, StartError> {
    let page = &config.page;
    Ok(PageState {
        registry: Arc::clone(registry),
        callers: Arc::clone(callers),
        recognition: config.page_recognition()?,
        look: Look {
            product: page.page_product.clone(),
            colors: page.page_accent.css(),
            logo: page.logo()?,
            back: page.page_back.clone(),
            frame_ancestors: page.page_frame_ancestors.clone().unwrap_or_default(),
            api: page.page_api.clone(),
        },
        scopes: page.scopes()?,
    })
}

/// Follows changes of the callers file until `stop` is cancelled.
async fn follow(callers: Arc<Callers>, stop: CancellationToken) -> Result<(), ServeError> {
    stop.run_until_cancelled_owned(callers.follow()).await;
    Ok(())
}

/// Reads the callers file, if one is configured.
fn open_callers(config: &Config) -> Result<Callers, StartError> {
    let Some(file) = &config.callers.callers else { return Ok(Callers::unchecked()) };
    let client_certificates = config.tls.client_auth() != ClientAuth::None;
    Callers::open(file, client_certificates)
        .map_err(|error| StartError::Callers { file: file.clone(), error })
}

/// Opens and prepares the database. Returns whether it is prepared: PostgreSQL may be out of reach for now.
///
/// # Errors
///
/// An error that retrying would not fix.
async fn open_store(config: &Config, url: &DatabaseUrl) -> Result<(Store, bool), StartError> {
    let error = |error| StartError::Store { location: url.to_string(), error };
    let store = Store::open(url, config.database.pool_limits()).await.map_err(error)?;
    match store.prepare().await {
        Ok(()) => Ok((store, true)),
        Err(outage) if outage.is_outage() && matches!(url, DatabaseUrl::Postgres(_)) => {
            tracing::warn!(database = %url, error = %outage, "the database is out of reach; trying again");
            Ok((store, false))
        }
        Err(other) => Err(error(other)),
    }
}

/// Opens the configured key ring; by default, with SQLite, the one in the data folder, and with PostgreSQL none.
fn open_key_ring(config: &Config, url: &DatabaseUrl) -> Result<KeyRing, StartError> {
    let (file, ring) = match (&config.key_ring, url) {
        (Some(file), _) => (file.clone(), KeyRing::open(file)),
        (None, DatabaseUrl::Sqlite(_)) => {
            let folder = &config.database.data_dir;
            create_private_folder(folder)
                .map_err(|error| StartError::DataDir { folder: folder.clone(), error })?;
            let file = config.database.data_dir.join(config::KEY_RING);
            let ring = KeyRing::open_or_create(&file);
            (file, ring)
        }
        (None, DatabaseUrl::Postgres(_)) => {
            tracing::warn!(
                "no key ring (LATCHKEY_KEY_RING): argon2 runs for each token that is not in the cache"
            );
            return Ok(KeyRing::empty());
        }
    };
    ring.map_err(|error| StartError::KeyRing { file: file.display().to_string(), error })
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
