//! The log of what happened to tokens: written in the transaction of the change, read by auditors and replicas.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait as _, ConnectionTrait as _, EntityTrait as _, QueryFilter as _, QuerySelect as _,
    QueryTrait as _,
    sea_query::{Expr, Query},
};
use uuid::Uuid;

use super::{
    StoreError, Write,
    entity::{
        token_events::{ActiveModel, Column, Entity},
        tokens,
    },
};
use crate::token::{RevokeReason, UserId};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A token was issued.
    TokenIssued,
    /// A token was revoked.
    TokenRevoked,
    /// An account was deleted.
    UserDeleted,
}

impl EventKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::TokenIssued => "token_issued",
            Self::TokenRevoked => "token_revoked",
            Self::UserDeleted => "user_deleted",
        }
    }
}

/// One line of the log.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// What happened.
    pub kind: EventKind,
    /// The token it happened to, if it happened to one.
    pub token_id: Option<Uuid>,
    /// The user it happened to.
    pub user_id: &'a UserId,
    /// On whose word.
    pub actor: &'a str,
    /// Why, or by which message.
    pub reason: Option<&'a str>,
}

impl Write {
    /// Adds a line to the log.
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
        Entity::insert(row).exec_without_returning(&self.0).await?;
        Ok(())
    }

    /// Adds a line for each of the user's tokens that were revoked at `event.at` because of the account's end.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn record_revoked_of_user(&self, event: Event<'_>) -> Result<(), StoreError> {
        let revoked = tokens::Entity::find()
            .select_only()
            .expr(Expr::value(event.at))
            .expr(Expr::value(EventKind::TokenRevoked.as_str()))
            .column(tokens::Column::Id)
            .column(tokens::Column::UserId)
            .expr(Expr::value(event.actor))
            .expr(Expr::value(event.reason))
            .filter(tokens::Column::UserId.eq(event.user_id.as_str()))
            .filter(tokens::Column::RevokedAt.eq(event.at))
            .filter(tokens::Column::RevokeReason.eq(super::tokens::reason_text(RevokeReason::UserDeleted)))
            .into_query();
        let columns =
            [Column::At, Column::Kind, Column::TokenId, Column::UserId, Column::Actor, Column::Reason];
        let insert =
            Query::insert().into_table(Entity).columns(columns).select_from(revoked).map(|it| it.to_owned());
        let insert = insert.map_err(|fault| sea_orm::DbErr::Custom(fault.to_string()))?;
        self.0.execute(&insert).await?;
        Ok(())
    }
}
