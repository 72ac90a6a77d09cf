//! From a secret to the token that it proves.

mod last_used;

pub use self::last_used::LastUsed;
use crate::{
    store::{Store, StoreError, StoredToken},
    token::{HashError, Proof, Prover, Secret},
};

/// Why it cannot be known whose a secret is.
#[derive(Debug, thiserror::Error)]
pub enum Unknowable {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// The token that `secret` is of, whatever became of it; `None` when there is none. A token that was proven by an old
/// key, or by argon2id for want of a key, is tagged anew, so that the next time is quick.
///
/// # Errors
///
/// See [`Unknowable`].
pub async fn authenticate(
    store: &Store,
    prover: &Prover,
    secret: &Secret,
) -> Result<Option<StoredToken>, Unknowable> {
    let Some(stored) = store.find_token(secret.id()).await? else {
        return Ok(None);
    };
    match prover.check(secret, &stored.hash, stored.tag.as_ref()).await? {
        Proof::Wrong => return Ok(None),
        Proof::Right => {}
        Proof::RightWithNewTag(tag) => {
            // The verdict does not hang on it; the next validation tries again.
            if let Err(fault) = store.retag_token(secret.id(), tag).await {
                tracing::warn!(token_id = %secret.id(), %fault, "a token was not tagged anew");
            }
        }
    }
    Ok(Some(stored))
}
