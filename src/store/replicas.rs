//! Replicas: which ones may hold tokens in memory, and how far each has read the revocation log.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement, sqlx::postgres::PgListener};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{
    Store, StoreError,
    log_position::{self, Position},
    revocation_log::EPOCH,
};

/// Another replica, as its row says.
#[derive(Clone, Debug)]
pub struct Replica {
    /// A new one at each start.
    pub id: Uuid,
    /// How often it has renewed its lease.
    pub renewals: i64,
    /// How long its lease lasts after a renewal.
    pub lease: Duration,
    /// When it renewed its lease, by the database's clock.
    pub renewed_at: DateTime<Utc>,
    seen: Position,
    epoch: Uuid,
}

impl Replica {
    /// Whether it has evicted everything that was revoked before `change`. What was seen in another epoch does not count.
    pub fn has_seen(&self, change: &Change) -> bool {
        Some(self.epoch) == change.epoch && self.seen.covers(&change.position)
    }
}

/// Everything that was committed before one moment.
#[derive(Clone, Debug)]
pub struct Change {
    position: Position,
    /// The epoch of the server that said so; see [`LogHead::epoch`](super::LogHead::epoch).
    pub epoch: Option<Uuid>,
}

/// The other replicas at one moment.
#[derive(Debug)]
pub struct Replicas {
    /// Their rows.
    pub replicas: Vec<Replica>,
    /// What was committed at that moment.
    pub change: Change,
}

const REGISTER: &str = "INSERT INTO replicas (id, renewals, lease_millis, renewed_at, seen, epoch)";
/// What a replica that registers anew changes in its row.
const ANEW: &str = "ON CONFLICT (id) DO UPDATE SET renewals = replicas.renewals + 1, \
                    renewed_at = excluded.renewed_at, seen = excluded.seen, epoch = excluded.epoch";

/// The channel on which a replica that revoked something wakes the others. The payload is its id.
const CHANNEL: &str = "latchkey_revocations";

impl Store {
    /// Whether a failover can replace the database's server, so that leases must be renewed by writes.
    pub fn can_fail_over(&self) -> bool {
        self.log.get_database_backend() == DbBackend::Postgres
    }

    /// Registers a replica, or registers it anew. Its memory must be empty, or not in use, until it has read the log again.
    ///
    /// The first that registers in an epoch adds a row that nobody renews. It stands for the replicas whose rows a failover
    /// has lost: they may have leases from before, and revocations wait until those are over.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn register_replica(
        &self,
        id: Uuid,
        lease: Duration,
        now: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        let millis = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let mut values = vec![id.into(), millis.into(), now.into()];
        let backend = self.writes.get_database_backend();
        let seen = log_position::present(backend);
        let sql = match backend {
            DbBackend::Sqlite => format!("{REGISTER} VALUES ($1, 0, $2, $3, {seen}, {EPOCH}) {ANEW}"),
            _ => {
                values.extend([Uuid::now_v7().into(), Uuid::now_v7().into()]);
                let row = format!("0, $2, $3, {seen}, id");
                // `epoch` is read as it was before this statement. If another replica begins the epoch at the same
                // moment, this one is not registered yet.
                format!(
                    "WITH begun AS (INSERT INTO epoch (id) VALUES ($4) ON CONFLICT DO NOTHING RETURNING id), \
                     lost AS ({REGISTER} SELECT $5, {row} FROM begun) \
                     {REGISTER} SELECT $1, {row} FROM (SELECT id FROM begun UNION ALL SELECT id FROM epoch) \
                     AS present {ANEW}"
                )
            }
        };
        self.bounded(self.writes.execute_raw(self.write_statement(&sql, values))).await?;
        Ok(())
    }

    /// Removes a replica that answers no more validations, so that no revocation waits for it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn deregister_replica(&self, id: Uuid) -> Result<(), StoreError> {
        let delete = self.write_statement("DELETE FROM replicas WHERE id = $1", [id.into()]);
        self.bounded(self.writes.execute_raw(delete)).await?;
        Ok(())
    }

    /// Removes another replica unless it has renewed its lease since it was read, or `reader` itself is not registered: a
    /// replica that is alone need not renew. Returns whether it is removed.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn remove_replica(&self, replica: &Replica, reader: Uuid) -> Result<bool, StoreError> {
        let sql = "DELETE FROM replicas WHERE id = $1 AND renewals = $2 \
                   AND EXISTS (SELECT 1 FROM replicas WHERE id = $3)";
        let values = [replica.id.into(), replica.renewals.into(), reader.into()];
        let delete = self.write_statement(sql, values);
        Ok(self.bounded(self.writes.execute_raw(delete)).await?.rows_affected() == 1)
    }

    /// The replicas other than `reader`, and what is committed now.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn replicas_except(&self, reader: Uuid) -> Result<Replicas, StoreError> {
        let backend = self.log.get_database_backend();
        let now = log_position::present(backend);
        // One statement, so that the position and the rows belong together; the position comes also without a row.
        let sql = format!(
            "SELECT {now}, {EPOCH}, replicas.id, renewals, lease_millis, renewed_at, seen, epoch \
             FROM (SELECT 1) AS one LEFT JOIN replicas ON replicas.id <> $1"
        );
        let read = Statement::from_sql_and_values(backend, sql, [reader.into()]);
        let rows = self.bounded(self.log.query_all_raw(read)).await?;
        let first = rows.first().ok_or_else(|| DbErr::RecordNotFound("a position".to_owned()))?;
        let (position, epoch) = (Position::read(first, 0)?, first.try_get_by_index(1)?);
        let replicas = rows.iter().filter_map(|row| replica(row).transpose()).collect::<Result<_, _>>()?;
        Ok(Replicas { replicas, change: Change { position, epoch } })
    }

    /// Wakes the other replicas, so that they read the log at once. In a statement of its own, after the commit: inside
    /// the transaction it would make commits wait for each other. With SQLite they poll.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn wake_other_replicas(&self, reader: Uuid) -> Result<(), StoreError> {
        if self.log.get_database_backend() == DbBackend::Postgres {
            let values = [CHANNEL.into(), reader.to_string().into()];
            let notify =
                Statement::from_sql_and_values(DbBackend::Postgres, "SELECT pg_notify($1, $2)", values);
            self.bounded(self.log.execute_raw(notify)).await?;
        }
        Ok(())
    }

    /// Notifies `woken` each time that a replica other than `reader` asks for it, until the connection is lost.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn listen_for_others(&self, reader: Uuid, woken: &Notify) -> Result<(), StoreError> {
        if self.log.get_database_backend() == DbBackend::Sqlite {
            return std::future::pending().await;
        }
        let reader = reader.to_string();
        let mut listener = PgListener::connect_with(self.log.get_postgres_connection_pool()).await?;
        listener.listen(CHANNEL).await?;
        loop {
            match listener.try_recv().await? {
                Some(notification) if notification.payload() == reader => {}
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
