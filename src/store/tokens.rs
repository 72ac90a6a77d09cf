//! The rows of tokens: listing, issuing, replacing secrets, revoking.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait as _, ConnectionTrait as _, DbBackend, DbErr, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QueryResult, QuerySelect as _, QueryTrait as _, Select, Statement,
    sea_query::{Expr, SimpleExpr},
};
use uuid::Uuid;

use super::{
    Store, StoreError, WriteTransaction,
    entity::{
        tokens::{ActiveModel, Column, Entity, Model},
        users,
    },
    transaction::without_waiting,
};
use crate::credentials::{SecretHash, Tag};
use crate::token::{Scopes, Token, TokenName, UserId};

/// What may be in the way of a new token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacles {
    /// The account was deleted.
    pub account_deleted: bool,
    /// A token that is not revoked has the name; one that has expired counts.
    pub name_taken: bool,
    /// How many of the user's tokens are neither revoked nor expired.
    pub live: u64,
    /// How many are not revoked, expired ones included.
    pub kept: u64,
}

/// A token to be stored.
#[derive(Debug)]
pub struct NewTokenRow<'a> {
    /// What may be shown.
    pub token: &'a Token,
    /// The argon2id hash of its secret.
    pub hash: SecretHash,
    /// The keyed tag of its secret.
    pub tag: Option<Tag>,
}

impl Store {
    /// At most `limit` of the user's tokens that are not revoked, newest first, from below the id `before` on; none when
    /// the account was deleted.
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

    /// What is in the way of a new token of this name at `now`. Counts `most` tokens at most, so that the cost has a
    /// bound.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn obstacles(
        &self,
        user: &UserId,
        name: &TokenName,
        now: DateTime<Utc>,
        most: u64,
    ) -> Result<Obstacles, StoreError> {
        let query = obstacles_query(self.reads.get_database_backend(), user, name, now, most);
        found_obstacles(self.bounded(self.reads.query_one_raw(query)).await?)
    }

    /// Gives the token a new tag of the secret whose hash is `hash`. Does nothing if the token has another secret by now,
    /// which the tag would make useless.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn retag_token(&self, id: Uuid, hash: &SecretHash, tag: Tag) -> Result<(), StoreError> {
        let update = Entity::update_many()
            .col_expr(Column::TagKeyId, Expr::value(tag.key_id.as_str()))
            .col_expr(Column::Tag, Expr::value(tag.mac))
            .filter(Column::Id.eq(id))
            .filter(Column::SecretHash.eq(hash.as_str()))
            .filter(Expr::cust(without_waiting(self.writes.get_database_backend())));
        self.bounded(update.exec(&self.writes)).await?;
        Ok(())
    }

    /// Writes when at most [`Store::MAX_LAST_USES`] tokens were last used; never moves a time back.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; it may have been written all the same.
    pub async fn write_last_uses(&self, uses: &[(Uuid, DateTime<Utc>)]) -> Result<(), StoreError> {
        let parameters: Vec<String> =
            (0..uses.len()).map(|n| format!("(${}, ${})", 2 * n + 1, 2 * n + 2)).collect();
        // Both databases name the columns of VALUES so.
        let backend = self.writes.get_database_backend();
        let sql = format!(
            "UPDATE tokens SET last_used_at = used.column2 FROM (VALUES {}) AS used \
             WHERE tokens.id = used.column1 \
             AND (tokens.last_used_at IS NULL OR tokens.last_used_at < used.column2) AND {}",
            parameters.join(", "),
            without_waiting(backend)
        );
        let values = uses.iter().flat_map(|(id, at)| [(*id).into(), (*at).into()]);
        let update = Statement::from_sql_and_values(backend, sql, values);
        self.bounded(self.writes.execute_raw(update)).await?;
        Ok(())
    }

    /// Well below the number of parameters that a statement may have.
    pub const MAX_LAST_USES: usize = 1_000;
}

impl WriteTransaction {
    /// As [`Store::obstacles`], under the lock of this transaction.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn obstacles(
        &self,
        user: &UserId,
        name: &TokenName,
        now: DateTime<Utc>,
        most: u64,
    ) -> Result<Obstacles, StoreError> {
        let query = obstacles_query(self.inner.get_database_backend(), user, name, now, most);
        found_obstacles(self.run(self.inner.query_one_raw(query)).await?)
    }

    /// Stores a token.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn insert_token(&self, new: NewTokenRow<'_>) -> Result<(), StoreError> {
        let (tag_key_id, tag) = columns(new.tag);
        let row = ActiveModel {
            id: Set(new.token.id),
            user_id: Set(new.token.user_id.as_str().to_owned()),
            name: Set(new.token.name.as_str().to_owned()),
            secret_hash: Set(new.hash.as_str().to_owned()),
            tag_key_id: Set(tag_key_id),
            tag: Set(tag),
            scopes: Set(new.token.scopes.to_text()),
            created_at: Set(new.token.created_at),
            expires_at: Set(new.token.expires_at),
            last_used_at: Set(None),
            revoked_at: Set(None),
            revoke_reason: Set(None),
        };
        self.run(Entity::insert(row).exec_without_returning(&self.inner)).await?;
        Ok(())
    }

    /// Gives the token another secret and returns whether it did: a token that was used or revoked keeps its own.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn replace_secret(
        &self,
        id: Uuid,
        hash: &SecretHash,
        tag: Option<Tag>,
    ) -> Result<bool, StoreError> {
        let (tag_key_id, tag) = columns(tag);
        let update = Entity::update_many()
            .col_expr(Column::SecretHash, Expr::value(hash.as_str()))
            .col_expr(Column::TagKeyId, Expr::value(tag_key_id))
            .col_expr(Column::Tag, Expr::value(tag))
            .filter(Column::Id.eq(id))
            .filter(Column::LastUsedAt.is_null())
            .filter(Column::RevokedAt.is_null());
        Ok(self.run(update.exec(&self.inner)).await?.rows_affected == 1)
    }

    /// Revokes one token of the user and returns whether there was one to revoke; a deleted account has none.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn revoke_token(&self, user: &UserId, id: Uuid, at: DateTime<Utc>) -> Result<bool, StoreError> {
        let update = Entity::update_many()
            .col_expr(Column::RevokedAt, Expr::value(at))
            .col_expr(Column::RevokeReason, Expr::value(DELETED))
            .filter(Column::Id.eq(id))
            .filter(Column::UserId.eq(user.as_str()))
            .filter(Column::RevokedAt.is_null())
            .filter(account_exists(user));
        Ok(self.run(update.exec(&self.inner)).await?.rows_affected == 1)
    }
}

/// The columns `tag_key_id` and `tag`.
fn columns(tag: Option<Tag>) -> (Option<String>, Option<Vec<u8>>) {
    tag.map(|tag| (tag.key_id.as_str().to_owned(), tag.mac)).unzip()
}

/// The stored reason of a token that its user deleted.
const DELETED: &str = "deleted";

fn obstacles_query(
    backend: DbBackend,
    user: &UserId,
    name: &TokenName,
    now: DateTime<Utc>,
    most: u64,
) -> Statement {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM users WHERE user_id = $1 AND deleted_at IS NOT NULL), \
         EXISTS (SELECT 1 FROM tokens WHERE user_id = $1 AND name = $2 AND revoked_at IS NULL), \
         count(*), count(*) FILTER (WHERE expires_at IS NULL OR expires_at > $3) FROM \
         (SELECT expires_at FROM tokens WHERE user_id = $1 AND revoked_at IS NULL LIMIT {most}) AS kept"
    );
    Statement::from_sql_and_values(backend, sql, [user.as_str().into(), name.as_str().into(), now.into()])
}

fn found_obstacles(row: Option<QueryResult>) -> Result<Obstacles, StoreError> {
    let row = row.ok_or_else(|| DbErr::RecordNotFound("a count".to_owned()))?;
    let count = |index| Ok::<_, DbErr>(row.try_get_by_index::<i64>(index)?.unsigned_abs());
    Ok(Obstacles {
        account_deleted: row.try_get_by_index(0)?,
        name_taken: row.try_get_by_index(1)?,
        kept: count(2)?,
        live: count(3)?,
    })
}

/// Served by one range of the index `tokens_page`, however many revoked tokens the user has.
fn page_query(user: &UserId, before: Option<Uuid>, limit: u64) -> Select<Entity> {
    let mut query = Entity::find()
        .filter(Column::UserId.eq(user.as_str()))
        .filter(Column::RevokedAt.is_null())
        .filter(account_exists(user));
    if let Some(before) = before {
        query = query.filter(Column::Id.lt(before));
    }
    query.order_by_desc(Column::Id).limit(limit)
}

/// That the user's account was not deleted.
fn account_exists(user: &UserId) -> SimpleExpr {
    let account = users::Entity::find()
        .select_only()
        .column(users::Column::UserId)
        .filter(users::Column::UserId.eq(user.as_str()))
        .filter(users::Column::DeletedAt.is_null());
    Expr::exists(account.into_query())
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
        let store = Store::open(&url, limits).await.unwrap();
        store.prepare().await.unwrap();
        for before in [None, Some(Uuid::now_v7())] {
            let mut statement = page_query(&"alice".parse().unwrap(), before, 50).build(DbBackend::Sqlite);
            statement.sql.insert_str(0, "EXPLAIN QUERY PLAN ");
            let rows = store.reads.query_all_raw(statement).await.unwrap();
            let plan: Vec<String> = rows.iter().map(|row| row.try_get("", "detail").unwrap()).collect();
            // The account's row by its key, and one range of the index: no sorting after it.
            let steps = |text: &str| plan.iter().filter(|step| step.starts_with(text)).count();
            assert_eq!(steps("SEARCH tokens USING INDEX tokens_page (user_id=?"), 1, "{plan:?}");
            assert_eq!(steps("SEARCH"), 2, "{plan:?}");
            assert_eq!(steps("SCAN") + steps("USE TEMP B-TREE"), 0, "{plan:?}");
        }
    }
}
