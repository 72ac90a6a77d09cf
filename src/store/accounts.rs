//! The account's row: the lock under which tokens are issued, and the tombstone of a deleted account.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait as _, EntityTrait as _, QueryFilter as _,
    sea_query::{Expr, OnConflict},
};

use super::{
    StoreError, WriteTransaction,
    entity::users::{ActiveModel, Column, Entity},
};
use crate::token::UserId;

impl WriteTransaction {
    /// Locks the account's row until the transaction ends, making it first where there is none, and returns when the
    /// account was deleted.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn lock_account(&self, user: &UserId) -> Result<Option<DateTime<Utc>>, StoreError> {
        let row = ActiveModel { user_id: Set(user.as_str().to_owned()), deleted_at: NotSet };
        // The update changes nothing; it is what locks a row that exists, on both databases. Not of the key: SQLite would
        // look for the tokens that refer to the old one, and read the whole table.
        let unchanged = Expr::col((Entity, Column::DeletedAt));
        let insert = Entity::insert(row)
            .on_conflict(OnConflict::column(Column::UserId).value(Column::DeletedAt, unchanged).to_owned());
        let row = self.run(insert.exec_with_returning(&self.inner)).await?;
        Ok(row.deleted_at)
    }

    /// Marks the account as deleted at `at`: from the commit on none of its tokens is good, however many there are.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn mark_account_deleted(&self, user: &UserId, at: DateTime<Utc>) -> Result<(), StoreError> {
        let update = Entity::update_many()
            .col_expr(Column::DeletedAt, Expr::value(at))
            .filter(Column::UserId.eq(user.as_str()));
        self.run(update.exec(&self.inner)).await?;
        Ok(())
    }
}
