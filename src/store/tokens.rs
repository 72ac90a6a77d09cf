//! The tokens' rows.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, Condition, ConnectionTrait as _, DbErr, EntityTrait as _,
    PaginatorTrait as _, QueryFilter as _, QueryOrder as _, QueryResult, QuerySelect as _, Select, Statement,
    UpdateMany, sea_query::Expr,
};
use uuid::Uuid;

use super::{
    Store, StoreError, Write,
    entity::tokens::{ActiveModel, Column, Entity, Model},
};
use crate::token::{KeyId, RevokeReason, Scopes, SecretHash, Tag, Token, TokenName, UserId};

/// A token as it is at rest.
#[derive(Clone, Debug)]
pub struct StoredToken {
    /// What may be shown.
    pub token: Token,
    /// The slow proof of its secret.
    pub hash: SecretHash,
    /// The fast proof of its secret.
    pub tag: Option<Tag>,
    /// Whether it was revoked.
    pub life: Life,
}

/// Whether a token was revoked; it never comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It was not.
    Live,
    /// It was, for this reason.
    Revoked(RevokeReason),
}

/// A token to be stored.
#[derive(Debug)]
pub struct NewToken<'a> {
    /// What may be shown.
    pub token: &'a Token,
    /// The slow proof of its secret.
    pub hash: SecretHash,
    /// The fast proof of its secret.
    pub tag: Option<Tag>,
}

/// How many rows one statement writes at most, well below the number of parameters that a statement may have.
const BATCH: usize = 1_000;

/// Written out, and read by place: every validation that memory does not answer waits for it (docs/performance.md).
/// There is no LIMIT: SQLite compiles a statement anew each time that a parameter of its LIMIT is bound.
const FIND: &str = "SELECT user_id, name, secret_hash, tag_key_id, tag, scopes, created_at, expires_at, \
                    last_used_at, revoked_at, revoke_reason FROM tokens WHERE id = $1";

impl Store {
    /// The token with this id, revoked or not.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn find_token(&self, id: Uuid) -> Result<Option<StoredToken>, StoreError> {
        let backend = self.reads.get_database_backend();
        let find = Statement::from_sql_and_values(backend, FIND, [id.into()]);
        let row = self.bounded(self.reads.query_one_raw(find)).await?;
        Ok(row.map(|row| found(id, &row)).transpose()?)
    }

    /// At most `limit` of the user's tokens that are not revoked, newest first, from below the id `before` on.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn page_tokens(
        &self,
        user: &UserId,
        before: Option<Uuid>,
        limit: u64,
    ) -> Result<Vec<Token>, StoreError> {
        let rows = self.bounded(page_query(user, before, limit).all(&self.reads)).await?;
        Ok(rows.into_iter().map(Token::from).collect())
    }

    /// Gives the token a new tag.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn retag_token(&self, id: Uuid, tag: Tag) -> Result<(), StoreError> {
        Entity::update_many()
            .col_expr(Column::TagKeyId, Expr::value(tag.key_id.as_str()))
            .col_expr(Column::Tag, Expr::value(tag.mac))
            .filter(Column::Id.eq(id))
            .exec(&self.writes)
            .await?;
        Ok(())
    }

    /// Notes when tokens were last used, a statement for each thousand; never moves a note back.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; part of the notes may have been written.
    pub async fn note_used(&self, notes: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError> {
        for notes in notes.chunks(BATCH) {
            let places: Vec<String> =
                (0..notes.len()).map(|n| format!("(${}, ${})", 2 * n + 1, 2 * n + 2)).collect();
            // Both databases name the columns of VALUES so.
            let sql = format!(
                "UPDATE tokens SET last_used_at = used.column2 FROM (VALUES {}) AS used \
                 WHERE tokens.id = used.column1 \
                 AND (tokens.last_used_at IS NULL OR tokens.last_used_at < used.column2)",
                places.join(", ")
            );
            let values = notes.iter().flat_map(|(id, at)| [(*id).into(), (*at).into()]);
            let backend = self.writes.get_database_backend();
            self.writes.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        }
        Ok(())
    }
}

impl Write {
    /// Whether a token of the user that is not revoked has this name.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn is_name_taken(&self, user: &UserId, name: &TokenName) -> Result<bool, StoreError> {
        let taken = Entity::find()
            .filter(Column::UserId.eq(user.as_str()))
            .filter(Column::Name.eq(name.as_str()))
            .filter(Column::RevokedAt.is_null())
            .count(&self.0)
            .await?;
        Ok(taken > 0)
    }

    /// How many tokens of the user are live at `now`: neither revoked nor expired.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn count_live_tokens(&self, user: &UserId, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let unexpired = Condition::any().add(Column::ExpiresAt.is_null()).add(Column::ExpiresAt.gt(now));
        Ok(Entity::find()
            .filter(Column::UserId.eq(user.as_str()))
            .filter(Column::RevokedAt.is_null())
            .filter(unexpired)
            .count(&self.0)
            .await?)
    }

    /// Stores a token.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn insert_token(&self, new: NewToken<'_>) -> Result<(), StoreError> {
        let (tag_key_id, tag) = match new.tag {
            Some(tag) => (Some(tag.key_id.as_str().to_owned()), Some(tag.mac)),
            None => (None, None),
        };
        let row = ActiveModel {
            id: Set(new.token.id),
            user_id: Set(new.token.user_id.as_str().to_owned()),
            name: Set(new.token.name.as_str().to_owned()),
            secret_hash: Set(new.hash.as_str().to_owned()),
            tag_key_id: Set(tag_key_id),
            tag: Set(tag),
            scopes: Set(new.token.scopes.to_stored()),
            created_at: Set(new.token.created_at),
            expires_at: Set(new.token.expires_at),
            last_used_at: Set(None),
            revoked_at: Set(None),
            revoke_reason: Set(None),
        };
        Entity::insert(row).exec_without_returning(&self.0).await?;
        Ok(())
    }

    /// Revokes one token of the user and tells whether there was one to revoke.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn revoke_token(&self, user: &UserId, id: Uuid, at: DateTime<Utc>) -> Result<bool, StoreError> {
        let revoke = revocation(user, at, RevokeReason::Deleted).filter(Column::Id.eq(id));
        Ok(revoke.exec(&self.0).await?.rows_affected == 1)
    }

    /// Revokes every token of a user whose account is gone and tells which they were.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn revoke_tokens_of_user(
        &self,
        user: &UserId,
        at: DateTime<Utc>,
    ) -> Result<Vec<Uuid>, StoreError> {
        let revoke = revocation(user, at, RevokeReason::UserDeleted);
        let revoked = revoke.exec_with_returning(&self.0).await?;
        Ok(revoked.into_iter().map(|row| row.id).collect())
    }
}

/// What [`FIND`] found, in its order.
fn found(id: Uuid, row: &QueryResult) -> Result<StoredToken, DbErr> {
    let row = Model {
        id,
        user_id: row.try_get_by_index(0)?,
        name: row.try_get_by_index(1)?,
        secret_hash: row.try_get_by_index(2)?,
        tag_key_id: row.try_get_by_index(3)?,
        tag: row.try_get_by_index(4)?,
        scopes: row.try_get_by_index(5)?,
        created_at: row.try_get_by_index(6)?,
        expires_at: row.try_get_by_index(7)?,
        last_used_at: row.try_get_by_index(8)?,
        revoked_at: row.try_get_by_index(9)?,
        revoke_reason: row.try_get_by_index(10)?,
    };
    Ok(row.into())
}

/// Revokes the user's tokens that are not revoked yet.
fn revocation(user: &UserId, at: DateTime<Utc>, reason: RevokeReason) -> UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::RevokedAt, Expr::value(at))
        .col_expr(Column::RevokeReason, Expr::value(reason_text(reason)))
        .filter(Column::UserId.eq(user.as_str()))
        .filter(Column::RevokedAt.is_null())
}

/// Served by one range of the index `tokens_page`, however many revoked tokens the user has.
fn page_query(user: &UserId, before: Option<Uuid>, limit: u64) -> Select<Entity> {
    let mut query =
        Entity::find().filter(Column::UserId.eq(user.as_str())).filter(Column::RevokedAt.is_null());
    if let Some(before) = before {
        query = query.filter(Column::Id.lt(before));
    }
    query.order_by_desc(Column::Id).limit(limit)
}

pub(super) fn reason_text(reason: RevokeReason) -> &'static str {
    match reason {
        RevokeReason::Deleted => "deleted",
        RevokeReason::UserDeleted => "user_deleted",
    }
}

impl From<Model> for Token {
    fn from(row: Model) -> Self {
        Self {
            id: row.id,
            user_id: UserId::from_stored(row.user_id),
            name: TokenName::from_stored(row.name),
            scopes: Scopes::from_stored(&row.scopes),
            created_at: row.created_at,
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
        }
    }
}

impl From<Model> for StoredToken {
    fn from(mut row: Model) -> Self {
        let tag = row.tag_key_id.take().zip(row.tag.take());
        let life = match (row.revoked_at, row.revoke_reason.as_deref()) {
            (None, _) => Life::Live,
            (Some(_), Some("user_deleted")) => Life::Revoked(RevokeReason::UserDeleted),
            // A reason that a later version knows is a revocation all the same.
            (Some(_), _) => Life::Revoked(RevokeReason::Deleted),
        };
        Self {
            hash: SecretHash::from_stored(std::mem::take(&mut row.secret_hash)),
            tag: tag.map(|(key_id, mac)| Tag { key_id: KeyId::from_stored(key_id), mac }),
            life,
            token: row.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sea_orm::{DbBackend, QueryTrait as _};

    use super::*;
    use crate::store::PoolLimits;

    #[tokio::test]
    async fn a_page_is_read_from_its_index_alone_and_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("test.db").display()).parse().unwrap();
        let limits = PoolLimits { connections: 1, timeout: Duration::from_secs(5) };
        let store = Store::connect(&url, limits).await.unwrap();
        store.migrate().await.unwrap();
        for before in [None, Some(Uuid::now_v7())] {
            let mut statement = page_query(&"alice".parse().unwrap(), before, 50).build(DbBackend::Sqlite);
            statement.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
            let rows = store.reads.query_all_raw(statement).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
            // One step: no sorting after it.
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].starts_with("SEARCH tokens USING INDEX tokens_page (user_id=?"), "{plan:?}");
        }
    }
}
