//! Finding the token of a bearer token, with the state of its account.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use sea_orm::{DbBackend, DbErr, QueryResult, RuntimeErr};
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Store, StoreError, entity::tokens::Model, epoch::PRESENT};
use crate::{
    credentials::{KeyId, SecretHash, Tag},
    token::Token,
};

/// A token as it is at rest.
#[derive(Clone, Debug)]
pub struct StoredToken {
    /// What may be shown.
    pub token: Token,
    /// The argon2id hash of its secret.
    pub hash: SecretHash,
    /// The keyed tag of its secret.
    pub tag: Option<Tag>,
    /// Whether the token or its account was revoked.
    pub state: TokenState,
}

/// Whether the token or its account was revoked; permanent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// It was not.
    Live,
    /// The token was revoked.
    Revoked,
    /// The account of its user was deleted.
    AccountDeleted,
}

/// How many of the connections for lookups one kind of lookup may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All of them.
    All,
    /// Half of them, and at least one. The others stay free for lookups with [`Share::All`].
    Half,
}

/// Token and account in one query by primary keys. Written out, and read by index: every validation that memory does not
/// answer waits for it (docs/performance.md). There is no LIMIT: SQLite compiles a statement anew each time that a
/// parameter of its LIMIT is bound.
const FIND: &str = "SELECT tokens.user_id, name, secret_hash, tag_key_id, tag, scopes, created_at, expires_at, \
                    last_used_at, revoked_at, revoke_reason, users.deleted_at \
                    FROM tokens JOIN users ON users.user_id = tokens.user_id WHERE tokens.id = $1";

/// The same on PostgreSQL, with the server's epoch, also without a row: a standby, or a primary that another one has
/// replaced, may be out of date, and "there is no such token" too.
static FIND_ON_PRIMARY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "SELECT tokens.user_id, name, secret_hash, tag_key_id, tag, scopes, created_at, expires_at, \
         last_used_at, revoked_at, revoke_reason, users.deleted_at, server.epoch \
         FROM (SELECT {PRESENT} AS epoch) AS server \
         LEFT JOIN tokens ON tokens.id = $1 LEFT JOIN users ON users.user_id = tokens.user_id"
    )
});

/// The index of that column.
const EPOCH_COLUMN: usize = 12;

impl Store {
    /// The token with this id, revoked or not. `epoch` is the one of the caller's lease. Waits for a connection of `share`.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; of a server of another epoch [`StoreError::EpochChanged`].
    pub async fn find_token(
        &self,
        id: Uuid,
        epoch: Option<Uuid>,
        share: Share,
    ) -> Result<Option<StoredToken>, StoreError> {
        let Some(row) = self.bounded(self.query_token(id, share)).await? else { return Ok(None) };
        if self.lookups.backend() == DbBackend::Postgres {
            let server: Option<Uuid> = row.try_get_by_index(EPOCH_COLUMN)?;
            if server.is_none() || server != epoch {
                return Err(StoreError::EpochChanged);
            }
            if row.try_get_by_index::<Option<String>>(0)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(found(id, &row)?))
    }

    async fn query_token(&self, id: Uuid, share: Share) -> Result<Option<QueryResult>, DbErr> {
        let _permit = match share {
            Share::All => None,
            // The semaphore is never closed.
            Share::Half => self.half_of_lookups.acquire().await.ok(),
        };
        let (sql, system) = match self.lookups.backend() {
            DbBackend::Sqlite => (FIND, "sqlite"),
            _ => (FIND_ON_PRIMARY.as_str(), "postgresql"),
        };
        let span = tracing::info_span!(
            "find_token",
            otel.kind = "client",
            db.system = system,
            db.operation = "SELECT",
            db.statement = sql
        );
        let row = self.lookups.find(sql, id).instrument(span).await;
        row.map_err(|error| DbErr::Query(RuntimeErr::SqlxError(error.into())))
    }
}

/// What [`FIND`] found, in its order.
fn found(id: Uuid, row: &QueryResult) -> Result<StoredToken, DbErr> {
    let model = Model {
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
    let deleted_at: Option<DateTime<Utc>> = row.try_get_by_index(11)?;
    Ok(stored(model, deleted_at.is_some()))
}

fn stored(mut row: Model, account_deleted: bool) -> StoredToken {
    let tag = row.tag_key_id.take().zip(row.tag.take());
    let state = match row.revoked_at {
        Some(_) => TokenState::Revoked,
        None if account_deleted => TokenState::AccountDeleted,
        None => TokenState::Live,
    };
    StoredToken {
        hash: SecretHash::from_stored(std::mem::take(&mut row.secret_hash)),
        tag: tag.map(|(key_id, mac)| Tag { key_id: KeyId::from_stored(key_id), mac }),
        state,
        token: row.into(),
    }
}
