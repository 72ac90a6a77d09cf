//! `latchkey migrate`: brings a database up to date.

use std::process::ExitCode;

use clap::Args;

use super::AnyError;
use crate::{config::DatabaseConfig, server::StartError, store::Store, telemetry::Telemetry};

/// Options of `latchkey migrate`.
#[derive(Args, Debug)]
pub(super) struct MigrateCommand {
    #[command(flatten)]
    pub(super) database: DatabaseConfig,
}

pub(super) async fn migrate(config: DatabaseConfig) -> Result<ExitCode, AnyError> {
    Telemetry::init(&config.log, config.log_format, false)?;
    let url = config.url()?;
    let error = |error| StartError::Store { location: url.to_string(), error };
    let store = Store::open(&url, config.pool_limits()).await.map_err(error)?;
    store.prepare().await.map_err(error)?;
    store.close().await?;
    tracing::info!("the database is up to date");
    Ok(ExitCode::SUCCESS)
}
