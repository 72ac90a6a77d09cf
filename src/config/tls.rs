//! Settings of TLS and of connections.

use std::path::PathBuf;

use clap::Args;

use super::ConfigError;
use crate::listener::{ClientAuth, ConnectionLimits, TlsFiles, TlsVersion, raise_file_limit};

/// Settings of TLS and of connections, for the gRPC and the HTTP listener alike.
#[derive(Args, Clone, Debug)]
pub struct TlsConfig {
    /// Certificate chain (PEM) of the gRPC and the HTTP listener, which then accept TLS only. Read again when it changes.
    #[arg(long, env = "LATCHKEY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the certificate (PEM). Others must not be able to read it.
    #[arg(long, env = "LATCHKEY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// CA certificates (PEM) that client certificates must be issued by.
    #[arg(long, env = "LATCHKEY_TLS_CLIENT_CA", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,

    /// Whether clients show a certificate: none, optional or required. Default: optional if LATCHKEY_TLS_CLIENT_CA is
    /// set, otherwise none.
    #[arg(long, env = "LATCHKEY_TLS_CLIENT_AUTH", value_name = "WHETHER")]
    pub tls_client_auth: Option<ClientAuth>,

    /// The oldest version of TLS that is accepted: 1.2 or 1.3.
    #[arg(long, env = "LATCHKEY_TLS_MIN_VERSION", value_name = "VERSION", default_value = "1.3")]
    pub tls_min_version: TlsVersion,

    /// Maximum number of open connections of each listener: 1 to 1000000. Further ones wait to be accepted. It is lower if
    /// the process may not open so many files.
    #[arg(long, env = "LATCHKEY_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 4_096,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Maximum number of open connections of one client address, or IPv6 network of 64 bits: 1 to 1000000. Further ones
    /// are closed.
    #[arg(long, env = "LATCHKEY_MAX_CONNECTIONS_PER_PEER", value_name = "COUNT", default_value_t = 1_024,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections_per_peer: u32,
}

impl TlsConfig {
    /// Returns the files, if TLS is configured.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tls`]: a file is missing.
    pub fn files(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let wants_clients = matches!(self.tls_client_auth, Some(ClientAuth::Optional | ClientAuth::Required));
        let problem = match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => "--tls-cert needs --tls-key (LATCHKEY_TLS_KEY)",
            (None, Some(_)) => "--tls-key needs --tls-cert (LATCHKEY_TLS_CERT)",
            (None, None) if self.tls_client_ca.is_some() || wants_clients => {
                "client certificates need --tls-cert and --tls-key (LATCHKEY_TLS_CERT, LATCHKEY_TLS_KEY)"
            }
            (Some(_), Some(_)) if wants_clients && self.tls_client_ca.is_none() => {
                "--tls-client-auth needs --tls-client-ca (LATCHKEY_TLS_CLIENT_CA)"
            }
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => {
                return Ok(Some(TlsFiles {
                    certificate: certificate.clone(),
                    key: key.clone(),
                    client_ca: self.tls_client_ca.clone(),
                }));
            }
        };
        Err(ConfigError::Tls(problem))
    }

    /// Returns whether clients show a certificate.
    pub fn client_auth(&self) -> ClientAuth {
        let default = if self.tls_client_ca.is_some() { ClientAuth::Optional } else { ClientAuth::None };
        self.tls_client_auth.unwrap_or(default)
    }

    /// Returns the limits of each listener, after raising the number of files that the process may open.
    pub fn connection_limits(&self) -> ConnectionLimits {
        let (wanted, possible) = (self.max_connections as usize, raise_file_limit());
        if wanted > possible {
            tracing::warn!(
                possible,
                "the process may not open enough files for LATCHKEY_MAX_CONNECTIONS; raise the limit (ulimit -n)"
            );
        }
        ConnectionLimits { total: wanted.min(possible), per_peer: self.max_connections_per_peer as usize }
    }
}
