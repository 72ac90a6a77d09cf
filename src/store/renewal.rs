//! Registering a replica, and renewing its lease.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait as _, DbBackend, Statement,
    sqlx::{self, AssertSqlSafe},
};
use uuid::Uuid;

use super::{
    LogHead, Store, StoreError, epoch, log_position,
    session::{Session, is_session},
    transaction::without_waiting,
};
use crate::clock::Moment;

/// Writes the state of one replica. On PostgreSQL over a connection of its own.
#[derive(Debug)]
pub struct Renewer {
    store: Store,
    session: Option<Session>,
    /// The number of the last attempt to renew the lease or to report. Each attempt has a greater one, so that one that
    /// arrives late changes nothing, and two copies of a process notice each other.
    attempts: i64,
    /// The numbers that the row may have: that of the last attempt that was answered, and those of later ones.
    possible: Vec<i64>,
}

/// So many attempts in a row without an answer make a replica register anew.
const MAX_UNANSWERED: usize = 32;

const INSERT_REPLICA: &str = "INSERT INTO replicas (id, epoch, lease_millis)";
const INSERT_STATE: &str = "INSERT INTO replica_states (id, renewals, seen, renewed_at)";

impl Renewer {
    /// Returns the renewer of a replica.
    pub fn new(store: Store) -> Self {
        let session = store.session();
        Self { store, session, attempts: 0, possible: Vec::new() }
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
            Some(session) => session.open(bound).await.map(drop),
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
        (self.attempts, self.possible) = (0, vec![0]);
        let Some(session) = &mut self.session else {
            return register_on_sqlite(&self.store, id, millis, now).await;
        };
        // `present` is as it was before this statement. If another replica begins the epoch at the same moment, this one is
        // not registered yet.
        let sql = format!(
            "WITH present AS (SELECT {present} AS id), begun AS ({begin}), \
             known AS (SELECT id FROM begun UNION ALL SELECT id FROM present WHERE id IS NOT NULL), \
             unanswered AS (DELETE FROM replicas WHERE id = $6), \
             new AS ({INSERT_REPLICA} \
             SELECT $5, $5, greatest($2, (SELECT max(lease_millis) FROM replicas)) FROM begun \
             UNION ALL SELECT $1, id, $2 FROM known RETURNING id) \
             {INSERT_STATE} SELECT id, 0, {seen}, $3 FROM new",
            present = epoch::PRESENT,
            begin = epoch::BEGIN,
            seen = log_position::present(DbBackend::Postgres),
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(millis).bind(now);
        let query = query.bind(Uuid::now_v7()).bind(Uuid::now_v7()).bind(unanswered);
        session.execute(query, bound).await?;
        Ok(())
    }

    /// Commits that the replica with this registration has evicted everything up to `seen`, and renews its lease. Returns
    /// whether it did: not if its row is gone, the session is another one, or the server is not of the epoch in which `seen` was
    /// read.
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
        self.write(registration, seen, Some(now), bound).await
    }

    /// Tells the others that the replica with this registration has evicted everything up to `seen`, as [`Renewer::renew`]
    /// does, but renews nothing, and waits neither for the disk nor for a standby: what a crash loses of it, others have to
    /// wait for again.
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
        self.write(registration, seen, None, bound).await
    }

    async fn write(
        &mut self,
        registration: Uuid,
        seen: &LogHead,
        renewed_at: Option<DateTime<Utc>>,
        bound: Duration,
    ) -> Result<bool, StoreError> {
        if self.possible.len() > MAX_UNANSWERED {
            return Ok(false);
        }
        self.attempts += 1;
        let possible = self.possible.clone();
        self.possible.push(self.attempts);
        let position = seen.position.to_text();
        let written = match &mut self.session {
            Some(session) => {
                let mut sql = format!(
                    "UPDATE replica_states SET renewals = $2, seen = $3, renewed_at = coalesce($4, renewed_at) \
                     WHERE id = $1 AND renewals = ANY ($5) AND {} = $6 AND {}",
                    epoch::PRESENT,
                    is_session(7)
                );
                if renewed_at.is_none() {
                    sql = format!("{sql} AND {}", without_waiting(DbBackend::Postgres));
                }
                let query = sqlx::query(AssertSqlSafe(sql)).bind(registration).bind(self.attempts);
                let query = query.bind(position).bind(renewed_at).bind(possible).bind(seen.epoch);
                // It is open: what it reports was read since.
                let name = session.name().ok_or(StoreError::Interrupted)?;
                session.execute(query.bind(name), bound).await?
            }
            None => {
                let sql = "UPDATE replica_states SET renewals = $2, seen = $3, renewed_at = coalesce($4, renewed_at) \
                           WHERE id = $1 AND renewals < $2";
                let values = [registration.into(), self.attempts.into(), position.into(), renewed_at.into()];
                let update = Statement::from_sql_and_values(DbBackend::Sqlite, sql, values);
                self.store.bounded(self.store.writes.execute_raw(update)).await?.rows_affected()
            }
        };
        self.possible = vec![self.attempts];
        Ok(written == 1)
    }
}

async fn register_on_sqlite(
    store: &Store,
    id: Uuid,
    millis: i64,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let (epoch, seen) = (epoch::present(DbBackend::Sqlite), log_position::present(DbBackend::Sqlite));
    let transaction = store.begin().await?;
    let replica = store
        .write_statement(&format!("{INSERT_REPLICA} VALUES ($1, {epoch}, $2)"), [id.into(), millis.into()]);
    transaction.run(transaction.inner.execute_raw(replica)).await?;
    let state =
        store.write_statement(&format!("{INSERT_STATE} VALUES ($1, 0, {seen}, $2)"), [id.into(), now.into()]);
    transaction.run(transaction.inner.execute_raw(state)).await?;
    transaction.commit_at_once().await
}
