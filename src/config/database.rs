//! Settings of every command that opens the database.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    ConfigError,
    values::{duration, secret},
};
use crate::{
    store::{DatabaseUrl, PoolLimits},
    telemetry::LogFormat,
};

/// The data folder when none is set.
pub(crate) const DATA_DIR: &str = "data";

/// Settings of every command that opens the database.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// TOML file with settings, named as the flags are, with underscores: grpc_addr = "127.0.0.1:50051".
    #[arg(long, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of the embedded database and its key ring; made when it is missing.
    #[arg(long, env = "LATCHKEY_DATA_DIR", value_name = "FOLDER", default_value = DATA_DIR)]
    pub data_dir: PathBuf,

    /// sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE. Default: latchkey.db in the data folder.
    #[arg(long, env = "LATCHKEY_DATABASE_URL", value_name = "URL", hide_env_values = true,
        value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// Connections to the database at most: 1 to 1000.
    #[arg(long, env = "LATCHKEY_DATABASE_CONNECTIONS", value_name = "COUNT", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub database_connections: u32,

    /// How long a connection, a lock or a statement of the database may take: 100ms to 1m.
    #[arg(long, env = "LATCHKEY_DATABASE_TIMEOUT", value_name = "DURATION", default_value = "5s",
        value_parser = duration::<100, 60_000>)]
    pub database_timeout: Duration,

    /// What is logged, to standard error: off, error, warn, info, debug or trace, or a filter such as
    /// "warn,latchkey=debug". At info, libraries log warnings only.
    #[arg(long, env = "LATCHKEY_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// How it is logged.
    #[arg(long, env = "LATCHKEY_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

impl DatabaseConfig {
    /// Where the database is.
    ///
    /// # Errors
    ///
    /// [`ConfigError::DatabaseUrl`].
    pub fn url(&self) -> Result<DatabaseUrl, ConfigError> {
        let url = match &self.database_url {
            Some(url) => url.expose_secret().parse(),
            None => format!("sqlite://{}", self.data_dir.join("latchkey.db").display()).parse(),
        };
        Ok(url?)
    }

    /// How much of the database is used at once.
    pub fn pool_limits(&self) -> PoolLimits {
        PoolLimits { connections: self.database_connections, timeout: self.database_timeout }
    }
}
