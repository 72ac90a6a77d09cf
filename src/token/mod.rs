//! What a token is: pure types. No I/O, no runtime, no storage.

mod base62;
mod bearer_token;
mod characters;
mod digest;
mod expiry;
mod name;
mod page_size;
mod scopes;
mod user_id;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use self::{
    bearer_token::{BearerToken, ParseError, Prefix, PrefixError},
    characters::Invisible,
    digest::Digest,
    expiry::{Expiry, ExpiryError},
    name::{NameError, TokenName},
    page_size::{PageSize, PageSizeError},
    scopes::{Scope, ScopeError, Scopes},
    user_id::{UserId, UserIdError},
};

/// A token as it may be shown to its user at any time: everything but the secret.
#[derive(Clone, Debug)]
pub struct Token {
    /// UUIDv7 (RFC 9562); newer tokens have greater ids.
    pub id: Uuid,
    /// The user that the token acts as.
    pub user_id: UserId,
    /// Unique among the user's tokens that are not revoked.
    pub name: TokenName,
    /// What the token may be used for.
    pub scopes: Scopes,
    /// When it was issued.
    pub created_at: DateTime<Utc>,
    /// From when on it is invalid.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was last found valid.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Token {
    /// Whether the token's time has passed at `now`.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// What it takes in memory beside its own size, in bytes.
    pub(crate) fn heap_bytes(&self) -> usize {
        let texts = self.user_id.as_str().len() + self.name.as_str().len();
        texts + self.scopes.iter().map(|scope| scope.len() + size_of::<Scope>()).sum::<usize>()
    }

    /// What a person recognises the token by: the prefix and both ends of the id, nothing of the secret.
    pub fn hint(&self, prefix: &Prefix) -> String {
        let id = base62::encode_id(self.id);
        format!("{prefix}_{}...{}", &id[..4], &id[id.len() - 4..])
    }
}
