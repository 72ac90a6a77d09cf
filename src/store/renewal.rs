//! Renewing the lease of this replica.

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait as _,
    sqlx::{self, ConnectOptions as _, postgres::PgConnection},
};
use uuid::Uuid;

use super::{DatabaseUrl, LogHead, Store, StoreError};

/// Renews the lease of one replica. On PostgreSQL over a connection of its own, whose backend it ends when a renewal takes
/// too long: a COMMIT that waits for a standby would otherwise keep it for as long as the standby is away.
#[derive(Debug)]
pub struct Renewer {
    store: Store,
    id: Uuid,
    connection: Option<Backend>,
    stuck: Option<i32>,
}

const RENEW: &str = "UPDATE replicas SET renewals = renewals + 1, seen = $2, renewed_at = $3 \
                     WHERE id = $1 AND epoch = $4 AND (SELECT id FROM epoch) = $4";

/// The process id may belong to another connection by now.
const END_STUCK: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";

#[derive(Debug)]
struct Backend {
    connection: PgConnection,
    process: i32,
}

impl Renewer {
    /// Returns the renewer of the replica `id`.
    pub fn new(store: Store, id: Uuid) -> Self {
        Self { store, id, connection: None, stuck: None }
    }

    /// Commits that the replica has evicted everything up to `seen`. Returns whether it did: not if its row is gone, or
    /// the server is not of the epoch in which `seen` was read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; it may be committed all the same.
    pub async fn renew(&mut self, seen: &LogHead, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let DatabaseUrl::Postgres(_) = &self.store.url else { return self.renew_on_sqlite(seen, now).await };
        let bound = self.store.timeout;
        let mut backend = match self.connection.take() {
            Some(backend) => backend,
            None => tokio::time::timeout(bound, self.connect()).await.map_err(|_| StoreError::Timeout)??,
        };
        self.stuck = Some(backend.process);
        let update = sqlx::query(RENEW)
            .bind(self.id)
            .bind(seen.position.to_text())
            .bind(now)
            .bind(seen.epoch)
            .execute(&mut backend.connection);
        let done = tokio::time::timeout(bound, update).await.map_err(|_| StoreError::Timeout)??;
        self.stuck = None;
        self.connection = Some(backend);
        Ok(done.rows_affected() == 1)
    }

    async fn connect(&mut self) -> Result<Backend, StoreError> {
        let DatabaseUrl::Postgres(options) = &self.store.url else { return Err(StoreError::Interrupted) };
        let mut connection = options.connect().await?;
        let process = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut connection).await?;
        if let Some(stuck) = self.stuck.take() {
            sqlx::query(END_STUCK).bind(stuck).execute(&mut connection).await?;
        }
        Ok(Backend { connection, process })
    }

    async fn renew_on_sqlite(&self, seen: &LogHead, now: DateTime<Utc>) -> Result<bool, StoreError> {
        let values = [self.id.into(), seen.position.to_text().into(), now.into(), seen.epoch.into()];
        let update = self.store.write_statement(RENEW, values);
        let done = self.store.bounded(self.store.writes.execute_raw(update)).await?;
        Ok(done.rows_affected() == 1)
    }
}
