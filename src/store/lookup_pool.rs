//! The connections of lookups, of which a service has the most queries.
//!
//! They never begin a transaction, so that nothing has to be checked when one is returned: that check costs a round trip
//! for each query.

use sea_orm::{
    DbBackend, QueryResult,
    sqlx::{self, Database, Pool, Postgres, Sqlite, pool::PoolConnection},
};
use uuid::Uuid;

use super::connect::PING_TIMEOUT;

/// A pool of connections that only read.
#[derive(Debug, Clone)]
pub(super) enum LookupPool {
    Sqlite(Pool<Sqlite>),
    Postgres(Pool<Postgres>),
}

impl LookupPool {
    pub(super) fn backend(&self) -> DbBackend {
        match self {
            Self::Sqlite(_) => DbBackend::Sqlite,
            Self::Postgres(_) => DbBackend::Postgres,
        }
    }

    /// The row that `sql` finds for the id. sqlx is asked and not sea-orm, whose future has 15 kB and is moved four times
    /// for each query.
    pub(super) async fn find(&self, sql: &'static str, id: Uuid) -> Result<Option<QueryResult>, sqlx::Error> {
        match self {
            Self::Sqlite(pool) => {
                let row = sqlx::query(sql).bind(id).fetch_optional(pool).await?;
                Ok(row.map(QueryResult::from))
            }
            Self::Postgres(pool) => {
                let mut connection = Lent(pool.acquire().await?);
                let row = sqlx::query(sql).bind(id).fetch_optional(&mut *connection.0).await?;
                Ok(row.map(QueryResult::from))
            }
        }
    }

    pub(super) async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

/// A connection that is returned within a bound. sqlx pings a returned connection and waits for the answer forever: one
/// that hangs would never leave the pool.
struct Lent<D: Database>(PoolConnection<D>);

impl<D: Database> Drop for Lent<D> {
    fn drop(&mut self) {
        // A connection whose ping is not answered in time is dropped with this future.
        tokio::spawn(tokio::time::timeout(PING_TIMEOUT, self.0.return_to_pool()));
    }
}
