//! Brings a database up to date.

use sea_orm::{ConnectionTrait as _, DbBackend};

use super::{Store, StoreError};

/// The lock that replicas which migrate at once take in turn; any number that nobody else uses.
const LOCK: &str = "SELECT pg_advisory_xact_lock(7017190431)";
/// A step may take longer than a statement of the service may.
const PATIENCE: &str = "SET LOCAL statement_timeout = '5min'";

impl Store {
    /// Applies the steps that the database lacks, all or none. Processes that do so at once wait for each other.
    /// A database that is ahead of this version is left as it is.
    ///
    /// # Errors
    ///
    /// A step failed or the database is out of reach; nothing was changed.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        let write = self.begin().await?;
        if write.0.get_database_backend() == DbBackend::Postgres {
            write.0.execute_unprepared(PATIENCE).await?;
            write.0.execute_unprepared(LOCK).await?;
        }
        latchkey_migrations::bring_up_to_date(&write.0).await?;
        write.commit().await
    }
}
