//! Issuing a token.

use secrecy::SecretString;

use super::{RegistryError, TokenRegistry, token_registry::by_user};
use crate::{
    clock::Clock,
    credentials::{SecretHash, Tag},
    store::{EventKind, NewTokenRow, Store},
    token::{BearerToken, Expiry, Scopes, Token, TokenName, UserId},
};

/// A token to be issued.
#[derive(Debug)]
pub struct NewToken {
    /// The user that it acts as.
    pub user_id: UserId,
    /// Its name.
    pub name: TokenName,
    /// What it may be used for.
    pub scopes: Scopes,
    /// When it expires, if it does.
    pub expiry: Option<Expiry>,
}

/// A token that was just issued, with its bearer token, this once.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: Token,
    /// The bearer token.
    pub secret: SecretString,
}

/// How many expired tokens a user may keep beside the live ones, so that what CreateToken counts has a bound.
const MAX_EXPIRED_TOKENS: u64 = 1_000;

impl TokenRegistry {
    /// Issues a token.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UserDeleted`], [`RegistryError::NameTaken`], [`RegistryError::TooManyTokens`],
    /// [`RegistryError::TooManyExpired`], or a failure.
    pub async fn issue(&self, new: NewToken) -> Result<Issued, RegistryError> {
        let bearer = BearerToken::generate().map_err(|_| RegistryError::Randomness)?;
        // Before the lock is taken: a hash takes longer than all the rest.
        let credentials = self.verifier.make(&bearer).await?;
        let token = Token {
            id: bearer.id(),
            user_id: new.user_id,
            name: new.name,
            scopes: new.scopes,
            created_at: self.clock.now(),
            expires_at: new.expiry.map(Expiry::at),
            last_used_at: None,
        };
        let insert = insert(self.store.clone(), self.clock.clone(), token, credentials, self.max_live_tokens);
        let token = self.store.run_to_completion(insert).await?;
        Ok(Issued { secret: bearer.reveal(&self.prefix), token })
    }
}

/// Stores a token, if the rules allow it.
async fn insert(
    store: Store,
    clock: Clock,
    mut token: Token,
    (hash, tag): (SecretHash, Option<Tag>),
    max_live: u64,
) -> Result<Token, RegistryError> {
    let transaction = store.begin().await?;
    if transaction.lock_account(&token.user_id).await?.is_some() {
        return Err(RegistryError::UserDeleted);
    }
    token.created_at = clock.now();
    if transaction.is_name_taken(&token.user_id, &token.name).await? {
        return Err(RegistryError::NameTaken);
    }
    let max_kept = max_live + MAX_EXPIRED_TOKENS;
    let counts = transaction.count_tokens(&token.user_id, token.created_at, max_kept).await?;
    if counts.live >= max_live {
        return Err(RegistryError::TooManyTokens { limit: max_live });
    }
    if counts.kept >= max_kept {
        return Err(RegistryError::TooManyExpired { limit: max_kept });
    }
    transaction.insert_token(NewTokenRow { token: &token, hash, tag }).await?;
    let event = by_user(EventKind::TokenIssued, &token.user_id, token.id, token.created_at);
    transaction.record(event).await?;
    let (user_id, token_id) = (token.user_id.as_str(), token.id);
    match transaction.commit().await {
        Ok(()) => tracing::info!(user_id, %token_id, "token issued"),
        Err(error) => {
            tracing::warn!(user_id, %token_id, %error, "not known whether the token is issued");
            return Err(error.into());
        }
    }
    Ok(token)
}
