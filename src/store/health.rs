//! Whether the database can be used.

use std::time::Duration;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement};

use super::{Store, StoreError};

impl Store {
    /// Whether the database answers and lacks no migration. Calls fail at once after a failed check and until one
    /// succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::SchemaOutdated`], [`StoreError::InRecovery`], or it cannot be reached or does not answer within `bound`.
    pub async fn check(&self, bound: Duration) -> Result<(), StoreError> {
        let checked = match self.ask(bound).await {
            // One more time, on a new connection: this one may have been closed from the other side.
            Err(StoreError::Unavailable(_)) => self.ask(bound).await,
            checked => checked,
        };
        self.reachability.report(!checked.as_ref().is_err_and(StoreError::is_outage));
        checked
    }

    /// Whether the database lacks no migration, for a caller that knows that it answers and is not in recovery. Whatever the
    /// last check said, calls no longer fail at once.
    ///
    /// # Errors
    ///
    /// [`StoreError::SchemaOutdated`], or it does not answer within `bound`: all connections may be in use.
    pub async fn check_schema(&self, bound: Duration) -> Result<(), StoreError> {
        self.reachability.report(true);
        let check = async {
            match latchkey_migrations::has_every_migration(&self.health).await.map_err(StoreError::from) {
                Ok(true) => Ok(()),
                // Also if their table is gone.
                Ok(false) | Err(StoreError::Refused(_)) => Err(StoreError::SchemaOutdated),
                Err(error) => Err(error),
            }
        };
        tokio::time::timeout(bound, check).await.map_err(|_| StoreError::Timeout)?
    }

    async fn ask(&self, bound: Duration) -> Result<(), StoreError> {
        let check = async {
            if self.health.get_database_backend() == DbBackend::Postgres && self.is_in_recovery().await? {
                return Err(StoreError::InRecovery);
            }
            let up_to_date = latchkey_migrations::is_up_to_date(&self.health).await?;
            if up_to_date { Ok(()) } else { Err(StoreError::SchemaOutdated) }
        };
        tokio::time::timeout(bound, check).await.map_err(|_| StoreError::Timeout)?
    }

    async fn is_in_recovery(&self) -> Result<bool, DbErr> {
        let query = Statement::from_string(DbBackend::Postgres, "SELECT pg_is_in_recovery()");
        let row = self.health.query_one_raw(query).await?;
        row.ok_or_else(|| DbErr::RecordNotFound("pg_is_in_recovery()".to_owned()))?.try_get_by_index(0)
    }
}
