//! Connection pools, and what may be in them: only connections that are known to be idle and alive.

use std::{sync::Arc, time::Duration};

use sea_orm::sqlx::{
    self, Connection, Database, Pool, Postgres, SqlStr, Sqlite, pool::PoolOptions, postgres::PgConnection,
    sqlite::SqliteConnection,
};

use super::{PoolLimits, reachability::Reachability};

/// A connection that was idle for longer is pinged before it is used.
///
/// None is closed for its age: while a neighbour takes every connection that the server allows, there would not be another.
/// sqlx's own task that closes old ones is switched off for another reason too: it loops as often as a counter of idle
/// connections says, and that counter is below zero for a moment when a connection is taken while another thread returns it.
/// The task then loops 2^64 times (seen: a thread at 100 % for good).
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How many connections a pool has, by state.
#[derive(Clone, Copy, Debug)]
pub struct PoolState {
    /// The pool's name in metrics.
    pub name: &'static str,
    /// Connections in use.
    pub used: usize,
    /// Idle connections.
    pub idle: usize,
    /// The upper limit.
    pub max: u32,
}

impl PoolState {
    pub(super) fn of<D: Database>(name: &'static str, pool: &Pool<D>) -> Self {
        // The counter of idle connections may be below zero for a moment, and the two numbers may not match.
        let idle = isize::try_from(pool.num_idle()).map_or(0, isize::unsigned_abs);
        let used = (pool.size() as usize).saturating_sub(idle);
        Self { name, used, idle, max: pool.options().get_max_connections() }
    }
}

pub(super) fn sqlite(limits: PoolLimits) -> PoolOptions<Sqlite> {
    sqlite_reads(limits).after_release(|connection: &mut SqliteConnection, _| {
        Box::pin(async move { Ok(is_idle(connection).await) })
    })
}

/// A pool in which no transaction is ever begun.
pub(super) fn sqlite_reads(limits: PoolLimits) -> PoolOptions<Sqlite> {
    PoolOptions::new()
        .max_connections(limits.connections)
        .acquire_timeout(limits.timeout)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
}

/// `ping` bounds how long a ping may take.
pub(super) fn postgres(
    limits: PoolLimits,
    ping: Duration,
    reachability: Arc<Reachability>,
) -> PoolOptions<Postgres> {
    postgres_lookups(limits, ping, reachability)
        // sqlx pings here too, but without a bound: a connection that hangs would never leave the pool.
        .after_release(move |connection: &mut PgConnection, _| {
            Box::pin(async move {
                let idle = tokio::time::timeout(ping, is_idle(connection)).await;
                idle.map_err(|_| sqlx::Error::PoolTimedOut)
            })
        })
}

/// A pool in which no transaction is ever begun, and whose connections [`super::lookup_pool::Lent`] returns.
pub(super) fn postgres_lookups(
    limits: PoolLimits,
    ping: Duration,
    reachability: Arc<Reachability>,
) -> PoolOptions<Postgres> {
    PoolOptions::new()
        .max_connections(limits.connections)
        .acquire_timeout(limits.timeout)
        .test_before_acquire(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .before_acquire(move |connection: &mut PgConnection, idle| {
            let outlived_an_outage = reachability.had_outage_within(idle.age);
            Box::pin(async move {
                if outlived_an_outage {
                    return Ok(false);
                }
                if idle.idle_for > TRUSTED_IDLE {
                    let pinged = tokio::time::timeout(ping, connection.ping()).await;
                    pinged.map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
                Ok(true)
            })
        })
}

/// Whether the connection has no transaction open. One that has is closed instead of being reused: statements would run
/// inside that transaction and be rolled back with it.
///
/// It happens: sqlx forgets a PostgreSQL transaction whose BEGIN was cancelled (sqlx issue 4393), and counts a SQLite
/// transaction as open that SQLite itself rolled back because the disk was full.
///
/// `begin_with` checks, after its statement, whether the server reports an open transaction; for a statement that
/// begins none, [`sqlx::Error::BeginFailed`] therefore means that there is none. In a failed transaction the statement
/// itself is refused.
async fn is_idle<C: Connection>(connection: &mut C) -> bool {
    const STATEMENT: SqlStr = SqlStr::from_static("SELECT 1");
    let idle = matches!(connection.begin_with(STATEMENT).await, Err(sqlx::Error::BeginFailed));
    if !idle {
        tracing::debug!("closed a database connection with an open transaction");
    }
    idle
}
