//! The audit log: every change, written in the transaction that makes it.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, Statement};
use uuid::Uuid;

use super::{StoreError, WriteTransaction, revocation_log::EPOCH};
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
}

impl WriteTransaction {
    /// Adds an event to the audit log, and returns the epoch of the server; see
    /// [`LogHead::epoch`](super::LogHead::epoch).
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn record(&self, event: Event<'_>) -> Result<Option<Uuid>, StoreError> {
        let sql = format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor, reason) \
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING {EPOCH}"
        );
        let values = [
            event.at.into(),
            event.kind.as_str().into(),
            event.token_id.into(),
            event.user_id.as_str().into(),
            event.actor.into(),
            event.reason.into(),
        ];
        let insert = Statement::from_sql_and_values(self.inner.get_database_backend(), sql, values);
        let row = self.run(self.inner.query_one_raw(insert)).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.flatten())
    }
}
