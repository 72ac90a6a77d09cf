//! The connection to the broker: settings, TLS, credentials.

use std::{
    fs::File,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{ConnectOptions, Event, ServerAddr, jetstream};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::backoff::delay;

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
    #[error("{setting} names {}, which cannot be read: {error}", .file.display())]
    File {
        /// The setting.
        setting: &'static str,
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The TLS files cannot be used.
    #[error("--nats-tls-ca, --nats-tls-cert and --nats-tls-key (LATCHKEY_NATS_TLS_…): {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// A connection to the broker; it comes back by itself, unless its task has died.
pub(super) struct Connection {
    pub(super) jetstream: jetstream::Context,
    /// Changes when the connection is lost; closed when its task has ended.
    pub(super) disconnected: watch::Receiver<()>,
}

impl Connection {
    /// Connects in the background: a broker that is away is no error.
    ///
    /// # Errors
    ///
    /// The settings cannot be used.
    pub(super) async fn open(settings: &NatsSettings) -> Result<Self, NatsError> {
        let servers: Vec<ServerAddr> = settings
            .url
            .expose_secret()
            .split(',')
            .map(|url| url.trim().parse().map_err(|_| NatsError::Url))
            .collect::<Result<_, _>>()?;
        let (disconnects, disconnected) = watch::channel(());
        let options = connect_options(settings, disconnects).await?;
        let (options, servers) = with_login(options, servers)?;
        let client = options.connect(servers).await?;
        Ok(Self { jetstream: jetstream::new(client), disconnected })
    }

    /// Returns whether the client's task has ended, after which nothing can be sent any more. The callback that the task
    /// calls holds the sending half of `disconnected`.
    pub(super) fn is_closed(&mut self) -> bool {
        self.disconnected.mark_unchanged();
        self.disconnected.has_changed().is_err()
    }
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
                Event::Closed => tracing::debug!("the connection to NATS was closed"),
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
        Err(error) => Err(NatsError::File { setting, file: file.to_owned(), error }),
    }
}
