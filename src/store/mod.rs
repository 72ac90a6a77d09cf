//! The database: the only place that knows SQL.
//!
//! SQLite allows one writer at a time, so writes have a pool of one connection there and queue fairly for it, instead
//! of polling for the lock; reads go on beside them (WAL). On PostgreSQL both pools are one. The log of events is read
//! through a connection of its own: however busy the others are, revocations are seen.

mod connect;
mod entity;
mod error;
mod events;
mod migrate;
mod revocations;
mod tokens;
mod users;

use std::time::Duration;

use sea_orm::{
    DatabaseConnection, DatabaseTransaction, DbErr, IsolationLevel, SqliteTransactionMode,
    TransactionOptions, TransactionTrait as _, sqlx,
};

pub use self::{
    connect::{DatabaseUrl, DatabaseUrlFault, PoolLimits, create_private_folder},
    error::StoreError,
    events::{Event, EventKind},
    revocations::Revocations,
    tokens::{Life, NewToken, StoredToken},
};

/// A database with pools of connections.
#[derive(Debug, Clone)]
pub struct Store {
    reads: DatabaseConnection,
    writes: DatabaseConnection,
    log: DatabaseConnection,
    longest_write: Duration,
    timeout: Duration,
}

/// A pool of connections.
#[derive(Clone, Copy, Debug)]
pub struct PoolState {
    /// What it is for.
    pub name: &'static str,
    /// How many connections are in use.
    pub used: usize,
    /// How many lie idle.
    pub idle: usize,
    /// How many there may be.
    pub max: u32,
}

impl PoolState {
    fn of<D: sqlx::Database>(name: &'static str, pool: &sqlx::Pool<D>) -> Self {
        let idle = pool.num_idle();
        // Both change meanwhile.
        let used = (pool.size() as usize).saturating_sub(idle);
        Self { name, used, idle, max: pool.options().get_max_connections() }
    }
}

/// A transaction that writes; dropped without [`Write::commit`] it changes nothing.
#[derive(Debug)]
pub struct Write(DatabaseTransaction);

impl Store {
    /// Whether the database answers and lacks no migration. Asked through the connection for the log: that calls wait
    /// for the others is no fault of the database.
    ///
    /// # Errors
    ///
    /// [`StoreError::Behind`], or it cannot be reached or does not answer within `bound`.
    pub async fn check(&self, bound: Duration) -> Result<(), StoreError> {
        let check = latchkey_migrations::is_up_to_date(&self.log);
        let up_to_date = tokio::time::timeout(bound, check).await.map_err(|_| StoreError::Timeout)??;
        if up_to_date { Ok(()) } else { Err(StoreError::Behind) }
    }

    /// The pools of connections, as they are now.
    pub fn pools(&self) -> Vec<PoolState> {
        match self.reads.get_database_backend() {
            sea_orm::DbBackend::Sqlite => {
                [("reads", &self.reads), ("writes", &self.writes), ("log", &self.log)]
                    .map(|(name, pool)| PoolState::of(name, pool.get_sqlite_connection_pool()))
                    .into()
            }
            _ => [("main", &self.reads), ("log", &self.log)]
                .map(|(name, pool)| PoolState::of(name, pool.get_postgres_connection_pool()))
                .into(),
        }
    }

    /// Awaits an answer for as long as the database has for one: its own timeouts do not help when the way to it is cut.
    async fn bounded<T>(&self, answer: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
        Ok(tokio::time::timeout(self.timeout, answer).await.map_err(|_| StoreError::Timeout)??)
    }

    /// Begins a transaction that writes.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or no connection came free in time.
    pub async fn begin(&self) -> Result<Write, StoreError> {
        let sqlite = self.writes.get_database_backend() == sea_orm::DbBackend::Sqlite;
        let options = TransactionOptions {
            // Whatever the server's default is: what a lock was waited for must be seen once it is held.
            isolation_level: (!sqlite).then_some(IsolationLevel::ReadCommitted),
            access_mode: None,
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
        };
        Ok(Write(self.writes.begin_with_options(options).await?))
    }

    /// Closes all connections once they are idle; later calls fail.
    ///
    /// # Errors
    ///
    /// The database could not be closed in order.
    pub async fn close(self) -> Result<(), StoreError> {
        self.log.close().await?;
        self.reads.close().await?;
        Ok(self.writes.close().await?)
    }
}

impl Write {
    /// Makes the changes permanent.
    ///
    /// # Errors
    ///
    /// They may not be permanent.
    pub async fn commit(self) -> Result<(), StoreError> {
        Ok(self.0.commit().await?)
    }
}
