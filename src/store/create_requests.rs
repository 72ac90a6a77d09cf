//! The requests that issued tokens under a request id, so that a repeated one is recognised.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ConnectionTrait as _, DbBackend, EntityTrait as _, QueryResult, Statement,
    sea_query::OnConflict,
};
use uuid::Uuid;

use super::{
    Store, StoreError, WriteTransaction,
    entity::create_requests::{ActiveModel, Column, Entity},
};
use crate::token::{RequestId, UserId};

/// A request that issued a token.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// The user whose token it is, and who chose the request id.
    pub user_id: &'a UserId,
    /// The id of the request.
    pub request_id: RequestId,
    /// The token that it issued.
    pub token_id: Uuid,
    /// A digest of what was requested.
    pub content: [u8; 32],
    /// When the token was issued.
    pub at: DateTime<Utc>,
}

/// An earlier request with the same id, and what has become of its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EarlierRequest {
    /// The token that it issued.
    pub token_id: Uuid,
    /// A digest of what was requested.
    pub content: Vec<u8>,
    /// When the token was created; `None` when its row was purged.
    pub created_at: Option<DateTime<Utc>>,
    /// A use of the token was written.
    pub used: bool,
    /// The token was revoked.
    pub revoked: bool,
}

/// By primary keys alone.
const FIND: &str = "SELECT token_id, content, tokens.created_at, last_used_at, revoked_at \
                    FROM create_requests LEFT JOIN tokens ON tokens.id = token_id \
                    WHERE create_requests.user_id = $1 AND request_id = $2 AND create_requests.created_at > $3";

impl Store {
    /// The request of the user with this id, if it issued a token after `since`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn earlier_request(
        &self,
        user: &UserId,
        id: RequestId,
        since: DateTime<Utc>,
    ) -> Result<Option<EarlierRequest>, StoreError> {
        let find = query(self.reads.get_database_backend(), user, id, since);
        self.bounded(self.reads.query_one_raw(find)).await?.as_ref().map(found).transpose()
    }
}

impl WriteTransaction {
    /// As [`Store::earlier_request`], under the lock of this transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn earlier_request(
        &self,
        user: &UserId,
        id: RequestId,
        since: DateTime<Utc>,
    ) -> Result<Option<EarlierRequest>, StoreError> {
        let find = query(self.inner.get_database_backend(), user, id, since);
        self.run(self.inner.query_one_raw(find)).await?.as_ref().map(found).transpose()
    }

    /// Stores a request, in place of an older one with the same id.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn put_request(&self, request: CreateRequest<'_>) -> Result<(), StoreError> {
        let row = ActiveModel {
            user_id: Set(request.user_id.as_str().to_owned()),
            request_id: Set(request.request_id.as_uuid()),
            token_id: Set(request.token_id),
            content: Set(request.content.to_vec()),
            created_at: Set(request.at),
        };
        let replace = OnConflict::columns([Column::UserId, Column::RequestId])
            .update_columns([Column::TokenId, Column::Content, Column::CreatedAt])
            .to_owned();
        let insert = Entity::insert(row).on_conflict(replace);
        self.run(insert.exec_without_returning(&self.inner)).await?;
        Ok(())
    }
}

fn query(backend: DbBackend, user: &UserId, id: RequestId, since: DateTime<Utc>) -> Statement {
    let values = [user.as_str().into(), id.as_uuid().into(), since.into()];
    Statement::from_sql_and_values(backend, FIND, values)
}

/// What [`FIND`] found, in its order.
fn found(row: &QueryResult) -> Result<EarlierRequest, StoreError> {
    let time = |index| row.try_get_by_index::<Option<DateTime<Utc>>>(index);
    Ok(EarlierRequest {
        token_id: row.try_get_by_index(0)?,
        content: row.try_get_by_index(1)?,
        created_at: time(2)?,
        used: time(3)?.is_some(),
        revoked: time(4)?.is_some(),
    })
}
