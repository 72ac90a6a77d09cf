//! Settings that every command with a database needs: the database, the TOML file and the log.

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

/// Default data folder.
pub(crate) const DATA_DIR: &str = "data";

/// Settings that every command with a database needs.
#[derive(Args, Clone, Debug)]
pub struct DatabaseConfig {
    /// TOML file with settings. Its keys are the names of the flags with underscores: grpc_addr = "127.0.0.1:50051".
    #[arg(long, env = "LATCHKEY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Folder of the embedded database and its key ring. Created if it does not exist.
    #[arg(long, env = "LATCHKEY_DATA_DIR", value_name = "FOLDER", default_value = DATA_DIR)]
    pub data_dir: PathBuf,

    /// URL of the database: sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE. Default: latchkey.db in the
    /// data folder.
    #[arg(long, env = "LATCHKEY_DATABASE_URL", value_name = "URL", hide_env_values = true,
        value_parser = secret)]
    pub database_url: Option<SecretString>,

    /// Maximum number of database connections: 1 to 1000. With PostgreSQL, lookups of tokens that are not in memory have
    /// half of them, and everything else the other half.
    #[arg(long, env = "LATCHKEY_DATABASE_CONNECTIONS", value_name = "COUNT", default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub database_connections: u32,

    /// Timeout of getting a database connection, waiting for a lock and running a statement: 100ms to 1m.
    #[arg(long, env = "LATCHKEY_DATABASE_TIMEOUT", value_name = "DURATION", default_value = "5s",
        value_parser = duration::<100, 60_000>)]
    pub database_timeout: Duration,

    /// What to log to standard error: off, error, warn, info, debug, trace, or a filter such as "warn,latchkey=debug".
    /// At info, libraries log only warnings and errors.
    #[arg(long, env = "LATCHKEY_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,

    /// Format of the log.
    #[arg(long, env = "LATCHKEY_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

impl DatabaseConfig {
    /// Returns the URL of the database.
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

    /// Returns the limits of the connection pool.
    pub fn pool_limits(&self) -> PoolLimits {
        PoolLimits { connections: self.database_connections, timeout: self.database_timeout }
    }
}
