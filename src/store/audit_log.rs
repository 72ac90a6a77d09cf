//! The audit log: every change, written in the transaction that makes it.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbErr, QueryResult, Statement};
use uuid::Uuid;

use super::{Store, StoreError, WriteTransaction, transaction::Server};
use crate::token::UserId;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A token was issued.
    TokenIssued,
    /// A token was revoked.
    TokenRevoked,
    /// A token was given another secret, because the call that issued it was repeated.
    TokenSecretReplaced,
    /// An account was deleted, and with it all of its tokens.
    UserDeleted,
}

impl EventKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TokenIssued => "token_issued",
            Self::TokenRevoked => "token_revoked",
            Self::TokenSecretReplaced => "token_secret_replaced",
            Self::UserDeleted => "user_deleted",
        }
    }
}

/// One event of the audit log.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: EventKind,
    /// The token that it happened to; `None` if it happened to the account.
    pub token_id: Option<Uuid>,
    /// The user whose token or account it was.
    pub user_id: &'a UserId,
    /// Who asked for it.
    pub actor: &'a str,
    /// The id of the message that asked for it, if one did.
    pub reason: Option<&'a str>,
    /// The id of the call's trace, if it was traced.
    pub trace_id: Option<&'a str>,
}

/// An event as it was read.
#[derive(Clone, Debug)]
pub struct RecordedEvent {
    /// Its id; later events have larger ones.
    pub id: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened; another version may have written a kind that this one does not know.
    pub kind: String,
    /// The token that it happened to; `None` if it happened to the account.
    pub token_id: Option<Uuid>,
    /// The user whose token or account it was.
    pub user_id: String,
    /// Who asked for it.
    pub actor: String,
    /// The id of the message that asked for it, if one did.
    pub reason: Option<String>,
    /// The id of the call's trace, if it was traced.
    pub trace_id: Option<String>,
}

impl Store {
    /// Returns at most `limit` events from below the id `before` on, newest first: those of `user`, or all.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn page_events(
        &self,
        user: Option<&UserId>,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<RecordedEvent>, StoreError> {
        let which = if user.is_some() { "user_id = $2 AND id < $1" } else { "id < $1" };
        let sql = format!(
            "SELECT id, at, kind, token_id, user_id, actor, reason, trace_id FROM token_events \
             WHERE {which} ORDER BY id DESC LIMIT {limit}"
        );
        let mut values = vec![before.unwrap_or(i64::MAX).into()];
        values.extend(user.map(|user| user.as_str().into()));
        let query = Statement::from_sql_and_values(self.reads.get_database_backend(), sql, values);
        let rows = self.bounded(self.reads.query_all_raw(query)).await?;
        Ok(rows.iter().map(recorded).collect::<Result<_, DbErr>>()?)
    }
}

fn recorded(row: &QueryResult) -> Result<RecordedEvent, DbErr> {
    Ok(RecordedEvent {
        id: row.try_get_by_index(0)?,
        at: row.try_get_by_index(1)?,
        kind: row.try_get_by_index(2)?,
        token_id: row.try_get_by_index(3)?,
        user_id: row.try_get_by_index(4)?,
        actor: row.try_get_by_index(5)?,
        reason: row.try_get_by_index(6)?,
        trace_id: row.try_get_by_index(7)?,
    })
}

impl WriteTransaction {
    /// Adds an event to the audit log, and returns the server that this transaction runs on.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn record(&self, event: Event<'_>) -> Result<Server, StoreError> {
        let backend = self.inner.get_database_backend();
        let sql = format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor, reason, trace_id) \
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {}",
            Server::columns(backend)
        );
        let values = [
            event.at.into(),
            event.kind.as_str().into(),
            event.token_id.into(),
            event.user_id.as_str().into(),
            event.actor.into(),
            event.reason.into(),
            event.trace_id.into(),
        ];
        self.server(Statement::from_sql_and_values(backend, sql, values)).await
    }
}
