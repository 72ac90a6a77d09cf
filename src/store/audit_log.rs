//! The audit log: every change, written in the transaction that makes it.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    EntityTrait as _,
};
use uuid::Uuid;

use super::{
    StoreError, WriteTransaction,
    entity::token_events::{ActiveModel, Entity},
};
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
    /// Adds an event to the audit log.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn record(&self, event: Event<'_>) -> Result<(), StoreError> {
        let row = ActiveModel {
            id: NotSet,
            at: Set(event.at),
            kind: Set(event.kind.as_str().to_owned()),
            token_id: Set(event.token_id),
            user_id: Set(event.user_id.as_str().to_owned()),
            actor: Set(event.actor.to_owned()),
            reason: Set(event.reason.map(str::to_owned)),
        };
        self.run(Entity::insert(row).exec_without_returning(&self.inner)).await?;
        Ok(())
    }
}
