//! Issuing a token.

use secrecy::SecretString;

use super::{RegistryError, TokenRegistry, token_registry::by_user};
use crate::{
    clock::Clock,
    credentials::{SecretHash, Tag},
    store::{CommitGate, EventKind, NewTokenRow, Obstacles, Store},
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
        let limits = TokenLimits { max_live: self.max_live_tokens };
        // Before argon2, which costs far more than all the rest: what would be refused anyway is refused at once.
        let obstacles =
            self.store.obstacles(&new.user_id, &new.name, self.clock.now(), limits.max_kept()).await?;
        limits.check(obstacles)?;
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
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let token = self.store.write(|gate| insert(store, gate, clock, token, credentials, limits)).await?;
        Ok(Issued { secret: bearer.reveal(&self.prefix), token })
    }
}

/// How many tokens a user may have.
#[derive(Clone, Copy, Debug)]
struct TokenLimits {
    max_live: u64,
}

impl TokenLimits {
    /// How many live and expired tokens a user may have together.
    fn max_kept(self) -> u64 {
        self.max_live + MAX_EXPIRED_TOKENS
    }

    /// Whether a token may be issued; the first reason against it, in this order.
    fn check(self, found: Obstacles) -> Result<(), RegistryError> {
        if found.account_deleted {
            Err(RegistryError::UserDeleted)
        } else if found.name_taken {
            Err(RegistryError::NameTaken)
        } else if found.live >= self.max_live {
            Err(RegistryError::TooManyTokens { limit: self.max_live })
        } else if found.kept >= self.max_kept() {
            Err(RegistryError::TooManyExpired { limit: self.max_kept() })
        } else {
            Ok(())
        }
    }
}

/// Stores a token, if the rules allow it.
async fn insert(
    store: Store,
    gate: CommitGate,
    clock: Clock,
    mut token: Token,
    (hash, tag): (SecretHash, Option<Tag>),
    limits: TokenLimits,
) -> Result<Token, RegistryError> {
    let transaction = store.begin().await?;
    transaction.lock_account(&token.user_id).await?;
    token.created_at = clock.now();
    // Again, since only now nothing can change it any more.
    let obstacles =
        transaction.obstacles(&token.user_id, &token.name, token.created_at, limits.max_kept()).await?;
    limits.check(obstacles)?;
    transaction.insert_token(NewTokenRow { token: &token, hash, tag }).await?;
    let event = by_user(EventKind::TokenIssued, &token.user_id, token.id, token.created_at);
    transaction.record(event).await?;
    let (user_id, token_id) = (token.user_id.as_str(), token.id);
    match transaction.commit(&gate).await {
        Ok(()) => tracing::info!(user_id, %token_id, "token issued"),
        Err(error) => {
            tracing::warn!(user_id, %token_id, %error, "not known whether the token is issued");
            return Err(error.into());
        }
    }
    Ok(token)
}
