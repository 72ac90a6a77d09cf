//! The database: the only place that knows SQL.
//!
//! SQLite allows one writer at a time, so writes have a pool of one connection there and queue fairly for it instead of
//! polling for the lock; reads go on beside them (WAL). On PostgreSQL lookups have a pool of their own. The revocation log,
//! the renewal of the lease and the other replicas have connections apart from those: however busy they are, revocations are
//! seen and the health check is true.

use std::{sync::Arc, time::Duration};

use sea_orm::{DatabaseConnection, DbErr};
use tokio::sync::Semaphore;

use super::{
    DatabaseUrl, PoolState, StoreError, lookup_pool::LookupPool, reachability::Reachability, session::Session,
};

/// A database with its connection pools. Clones share them.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) lookups: LookupPool,
    pub(super) half_of_lookups: Arc<Semaphore>,
    pub(super) reads: DatabaseConnection,
    pub(super) writes: DatabaseConnection,
    pub(super) log: DatabaseConnection,
    pub(super) health: DatabaseConnection,
    pub(super) url: DatabaseUrl,
    pub(super) reachability: Arc<Reachability>,
    pub(super) writers: Arc<Semaphore>,
    pub(super) timeout: Duration,
}

impl Store {
    /// Where the database is, without user and password: a file, or host, port and name.
    pub fn location(&self) -> String {
        self.url.to_string()
    }

    /// The connection pools as they are now.
    pub fn pools(&self) -> Vec<PoolState> {
        let postgres =
            |name, pool: &DatabaseConnection| PoolState::of(name, pool.get_postgres_connection_pool());
        let sqlite = |name, pool: &DatabaseConnection| PoolState::of(name, pool.get_sqlite_connection_pool());
        match &self.lookups {
            LookupPool::Sqlite(reads) => vec![
                PoolState::of("reads", reads),
                sqlite("writes", &self.writes),
                sqlite("log", &self.log),
                sqlite("health", &self.health),
            ],
            LookupPool::Postgres(lookups) => vec![
                PoolState::of("lookups", lookups),
                postgres("main", &self.writes),
                postgres("log", &self.log),
            ],
        }
    }

    /// Has connections from before this moment replaced before they are used again: the server that they lead to may have
    /// been replaced.
    pub fn discard_connections(&self) {
        self.reachability.distrust_older_connections();
    }

    /// Closes all connections once they are idle; later calls fail.
    ///
    /// # Errors
    ///
    /// A connection could not be closed in order.
    pub async fn close(self) -> Result<(), StoreError> {
        self.log.close().await?;
        self.health.close_by_ref().await?;
        self.lookups.close().await;
        self.reads.close().await?;
        Ok(self.writes.close().await?)
    }

    /// A connection apart from the pools; `None` with SQLite. Its statements use indexes even if the planner has not noticed
    /// yet that a table has grown.
    pub(super) fn session(&self) -> Option<Session> {
        match &self.url {
            DatabaseUrl::Sqlite(_) => None,
            DatabaseUrl::Postgres(options) => {
                // Which makes the planner believe in costs for which it would compile the statement.
                let options = (**options).clone().options([("enable_seqscan", "off"), ("jit", "off")]);
                Some(Session::new(Box::new(options)))
            }
        }
    }

    /// Awaits a statement outside a transaction, unless the database is known to be away.
    pub(super) async fn bounded<T>(
        &self,
        answer: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, StoreError> {
        self.reachability.check()?;
        // The database's own timeouts do not help when the network swallows what is sent.
        Ok(tokio::time::timeout(self.timeout, answer).await.map_err(|_| StoreError::Timeout)??)
    }
}
