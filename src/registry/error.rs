//! Why the registry did not do what was asked.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    caller::NotAllowed, credentials::HashError, store::StoreError, token::ExpiryError,
    validation::LookupError,
};

/// Why the registry did not do what was asked. Nothing is half done; with a failure of the database it may be done.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// A token of the user that is not revoked has the name.
    #[error("the user has a token of this name")]
    NameTaken,
    /// The user has as many live tokens as are allowed.
    #[error("the user has {limit} live tokens, as many as are allowed")]
    TooManyTokens {
        /// How many are allowed.
        limit: u64,
    },
    /// The user keeps as many expired tokens as are allowed.
    #[error(
        "the user has {limit} tokens, expired ones included, as many as are allowed; delete some that expired"
    )]
    TooManyExpired {
        /// How many are allowed, live and expired ones together.
        limit: u64,
    },
    /// The expiry of a new token has passed.
    #[error(transparent)]
    Expiry(#[from] ExpiryError),
    /// Another request had the same request id.
    #[error(
        "is that of a request with another name, scopes or expire_time; choose a new UUID for each new request"
    )]
    RequestIdReused,
    /// The same request issued a token that was used, was revoked or has expired since.
    #[error(
        "the same request issued the token {token_id}, which was used or deleted or has expired; \
         for another token send another request_id"
    )]
    RequestDone {
        /// The token.
        token_id: Uuid,
    },
    /// The account was deleted, for good.
    #[error("the user's account was deleted")]
    UserDeleted,
    /// The user has no such token that is not revoked.
    #[error("the user has no such token")]
    NotFound,
    /// As many secrets as may be are being looked up.
    #[error("too many secrets are being looked up")]
    Busy,
    /// A secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness")]
    Randomness,
    /// The caller may not do this.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The caller, or the user, creates tokens faster than is allowed.
    #[error("more tokens are created for this user or by this caller than are allowed in a minute")]
    TooFast {
        /// How long to wait before the next attempt.
        wait: Duration,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LookupError> for RegistryError {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Busy => Self::Busy,
            LookupError::Store(error) => Self::Store(error),
            LookupError::Hash(error) => Self::Hash(error),
        }
    }
}
