//! How the commands that are clients reach a running service, and with which credentials.

use std::{fs, io, path::PathBuf, time::Duration};

use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use zeroize::Zeroizing;

use super::report::innermost;

/// Options of the connection to a service.
#[derive(Args, Debug)]
pub struct Connection {
    /// URL of the service.
    #[arg(
        long,
        global = true,
        env = "LATCHKEY_SERVER",
        value_name = "URL",
        default_value = "http://127.0.0.1:50051"
    )]
    server: String,

    /// CA certificates (PEM) to trust instead of the system's.
    #[arg(long, global = true, env = "LATCHKEY_SERVER_CA", value_name = "FILE")]
    server_ca: Option<PathBuf>,

    /// Client certificate chain (PEM).
    #[arg(long, global = true, env = "LATCHKEY_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,

    /// Private key of the client certificate (PEM).
    #[arg(long, global = true, env = "LATCHKEY_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,

    /// File with a JWT or a shared secret, which is sent with each call.
    #[arg(long, global = true, env = "LATCHKEY_CREDENTIAL_FILE", value_name = "FILE")]
    credential_file: Option<PathBuf>,
}

/// Why the service cannot be reached.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    #[error("--server (LATCHKEY_SERVER): {url:?} is not a URL such as http://127.0.0.1:50051: {error}")]
    Url { url: String, error: String },
    #[error("cannot reach the service at {url}: {error}; is it running? `latchkey serve` starts one")]
    Connect { url: String, error: String },
    #[error("{}: {error}", .file.display())]
    File { file: PathBuf, error: io::Error },
    #[error("{}: must hold one JWT or shared secret: a line of printable ASCII", .0.display())]
    Credential(PathBuf),
    #[error(
        "--credential-file: the credential would be sent unencrypted; use an https:// URL, or a service on this machine"
    )]
    Unencrypted,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A channel that sends the credential with each call.
pub(super) type Channelled = InterceptedService<Channel, Credential>;

impl Connection {
    /// Connects to the service.
    ///
    /// # Errors
    ///
    /// See [`ConnectionError`].
    pub(super) async fn connect(self) -> Result<Channelled, ConnectionError> {
        let credential = Credential(self.credential_file.as_ref().map(credential).transpose()?);
        let url = self.server.clone();
        let wrong_url = |error: tonic::transport::Error| ConnectionError::Url {
            url: url.clone(),
            error: error.to_string(),
        };
        let mut endpoint = Endpoint::from_shared(url.clone())
            .map_err(wrong_url)?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT);
        if endpoint.uri().scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(wrong_url)?;
        } else if credential.0.is_some() && !is_local(endpoint.uri().host()) {
            return Err(ConnectionError::Unencrypted);
        }
        let connected = endpoint.connect().await;
        let channel =
            connected.map_err(|error| ConnectionError::Connect { url, error: innermost(&error) })?;
        Ok(InterceptedService::new(channel, credential))
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConnectionError> {
        let mut tls = match &self.server_ca {
            Some(file) => {
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(file)?.as_slice()))
            }
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            tls = tls.identity(Identity::from_pem(read(certificate)?.as_slice(), read(key)?.as_slice()));
        }
        Ok(tls)
    }
}

fn is_local(host: Option<&str>) -> bool {
    matches!(host, Some("localhost" | "127.0.0.1" | "[::1]"))
}

fn read(file: &PathBuf) -> Result<Zeroizing<Vec<u8>>, ConnectionError> {
    fs::read(file).map(Zeroizing::new).map_err(|error| ConnectionError::File { file: file.clone(), error })
}

fn credential(file: &PathBuf) -> Result<MetadataValue<Ascii>, ConnectionError> {
    let content = read(file)?;
    let text = str::from_utf8(content.trim_ascii()).ok().filter(|text| !text.is_empty());
    let header = text.map(|text| Zeroizing::new(format!("Bearer {text}")));
    let value = header.and_then(|header| header.parse::<MetadataValue<Ascii>>().ok());
    let mut value = value.ok_or_else(|| ConnectionError::Credential(file.clone()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the credential to each call.
#[derive(Clone, Debug)]
pub(super) struct Credential(Option<MetadataValue<Ascii>>);

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}
