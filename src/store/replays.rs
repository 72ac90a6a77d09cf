//! The replay of account events after a failover or a restore: which epochs it was done in, and whose deletion was lost.
//!
//! Only on PostgreSQL: the epoch of SQLite never changes. A statement that depends on the epoch checks it, because
//! connections to a server that a failover has replaced may still be in the pool.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};
use uuid::Uuid;

use super::{Store, StoreError, epoch::PRESENT};
use crate::token::UserId;

impl Store {
    /// Returns the present epoch of the database; `None` with SQLite.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn epoch(&self) -> Result<Option<Uuid>, StoreError> {
        if !self.can_fail_over() {
            return Ok(None);
        }
        let query = statement(format!("SELECT {PRESENT}"), []);
        let row = self.bounded(self.reads.query_one_raw(query)).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.flatten())
    }

    /// Returns whether the account events were replayed in `epoch`; always with SQLite, whose epoch never changes.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn is_replayed(&self, epoch: Uuid) -> Result<bool, StoreError> {
        if !self.can_fail_over() {
            return Ok(true);
        }
        let sql = "SELECT 1 FROM account_event_replays WHERE epoch = $1";
        let query = statement(sql, [epoch.into()]);
        Ok(self.bounded(self.reads.query_one_raw(query)).await?.is_some())
    }

    /// Records that the account events were replayed in `epoch`.
    ///
    /// # Errors
    ///
    /// [`StoreError::EpochChanged`] if the server is of another epoch, or see [`StoreError`].
    pub async fn record_replay(&self, epoch: Uuid, at: DateTime<Utc>) -> Result<(), StoreError> {
        let sql = format!(
            "INSERT INTO account_event_replays (epoch, done_at) SELECT $1, $2 WHERE {PRESENT} = $1 \
             ON CONFLICT (epoch) DO UPDATE SET done_at = excluded.done_at"
        );
        let insert = statement(sql, [epoch.into(), at.into()]);
        match self.bounded(self.writes.execute_raw(insert)).await?.rows_affected() {
            0 => Err(StoreError::EpochChanged),
            _ => Ok(()),
        }
    }

    /// Returns those of `users` whose accounts have no tombstone in `epoch`, or do not exist.
    ///
    /// # Errors
    ///
    /// [`StoreError::EpochChanged`] if the server is of another epoch, or see [`StoreError`].
    pub async fn users_without_tombstone(
        &self,
        epoch: Uuid,
        users: &[&UserId],
    ) -> Result<Vec<UserId>, StoreError> {
        let ids: Vec<_> = users.iter().map(|user| user.as_str()).collect();
        // A subquery for each user, and no join: it reads the primary key, however few users the planner believes there
        // are.
        let sql = format!(
            "SELECT {PRESENT} = $1, (SELECT json_agg(wanted.id)::text \
             FROM json_array_elements_text($2::text::json) AS wanted (id) \
             WHERE (SELECT deleted_at FROM users WHERE user_id = wanted.id) IS NULL)"
        );
        let query = statement(sql, [epoch.into(), serde_json::json!(ids).to_string().into()]);
        let row = self.bounded(self.reads.query_one_raw(query)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("tombstones".to_owned()))?;
        if row.try_get_by_index::<Option<bool>>(0)? != Some(true) {
            return Err(StoreError::EpochChanged);
        }
        let found = row.try_get_by_index::<Option<String>>(1)?.unwrap_or_else(|| "[]".to_owned());
        let found: Vec<String> =
            serde_json::from_str(&found).map_err(|error| DbErr::Json(error.to_string()))?;
        Ok(found.into_iter().map(UserId::from_stored).collect())
    }
}

fn statement<const N: usize>(sql: impl Into<String>, values: [Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}
