//! Registering a replica, and renewing its lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait as _, DbBackend, Statement,
    sqlx::{self, AssertSqlSafe},
};
use uuid::Uuid;

use super::{
    LogHead, Store, StoreError, epoch, log_position, session::Session, transaction::without_waiting,
};
use crate::clock::Moment;

/// Writes the row of one replica. On PostgreSQL over a connection of its own.
#[derive(Debug)]
pub struct Renewer {
    store: Store,
    session: Option<Session>,
    /// The number of the last attempt to renew a lease. Each attempt has a greater one, so that one that arrives late
    /// changes nothing, and two copies of a process notice each other.
    attempts: i64,
}

const COLUMNS: &str = "replicas (id, renewals, lease_millis, renewed_at, seen, epoch)";

const RENEW: &str = "UPDATE replicas SET renewals = $5, seen = $2, renewed_at = $3 \
                     WHERE id = $1 AND renewals < $5 AND epoch = $4";

/// The same without a renewal, and without waiting for the disk or a standby: what a crash loses of it, others have to wait
/// for again.
const REPORT: &str = "UPDATE replicas SET seen = $2 WHERE id = $1 AND epoch = $3";

impl Renewer {
    /// Returns the renewer of a replica.
    pub fn new(store: Store) -> Self {
        let session = store.session();
        Self { store, session, attempts: 0 }
    }

    /// Returns since when the session has been open, if it is. A renewal may report only what was read since: the session
    /// ends when the server crashes, and the server may then use ids of transactions again. With SQLite there are no
    /// sessions.
    pub fn session(&self) -> Option<Moment> {
        self.session.as_ref().map_or(Some(Moment::default()), Session::opened_at)
    }

    /// Opens the session, unless it is open.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn open(&mut self, bound: Duration) -> Result<(), StoreError> {
        match &mut self.session {
            Some(session) => session.open(bound).await,
            None => Ok(()),
        }
    }

    /// Registers a replica under an id that was never used before. Its memory must be empty, or not in use, until it has
    /// read the log again. `unanswered` is the id of an attempt whose answer was lost; its row is removed.
    ///
    /// The first that registers in an epoch adds a row of no epoch that nobody renews. It stands for the replicas whose rows
    /// a failover has lost: they may have leases from before, and revocations wait until those are over.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; it may be registered all the same.
    pub async fn register(
        &mut self,
        id: Uuid,
        unanswered: Option<Uuid>,
        lease: Duration,
        now: DateTime<Utc>,
        bound: Duration,
    ) -> Result<(), StoreError> {
        let millis = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let backend = self.store.writes.get_database_backend();
        let seen = log_position::present(backend);
        let Some(session) = &mut self.session else {
            let epoch = epoch::present(backend);
            let sql = format!("INSERT INTO {COLUMNS} VALUES ($1, 0, $2, $3, {seen}, {epoch})");
            let values = [id.into(), millis.into(), now.into()];
            let insert = self.store.write_statement(&sql, values);
            self.store.bounded(self.store.writes.execute_raw(insert)).await?;
            return Ok(());
        };
        // `present` is as it was before this statement. If another replica begins the epoch at the same moment, this one is
        // not registered yet.
        let sql = format!(
            "WITH present AS (SELECT {present} AS id), begun AS ({begin}), \
             lost AS (INSERT INTO {COLUMNS} \
             SELECT $5, 0, greatest($2, (SELECT max(lease_millis) FROM replicas)), $3, {seen}, $5 FROM begun), \
             unanswered AS (DELETE FROM replicas WHERE id = $6) \
             INSERT INTO {COLUMNS} SELECT $1, 0, $2, $3, {seen}, known.id FROM \
             (SELECT id FROM begun UNION ALL SELECT id FROM present WHERE id IS NOT NULL) AS known",
            present = epoch::PRESENT,
            begin = epoch::BEGIN,
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(millis).bind(now);
        let query = query.bind(Uuid::now_v7()).bind(Uuid::now_v7()).bind(unanswered);
        session.execute(query, bound).await?;
        Ok(())
    }

    /// Commits that the replica with this registration has evicted everything up to `seen`. Returns whether it did: not if
    /// its row is gone, or the server is not of the epoch in which `seen` was read.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; it may be committed all the same.
    pub async fn renew(
        &mut self,
        registration: Uuid,
        seen: &LogHead,
        now: DateTime<Utc>,
        bound: Duration,
    ) -> Result<bool, StoreError> {
        self.attempts += 1;
        let position = seen.position.to_text();
        let renewed = match &mut self.session {
            Some(session) => {
                let sql = format!("{RENEW} AND {} = $4", epoch::PRESENT);
                let query = sqlx::query(AssertSqlSafe(sql)).bind(registration).bind(position).bind(now);
                session.execute(query.bind(seen.epoch).bind(self.attempts), bound).await?
            }
            None => {
                let values = [
                    registration.into(),
                    position.into(),
                    now.into(),
                    seen.epoch.into(),
                    self.attempts.into(),
                ];
                let update = Statement::from_sql_and_values(DbBackend::Sqlite, RENEW, values);
                self.store.bounded(self.store.writes.execute_raw(update)).await?.rows_affected()
            }
        };
        Ok(renewed == 1)
    }

    /// Tells the others that the replica with this registration has evicted everything up to `seen`, as [`Renewer::renew`]
    /// does, but renews nothing. Only on PostgreSQL.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; the others may know it all the same.
    pub async fn report(
        &mut self,
        registration: Uuid,
        seen: &LogHead,
        bound: Duration,
    ) -> Result<bool, StoreError> {
        let Some(session) = &mut self.session else { return Err(StoreError::Interrupted) };
        let condition = without_waiting(DbBackend::Postgres);
        let sql = format!("{REPORT} AND {} = $3 AND {condition}", epoch::PRESENT);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(registration).bind(seen.position.to_text());
        Ok(session.execute(query.bind(seen.epoch), bound).await? == 1)
    }
}
