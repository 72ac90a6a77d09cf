//! Closing connections to PostgreSQL that are no longer needed. sqlx's own task for it is switched off: see pool.rs.

use std::time::{Duration, Instant};

use sea_orm::sqlx::{Pool, Postgres};

use super::{Store, connect::PING_TIMEOUT, lookup_pool::LookupPool};

/// How long a connection must have been idle to be closed.
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Counts the idle connections of the pools, and closes those that nobody needed.
#[derive(Debug)]
pub struct Surplus {
    store: Store,
    since: Instant,
    /// The fewest connections that were idle at once since then, by pool.
    least: [usize; 3],
}

const NOT_COUNTED: [usize; 3] = [usize::MAX; 3];

impl Surplus {
    /// Returns the surplus of the pools of `store`.
    pub fn new(store: Store) -> Self {
        Self { store, since: Instant::now(), least: NOT_COUNTED }
    }

    /// Counts, and closes what was idle all the time since connections were last closed. To be called several times within
    /// ten seconds, or a connection may be closed that is merely idle now.
    pub async fn close(&mut self) {
        let Some(pools) = pools(&self.store) else { return };
        for (least, (pool, _)) in self.least.iter_mut().zip(pools) {
            *least = pool.num_idle().min(*least);
        }
        if self.since.elapsed() <= IDLE_FOR {
            return;
        }
        self.since = Instant::now();
        for (surplus, (pool, kept)) in std::mem::replace(&mut self.least, NOT_COUNTED).into_iter().zip(pools)
        {
            for _ in kept..surplus {
                let Some(connection) = pool.try_acquire() else { break };
                // One that hangs is dropped.
                let _ = tokio::time::timeout(PING_TIMEOUT, connection.close()).await;
            }
        }
    }
}

/// The pools with connections to PostgreSQL, and how many of each stay open: one for lookups and one for other calls, because
/// the server may have no more to give.
fn pools(store: &Store) -> Option<[(&Pool<Postgres>, usize); 3]> {
    let LookupPool::Postgres(lookups) = &store.lookups else { return None };
    let (main, log) = (store.writes.get_postgres_connection_pool(), store.log.get_postgres_connection_pool());
    Some([(lookups, 1), (main, 1), (log, 0)])
}
