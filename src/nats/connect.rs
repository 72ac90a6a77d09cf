//! The connection to the broker: settings, TLS, credentials.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_nats::{ConnectOptions, Event, ServerAddr, jetstream};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::watch;

use super::backoff::delay;

/// Settings of the subscriber.
#[derive(Clone, Debug)]
pub struct NatsSettings {
    /// One or several broker URLs with commas between them; may contain a password.
    pub url: SecretString,
    /// The identity service's stream.
    pub stream: String,
    /// The subject of UserDeleted on that stream; may have wildcards.
    pub subject: String,
    /// The name of the durable consumer that all replicas share.
    pub durable: String,
    /// Whether to create the stream if it does not exist.
    pub create_stream: bool,
    /// How long the broker waits for an acknowledgement before it redelivers a message.
    pub ack_wait: Duration,
    /// A `.creds` file: a JWT and its seed.
    pub credentials: Option<PathBuf>,
    /// Whether to refuse connections without TLS.
    pub tls: bool,
    /// A PEM file with CA certificates that are trusted in addition to the system's.
    pub tls_ca: Option<PathBuf>,
    /// PEM files with the client certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

/// Settings with which the subscriber can never connect.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// A URL cannot be parsed. It may contain a password, so the message does not quote it.
    #[error(
        "--nats-url (LATCHKEY_NATS_URL): is not a URL; must be nats://HOST:PORT or tls://HOST:PORT, or several of \
         these with commas between them"
    )]
    Url,
    /// A file cannot be read, or does not contain what it must.
    #[error("{setting}: cannot read {}: {error}", .file.display())]
    #[allow(missing_docs)]
    File { setting: &'static str, file: PathBuf, error: std::io::Error },
    /// The TLS files cannot be used, or do not belong together.
    #[error("--nats-tls-ca, --nats-tls-cert and --nats-tls-key (LATCHKEY_NATS_TLS_…): {0}")]
    Connect(#[from] async_nats::ConnectError),
}

/// A connection to the broker. The client reconnects by itself, unless its task has ended.
pub(super) struct Connection {
    pub(super) jetstream: jetstream::Context,
    /// Changes when the connection is lost; closed once the client's task has ended.
    pub(super) disconnected: watch::Receiver<()>,
}

impl Connection {
    /// Starts to connect in the background. A broker that is down is not an error.
    ///
    /// # Errors
    ///
    /// The settings are wrong.
    pub(super) async fn open(settings: &NatsSettings) -> Result<Self, NatsError> {
        let servers: Vec<ServerAddr> = settings
            .url
            .expose_secret()
            .split(',')
            .map(|url| url.trim().parse().map_err(|_| NatsError::Url))
            .collect::<Result<_, _>>()?;
        let (disconnects, disconnected) = watch::channel(());
        let options = connect_options(settings, disconnects).await?;
        let (options, servers) = extract_login(options, servers)?;
        let client = options.connect(servers).await?;
        Ok(Self { jetstream: jetstream::new(client), disconnected })
    }

    /// Returns whether the client's task has ended; nothing can be sent after that. The task owns the event callback,
    /// and with it the sending half of `disconnected`.
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
        let unreadable = |error| NatsError::File {
            setting: "--nats-credentials (LATCHKEY_NATS_CREDENTIALS)",
            file: file.clone(),
            error,
        };
        options = options.credentials_file(file).await.map_err(unreadable)?;
    }
    if let Some(file) = &settings.tls_ca {
        check_pem("--nats-tls-ca (LATCHKEY_NATS_TLS_CA)", file)?;
        options = options.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &settings.tls_identity {
        check_pem("--nats-tls-cert (LATCHKEY_NATS_TLS_CERT)", certificate)?;
        check_pem("--nats-tls-key (LATCHKEY_NATS_TLS_KEY)", key)?;
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(options.require_tls(settings.tls))
}

/// Moves the login, `USER:PASSWORD@` or `TOKEN@`, from the URLs to the options. The client ignores a login in a URL,
/// and logs the URL.
fn extract_login(
    options: ConnectOptions,
    servers: Vec<ServerAddr>,
) -> Result<(ConnectOptions, Vec<ServerAddr>), NatsError> {
    let login = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    let options = match login {
        Some((user, Some(password))) => {
            options.user_and_password(percent_decode(user)?, percent_decode(password)?)
        }
        Some((token, None)) => options.token(percent_decode(token)?),
        None => options,
    };
    let stripped = servers.into_iter().map(|server| {
        let mut url = server.into_inner();
        url.set_username("").map_err(|()| NatsError::Url)?;
        url.set_password(None).map_err(|()| NatsError::Url)?;
        ServerAddr::from_url(url).map_err(|_| NatsError::Url)
    });
    Ok((options, stripped.collect::<Result<_, _>>()?))
}

/// Decodes the percent encoding of a part of a URL.
fn percent_decode(part: &str) -> Result<String, NatsError> {
    Ok(percent_decode_str(part).decode_utf8().map_err(|_| NatsError::Url)?.into_owned())
}

/// Checks a PEM file at startup: the client would only read it when it connects, and would retry for ever; and it accepts
/// a file with nothing in it.
fn check_pem(setting: &'static str, file: &Path) -> Result<(), NatsError> {
    let error = match fs::read(file) {
        Ok(pem) if pem.windows(PEM_HEADER.len()).any(|window| window == PEM_HEADER) => return Ok(()),
        Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "it contains no PEM block"),
        Err(error) => error,
    };
    Err(NatsError::File { setting, file: file.to_owned(), error })
}

const PEM_HEADER: &[u8] = b"-----BEGIN ";
