//! Tokens and their parts: pure types that parse and check. No I/O, no async, no storage.

mod base62;
mod bearer_token;
mod characters;
mod digest;
mod expiry;
mod hyphenated;
mod name;
mod page_size;
mod request_id;
mod scopes;
mod user_id;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub(crate) use self::hyphenated::parse_hyphenated;
pub use self::{
    bearer_token::{BearerToken, ParseError, Prefix, PrefixError},
    characters::Invisible,
    digest::Digest,
    expiry::{Expiry, ExpiryError},
    name::{NameError, TokenName},
    page_size::{PageSize, PageSizeError},
    request_id::{RequestId, RequestIdError},
    scopes::{Scope, ScopeError, Scopes, ScopesError},
    user_id::{UserId, UserIdError},
};

/// Everything about a token that may be shown at any time: all but the secret.
#[allow(missing_docs)]
#[derive(Clone, Debug)]
pub struct Token {
    /// UUIDv7 (RFC 9562); newer tokens have greater ids.
    pub id: Uuid,
    pub user_id: UserId,
    /// Unique among the user's tokens that are not revoked.
    pub name: TokenName,
    pub scopes: Scopes,
    pub created_at: DateTime<Utc>,
    /// The token is invalid at this time and later. `None`: it does not expire.
    pub expires_at: Option<DateTime<Utc>>,
    /// When the token was last found valid. Stored with a delay.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Token {
    /// Returns whether the token has expired at `now`.
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Returns the bytes on the heap, in addition to `size_of::<Token>()`.
    pub(crate) fn heap_bytes(&self) -> usize {
        let texts = self.user_id.as_str().len() + self.name.as_str().len();
        texts + self.scopes.iter().map(|scope| scope.len() + size_of::<Scope>()).sum::<usize>()
    }

    /// Returns what a person recognises the token by: the prefix and both ends of the id, and no part of the secret.
    pub fn hint(&self, prefix: &Prefix) -> String {
        let [first, last] = base62::ends(self.id);
        let mut hint = String::with_capacity(prefix.as_str().len() + "_1234...1234".len());
        hint.push_str(prefix.as_str());
        hint.push('_');
        hint.extend(first);
        hint.push_str("...");
        hint.extend(last);
        hint
    }
}
