//! The rows of the replicas: which ones may hold tokens in memory, and how far each has read the revocation log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement,
    sqlx::{self, AssertSqlSafe, postgres::PgListener},
};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    Store, StoreError, epoch,
    log_position::{self, Position},
    session::Session,
    transaction::without_waiting,
};

/// A replica, as its row says.
#[derive(Clone, Debug)]
pub struct Replica {
    /// The id of its registration, which is never used again.
    pub id: Uuid,
    /// The number of its last renewal or report.
    pub renewals: i64,
    /// How long its lease lasts after a renewal.
    pub lease: Duration,
    /// When it renewed its lease, by the database's clock.
    pub renewed_at: DateTime<Utc>,
    seen: Position,
    epoch: Uuid,
}

impl Replica {
    /// Returns a replica, for tests.
    #[cfg(test)]
    pub(crate) fn of(id: Uuid, renewals: i64, lease: Duration) -> Self {
        let (renewed_at, seen, epoch) = (DateTime::UNIX_EPOCH, Position::Id(0), Uuid::nil());
        Self { id, renewals, lease, renewed_at, seen, epoch }
    }

    /// Whether it has evicted everything that was revoked before `change`. What was seen in another epoch does not count.
    pub fn has_seen(&self, change: &Change) -> bool {
        self.is_of(change.epoch) && self.seen.covers(&change.position)
    }

    /// Whether it is registered in this epoch.
    pub fn is_of(&self, epoch: Option<Uuid>) -> bool {
        Some(self.epoch) == epoch
    }
}

/// Everything that was committed before one moment.
#[derive(Clone, Debug)]
pub struct Change {
    position: Position,
    /// The epoch of the server that said so; see [`LogHead::epoch`](super::LogHead::epoch).
    pub epoch: Option<Uuid>,
}

/// The replicas at one moment.
#[derive(Debug)]
pub struct Replicas {
    /// Their rows.
    pub replicas: Vec<Replica>,
    /// What was committed at that moment.
    pub change: Change,
}

/// The channel on which a replica that revoked something wakes the others. The payload tells it apart.
const CHANNEL: &str = "latchkey_revocations";

/// Reads and removes the rows of other replicas. On PostgreSQL over a connection of its own.
#[derive(Debug)]
pub struct ReplicaReader {
    store: Store,
    session: Option<Session>,
}

impl ReplicaReader {
    /// Returns a reader of the replicas in `store`.
    pub fn new(store: Store) -> Self {
        let session = store.session();
        Self { store, session }
    }

    /// Returns the replicas, and what is committed now. If `waker` is given, replicas that listen to others than it are
    /// woken, so that they read the log at once; with SQLite they poll. May take `bound`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn read(&mut self, waker: Option<Uuid>, bound: Duration) -> Result<Replicas, StoreError> {
        let Some(session) = &mut self.session else { return self.store.replicas().await };
        // The notification is sent when this statement, a transaction, has ended. It does not wait for the disk.
        let woken = match waker {
            Some(_) => {
                format!("(SELECT pg_notify('{CHANNEL}', $1::text), {})", without_waiting(DbBackend::Postgres))
            }
            None => "(SELECT $1::text)".to_owned(),
        };
        let sql = rows_from(DbBackend::Postgres, &woken);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(waker.map(|id| id.to_string()));
        let rows = session.fetch(query, bound).await?;
        replicas(rows.into_iter().map(QueryResult::from).collect())
    }

    /// Removes a replica unless it has renewed its lease since it was read, or `reader` itself is not registered: a replica
    /// that is alone on SQLite need not renew. Returns whether it is removed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn remove(
        &mut self,
        replica: &Replica,
        reader: Uuid,
        bound: Duration,
    ) -> Result<bool, StoreError> {
        let removed = match &mut self.session {
            Some(session) => {
                // The state first: a renewal in flight and this wait for each other, and the later one finds no row.
                let sql = format!(
                    "WITH gone AS (DELETE FROM replica_states WHERE id = $1 AND renewals = $2 \
                     AND EXISTS (SELECT 1 FROM replicas WHERE id = $3) AND {} RETURNING id) \
                     DELETE FROM replicas WHERE id IN (SELECT id FROM gone)",
                    without_waiting(DbBackend::Postgres)
                );
                let query = sqlx::query(AssertSqlSafe(sql));
                session.execute(query.bind(replica.id).bind(replica.renewals).bind(reader), bound).await?
            }
            None => {
                // There is one writer at a time. The state goes with its replica.
                let sql = "DELETE FROM replicas WHERE id = $1 \
                           AND EXISTS (SELECT 1 FROM replica_states WHERE id = $1 AND renewals = $2) \
                           AND EXISTS (SELECT 1 FROM replicas WHERE id = $3)";
                let values = [replica.id.into(), replica.renewals.into(), reader.into()];
                let delete = self.store.write_statement(sql, values);
                self.store.bounded(self.store.writes.execute_raw(delete)).await?.rows_affected()
            }
        };
        Ok(removed == 1)
    }

    /// Removes the replica that reads, which has no lease any more.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn remove_own(&mut self, id: Uuid, bound: Duration) -> Result<(), StoreError> {
        let Some(session) = &mut self.session else { return self.store.deregister_replica(id).await };
        session.execute(sqlx::query(AssertSqlSafe(delete_own(DbBackend::Postgres))).bind(id), bound).await?;
        Ok(())
    }
}

/// Removes the replica $1.
fn delete_own(backend: DbBackend) -> String {
    format!("DELETE FROM replicas WHERE id = $1 AND {}", without_waiting(backend))
}

impl Store {
    /// Whether a failover can replace the database's server, so that leases must be renewed by writes.
    pub fn can_fail_over(&self) -> bool {
        self.log.get_database_backend() == DbBackend::Postgres
    }

    /// Removes a replica that answers no more validations, so that no revocation waits for it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn deregister_replica(&self, id: Uuid) -> Result<(), StoreError> {
        let sql = delete_own(self.writes.get_database_backend());
        let delete = self.write_statement(&sql, [id.into()]);
        self.bounded(self.writes.execute_raw(delete)).await?;
        Ok(())
    }

    /// Returns the replicas, and what is committed now.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn replicas(&self) -> Result<Replicas, StoreError> {
        let backend = self.log.get_database_backend();
        let read = Statement::from_string(backend, rows_from(backend, "(SELECT 1)"));
        replicas(self.bounded(self.log.query_all_raw(read)).await?)
    }

    /// Notifies `woken` each time that a replica other than `waker` asks for it, until the connection is lost.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn listen_for_others(&self, waker: Uuid, woken: &Notify) -> Result<(), StoreError> {
        if self.log.get_database_backend() == DbBackend::Sqlite {
            return std::future::pending().await;
        }
        let waker = waker.to_string();
        let mut listener = PgListener::connect_with(self.log.get_postgres_connection_pool()).await?;
        listener.listen(CHANNEL).await?;
        loop {
            match listener.try_recv().await? {
                Some(notification) if notification.payload() == waker => {}
                Some(_) => woken.notify_one(),
                // Something may have been missed.
                None => {
                    woken.notify_one();
                    return Ok(());
                }
            }
        }
    }

    pub(super) fn write_statement(
        &self,
        sql: &str,
        values: impl IntoIterator<Item = sea_orm::Value>,
    ) -> Statement {
        Statement::from_sql_and_values(self.writes.get_database_backend(), sql, values)
    }
}

/// One statement, so that the position and the rows belong together; the position comes also without a row. PostgreSQL reads
/// the newest version of each state first, and no other.
fn rows_from(backend: DbBackend, first: &str) -> String {
    let state = match backend {
        DbBackend::Sqlite => "JOIN replica_states AS state ON state.id = replicas.id",
        _ => {
            "CROSS JOIN LATERAL (SELECT * FROM replica_states WHERE replica_states.id = replicas.id \
             ORDER BY renewals DESC LIMIT 1) AS state"
        }
    };
    format!(
        "SELECT {}, {}, replica.* FROM {first} AS first LEFT JOIN (SELECT replicas.id, renewals, lease_millis, \
         renewed_at, seen, epoch FROM replicas {state}) AS replica ON TRUE",
        log_position::present(backend),
        epoch::present(backend)
    )
}

fn replicas(rows: Vec<QueryResult>) -> Result<Replicas, StoreError> {
    let first = rows.first().ok_or_else(|| DbErr::RecordNotFound("a position".to_owned()))?;
    let (position, epoch) = (Position::read(first, 0)?, first.try_get_by_index(1)?);
    let replicas = rows.iter().filter_map(|row| replica(row).transpose()).collect::<Result<_, _>>()?;
    Ok(Replicas { replicas, change: Change { position, epoch } })
}

fn replica(row: &QueryResult) -> Result<Option<Replica>, DbErr> {
    let Some(id) = row.try_get_by_index::<Option<Uuid>>(2)? else { return Ok(None) };
    let millis: i64 = row.try_get_by_index(4)?;
    Ok(Some(Replica {
        id,
        renewals: row.try_get_by_index(3)?,
        lease: Duration::from_millis(millis.unsigned_abs()),
        renewed_at: row.try_get_by_index(5)?,
        seen: Position::read(row, 6)?,
        epoch: row.try_get_by_index(7)?,
    }))
}
