//! Errors of settings.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use humantime::format_duration;

/// Why the settings cannot be used.
#[allow(missing_docs)]
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag, a variable or a command is invalid, or help was requested.
    #[error("{0}")]
    Arguments(#[from] clap::Error),
    #[error("{file}: {error}")]
    FileValue { file: PathBuf, error: clap::Error },
    #[error("--config (LATCHKEY_CONFIG): cannot read {file}: {error}")]
    FileRead { file: PathBuf, error: std::io::Error },
    /// The file is not valid TOML. `line` is counted from 1.
    #[error("{file}: line {line} is not valid TOML")]
    FileForm { file: PathBuf, line: usize },
    /// The file has a key that is no setting. `hint` suggests a similar name, if there is one.
    #[error("{file}: {key:?} is no setting{hint}; the settings are {known}")]
    FileKey { file: PathBuf, key: String, hint: String, known: String },
    /// The environment has a variable that no command reads. `hint` suggests a similar name, if there is one.
    #[error("{name}: is no setting{hint}; `latchkey --help` lists the settings")]
    Variable { name: String, hint: String },
    #[error("{file}: {key:?} must be a string, a number, true or false")]
    FileType { file: PathBuf, key: String },
    /// The URL may contain a password, so it is not shown.
    #[error("--database-url (LATCHKEY_DATABASE_URL) {0}")]
    DatabaseUrl(#[from] crate::store::DatabaseUrlError),
    /// The lease is too short for PostgreSQL.
    #[error(
        "--max-staleness (LATCHKEY_MAX_STALENESS): is {}; with PostgreSQL it must be at least 1s, and three times \
         --revocation-poll (LATCHKEY_REVOCATION_POLL), which is {}",
        format_duration(*.max_staleness),
        format_duration(*.poll)
    )]
    Lease { max_staleness: Duration, poll: Duration },
    /// The address can be reached from other machines, and nothing protects it.
    #[error(
        "{setting}: {addr} is not loopback, and {missing}; set {set}, or listen on 127.0.0.1 or [::1], or set --insecure \
         (LATCHKEY_INSECURE=1) where something else controls access"
    )]
    Exposed { setting: &'static str, addr: SocketAddr, missing: &'static str, set: &'static str },
    /// The web page could not recognise anyone.
    #[error(
        "--page-jwt-header (LATCHKEY_PAGE_JWT_HEADER): needs --callers (LATCHKEY_CALLERS), a file with the issuer of the JWTs"
    )]
    PageJwt,
    #[error(
        "--page-oidc-issuer (LATCHKEY_PAGE_OIDC_ISSUER): needs --page-oidc-client-id, --page-oidc-client-secret-file and \
         --page-url, and excludes --page-jwt-header"
    )]
    PageLogin,
    #[error("--page-oidc-client-secret-file (LATCHKEY_PAGE_OIDC_CLIENT_SECRET_FILE): {file}: {problem}")]
    PageOidc { file: PathBuf, problem: String },
    #[error("--page-logo (LATCHKEY_PAGE_LOGO): {file}: {problem}")]
    PageLogo { file: PathBuf, problem: String },
    #[error("--page-scopes (LATCHKEY_PAGE_SCOPES): {file}: {problem}")]
    PageScopes { file: PathBuf, problem: String },
    /// The settings of TLS do not fit together.
    #[error("{0}")]
    Tls(&'static str),
}
