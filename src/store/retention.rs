//! Deletes rows that are no longer kept, in batches: each statement is short, and calls run between them.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, Statement, Value};

use super::{
    CommitGate, LogPosition, Store, StoreError, WriteTransaction,
    log_position::{self, Position},
};

/// The most rows that one statement deletes.
const BATCH: u64 = 500;

/// The advisory lock that one transaction holds while it purges; any number that nobody else uses. The commit is
/// not acknowledged to anybody, so it does not wait for a standby.
const LOCK: &str =
    "SELECT pg_try_advisory_xact_lock(7017190432), set_config('synchronous_commit', 'off', true)";

/// Rows that are no longer kept.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields are what their names say")]
pub enum Outdated {
    /// Tokens that were revoked before this time.
    RevokedTokens { before: DateTime<Utc> },
    /// Tokens that expired before this time.
    ExpiredTokens { before: DateTime<Utc> },
    /// Tokens of accounts that were deleted before this time.
    TokensOfDeletedAccounts { before: DateTime<Utc>, now: DateTime<Utc> },
    /// Events that happened before this time and were visible at this position in the log.
    Events { before: DateTime<Utc>, position: LogPosition },
    /// Requests to create tokens that came before this time.
    CreateRequests { before: DateTime<Utc> },
}

/// What a batch did.
#[derive(Clone, Copy, Debug)]
pub struct PurgedBatch {
    /// How many rows it deleted.
    pub rows: u64,
    /// Where the next batch starts; `None` if there is nothing left.
    pub next: Option<DateTime<Utc>>,
}

impl Store {
    /// Returns the present position in the audit log.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn log_position(&self) -> Result<LogPosition, StoreError> {
        let backend = self.reads.get_database_backend();
        let read = Statement::from_string(backend, format!("SELECT {}", log_position::present(backend)));
        let row = self.bounded(self.reads.query_one_raw(read)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the position in the log".to_owned()))?;
        Ok(LogPosition(Position::read(&row, 0)?))
    }

    /// Deletes the next rows, in a transaction of their own; `None` if another replica is purging. `from` is where the
    /// previous batch ended: without it, each batch would again pass over the rows that the batches before it deleted and
    /// that are not vacuumed yet.
    ///
    /// Locked rows are skipped, so that a purge waits for nobody and is part of no deadlock.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn purge_batch(
        &self,
        outdated: &Outdated,
        from: DateTime<Utc>,
    ) -> Result<Option<PurgedBatch>, StoreError> {
        let (store, outdated) = (self.clone(), outdated.clone());
        let purge = |gate: CommitGate| async move {
            let transaction = store.begin().await?;
            if !transaction.may_purge().await? {
                return Ok(None);
            }
            let batch = match outdated {
                Outdated::RevokedTokens { before } => {
                    transaction
                        .purge_older("tokens", "revoked_at", "", vec![from.into(), before.into()])
                        .await
                }
                Outdated::ExpiredTokens { before } => {
                    transaction
                        .purge_older("tokens", "expires_at", "", vec![from.into(), before.into()])
                        .await
                }
                Outdated::TokensOfDeletedAccounts { before, now } => {
                    transaction.purge_tokens_of_deleted_accounts(from, before, now).await
                }
                Outdated::CreateRequests { before } => {
                    let values = vec![from.into(), before.into()];
                    transaction.purge_older("create_requests", "created_at", "", values).await
                }
                Outdated::Events { before, position } => {
                    transaction.purge_events(from, before, position).await
                }
            }?;
            transaction.commit(&gate).await?;
            Ok(Some(batch))
        };
        self.write(purge).await
    }
}

impl WriteTransaction {
    /// Returns whether no other transaction purges. SQLite has one writer anyway.
    async fn may_purge(&self) -> Result<bool, StoreError> {
        let backend = self.inner.get_database_backend();
        if backend == DbBackend::Sqlite {
            return Ok(true);
        }
        let row = self.run(self.inner.query_one_raw(Statement::from_string(backend, LOCK))).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the lock".to_owned()))?;
        Ok(row.try_get_by_index(0)?)
    }

    /// Never deletes the newest event, because replicas take a log whose greatest id went down for a restored one. The
    /// plus signs keep the databases from using the index of the id instead of that of the time.
    async fn purge_events(
        &self,
        from: DateTime<Utc>,
        before: DateTime<Utc>,
        LogPosition(position): LogPosition,
    ) -> Result<PurgedBatch, StoreError> {
        let (was_visible, position) = match &position {
            Position::Id(id) => ("+id <= $3", Value::from(*id)),
            Position::Snapshot(_) => {
                ("pg_visible_in_snapshot(xid, $3::text::pg_snapshot)", position.to_text().into())
            }
        };
        let condition = format!("AND +id < (SELECT max(id) FROM token_events) AND {was_visible}");
        self.purge_older("token_events", "at", &condition, vec![from.into(), before.into(), position]).await
    }

    /// Deletes the oldest rows of a table whose `time` is from $1 on and before $2, and meets the further condition.
    async fn purge_older(
        &self,
        table: &str,
        time: &str,
        condition: &str,
        values: Vec<Value>,
    ) -> Result<PurgedBatch, StoreError> {
        let backend = self.inner.get_database_backend();
        let row = row_address(backend);
        let oldest = format!(
            "SELECT {row} FROM {table} WHERE {time} >= $1 AND {time} < $2 {condition} \
             ORDER BY {time} LIMIT {BATCH} {}",
            skip_locked(backend)
        );
        let sql = format!("DELETE FROM {table} WHERE {} RETURNING {time}", is_one_of(backend, row, &oldest));
        let delete = Statement::from_sql_and_values(backend, sql, values);
        let deleted = self.run(self.inner.query_all_raw(delete)).await?;
        let times = deleted.iter().map(|row| row.try_get_by_index(0));
        let times: Vec<DateTime<Utc>> = times.collect::<Result<_, _>>()?;
        let rows = times.len() as u64;
        Ok(PurgedBatch { rows, next: times.into_iter().max().filter(|_| rows == BATCH) })
    }

    /// Deletes tokens of the accounts that were deleted first, and notes which accounts have none left, so that no
    /// later batch looks at them again. Their revoked tokens are not its concern: see [`Outdated::RevokedTokens`].
    async fn purge_tokens_of_deleted_accounts(
        &self,
        from: DateTime<Utc>,
        before: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<PurgedBatch, StoreError> {
        let backend = self.inner.get_database_backend();
        let accounts = format!(
            "(SELECT user_id FROM users WHERE deleted_at < $1 AND tokens_purged_at IS NULL \
             ORDER BY deleted_at LIMIT {BATCH}) AS account"
        );
        let tokens = "tokens WHERE tokens.user_id = account.user_id AND tokens.revoked_at IS NULL";
        // PostgreSQL may read the whole table for a plain join.
        let kept = match backend {
            DbBackend::Sqlite => format!("SELECT tokens.rowid FROM {accounts} CROSS JOIN {tokens}"),
            _ => format!(
                "SELECT kept.ctid FROM {accounts} \
                 CROSS JOIN LATERAL (SELECT ctid FROM {tokens} FOR UPDATE SKIP LOCKED) AS kept"
            ),
        };
        let sql = format!(
            "DELETE FROM tokens WHERE {}",
            is_one_of(backend, row_address(backend), &format!("{kept} LIMIT {BATCH}"))
        );
        let delete = Statement::from_sql_and_values(backend, sql, [before.into()]);
        let rows = self.run(self.inner.execute_raw(delete)).await?.rows_affected();
        // For NOT EXISTS, too.
        let without_tokens =
            format!("SELECT user_id FROM {accounts} WHERE (SELECT id FROM {tokens} LIMIT 1) IS NULL");
        let sql = format!(
            "UPDATE users SET tokens_purged_at = $2 WHERE {}",
            is_one_of(backend, "user_id", &without_tokens)
        );
        let update = Statement::from_sql_and_values(backend, sql, [before.into(), now.into()]);
        let accounts = self.run(self.inner.execute_raw(update)).await?.rows_affected();
        Ok(PurgedBatch { rows, next: (rows == BATCH || accounts == BATCH).then_some(from) })
    }
}

/// The column that says where a row is stored: it finds the row at once, in any table.
fn row_address(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Sqlite { "rowid" } else { "ctid" }
}

/// The condition that `column` has one of the values that a query returns. PostgreSQL gets an array, because it may join
/// the result of a subquery by reading the whole table.
fn is_one_of(backend: DbBackend, column: &str, query: &str) -> String {
    match backend {
        DbBackend::Sqlite => format!("{column} IN ({query})"),
        _ => format!("{column} = ANY (ARRAY({query}))"),
    }
}

/// SQLite locks no rows.
fn skip_locked(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Sqlite { "" } else { "FOR UPDATE SKIP LOCKED" }
}
