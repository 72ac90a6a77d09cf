//! Makes a database ready for use: checks that it can hold what it must, and migrates it.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait as _, DbBackend,
    sqlx::{self, ConnectOptions as _, Connection as _},
};

use super::{DatabaseUrl, Store, StoreError};

/// The advisory lock that replicas which migrate at once take in turn; any number that nobody else uses.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7017190431)";
/// A migration may take longer than a statement of the service.
const STATEMENT_TIMEOUT: &str = "SET LOCAL statement_timeout = '5min'";
const MIGRATION_BOUND: Duration = Duration::from_secs(300);

impl Store {
    /// Checks the encoding and applies the migrations that the database lacks, all or none. Processes that do so at once
    /// wait for each other. A database that is ahead of this version is left as it is.
    ///
    /// # Errors
    ///
    /// [`StoreError::Encoding`]; a migration failed or the database is out of reach, and nothing was changed.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        let prepared = self.check_and_migrate().await;
        self.reachability.report(!prepared.as_ref().is_err_and(StoreError::is_outage));
        prepared
    }

    async fn check_and_migrate(&self) -> Result<(), StoreError> {
        self.check_encoding().await?;
        let bound = match self.writes.get_database_backend() {
            DbBackend::Sqlite => self.timeout,
            _ => MIGRATION_BOUND,
        };
        let transaction = self.begin_bounded(bound).await?;
        if transaction.inner.get_database_backend() == DbBackend::Postgres {
            transaction.run(transaction.inner.execute_unprepared(STATEMENT_TIMEOUT)).await?;
            transaction.run(transaction.inner.execute_unprepared(LOCK)).await?;
        }
        transaction.run(latchkey_migrations::bring_up_to_date(&transaction.inner)).await?;
        transaction.commit_at_once().await
    }

    /// Uses a dedicated connection: a pool retries, and hides why connecting fails.
    async fn check_encoding(&self) -> Result<(), StoreError> {
        let DatabaseUrl::Postgres(options) = &self.url else { return Ok(()) };
        let check = async {
            let mut connection = options.connect().await?;
            let encoding = sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok::<String, sqlx::Error>(encoding)
        };
        let encoding = tokio::time::timeout(self.timeout, check).await.map_err(|_| StoreError::Timeout)??;
        if encoding == "UTF8" { Ok(()) } else { Err(StoreError::Encoding(encoding)) }
    }
}
