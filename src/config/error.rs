//! Why settings cannot be used.

use std::{net::SocketAddr, path::PathBuf};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag, variable or command is wrong; or help was asked for. Says what is allowed.
    #[error("{0}")]
    Arguments(#[from] clap::Error),
    /// A value of the file is wrong.
    #[error("{file}: {error}")]
    FileValue {
        /// The file.
        file: PathBuf,
        /// The fault, as of a flag.
        error: clap::Error,
    },
    /// The file cannot be read.
    #[error("config (LATCHKEY_CONFIG) names {file}, which cannot be read: {error}")]
    FileRead {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{file}: is not TOML: error near line {line}")]
    FileForm {
        /// The file.
        file: PathBuf,
        /// The line of the fault, from 1.
        line: usize,
    },
    /// The file has a key that is no setting.
    #[error("{file}: {key:?} is no setting{hint}; the settings are {known}")]
    FileKey {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
        /// A setting with a similar name, if there is one.
        hint: String,
        /// The names of all settings.
        known: String,
    },
    /// The environment has a variable that no command reads.
    #[error("{name}: is no setting{hint}; `latchkey --help` lists the settings")]
    Variable {
        /// The variable.
        name: String,
        /// A variable with a similar name, if there is one.
        hint: String,
    },
    /// A value of the file is a table, a list or a date.
    #[error("{file}: {key:?} must be a text, a number or true or false")]
    FileType {
        /// The file.
        file: PathBuf,
        /// The key.
        key: String,
    },
    /// The database's URL is wrong; it may hold a password and is not shown.
    #[error("--database-url (LATCHKEY_DATABASE_URL) {0}")]
    DatabaseUrl(#[from] crate::store::DatabaseUrlError),
    /// The address can be reached from elsewhere, and nothing protects it.
    #[error(
        "{setting} is {addr}, which is not loopback, and callers are not authenticated; \
         listen on 127.0.0.1 or [::1], or set --insecure (LATCHKEY_INSECURE=1) where something else keeps \
         strangers out"
    )]
    Exposed {
        /// The setting.
        setting: &'static str,
        /// The address.
        addr: SocketAddr,
    },
}
