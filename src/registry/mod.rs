//! The rules: who may have which tokens, and when a token is good. Every rule stands here once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::Uuid;

use crate::{
    credentials::{HashError, SecretHash, SecretVerifier, Tag},
    store::{Event, EventKind, Eviction, NewTokenRow, Store, StoreError, TokenState},
    token::{self, BearerToken, Expiry, Prefix, Scopes, Token, TokenName, UserId},
    validation::{
        Authenticated, Authenticator, CacheStatistics, LastUsed, LookupError, RevocationTail,
        ValidationLimits,
    },
};

/// Issues, lists, revokes and validates tokens.
#[derive(Debug)]
pub struct TokenRegistry {
    store: Store,
    verifier: Arc<SecretVerifier>,
    authenticator: Arc<Authenticator>,
    prefix: Prefix,
    max_live_tokens: u64,
    last_used: LastUsed,
    /// By outcome: good, then not good for each reason.
    validations: [AtomicU64; 7],
}

/// What a token to be issued shall be.
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

/// A token just issued, with its secret, this once.
#[derive(Debug)]
pub struct Issued {
    /// The token.
    pub token: Token,
    /// The bearer token.
    pub secret: SecretString,
}

/// Part of a user's tokens, newest first.
#[derive(Debug)]
pub struct Page {
    /// The tokens of this page.
    pub tokens: Vec<Token>,
    /// Where the next page begins: below this id. `None` on the last page.
    pub next: Option<Uuid>,
}

/// Whether a secret is good.
#[derive(Debug)]
pub enum Verdict {
    /// It is: act as the token's user.
    Valid(Arc<Token>),
    /// It is not.
    Invalid(Reason),
}

/// Why a secret is not good; the first that applies, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Not of a token's form.
    Malformed,
    /// No such token, or not its secret.
    Unknown,
    /// The token was deleted.
    Revoked,
    /// The token's time has passed.
    Expired,
    /// The account of the token's user was deleted.
    UserDeleted,
    /// The token lacks a required scope.
    MissingScope,
}

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
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<LookupError> for RegistryError {
    fn from(fault: LookupError) -> Self {
        match fault {
            LookupError::Busy => Self::Busy,
            LookupError::Store(fault) => Self::Store(fault),
            LookupError::Hash(fault) => Self::Hash(fault),
        }
    }
}

impl TokenRegistry {
    /// A registry over `store` that lets each user have `max_live_tokens`.
    pub fn new(
        store: Store,
        verifier: SecretVerifier,
        prefix: Prefix,
        max_live_tokens: u64,
        limits: ValidationLimits,
    ) -> Self {
        let verifier = Arc::new(verifier);
        let authenticator = Arc::new(Authenticator::new(store.clone(), Arc::clone(&verifier), limits));
        Self {
            store,
            verifier,
            authenticator,
            prefix,
            max_live_tokens,
            last_used: LastUsed::default(),
            validations: Default::default(),
        }
    }

    /// What the tokens begin with.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// How often argon2 has run since the start.
    pub fn argon2_runs(&self) -> u64 {
        self.verifier.argon2_runs()
    }

    /// How many secrets wait for argon2 now.
    pub fn argon2_waiting(&self) -> usize {
        self.verifier.argon2_waiting()
    }

    /// How many secrets were found good since the start, or not good for `reason`.
    pub fn validations(&self, reason: Option<Reason>) -> u64 {
        self.validations[outcome_index(reason)].load(Ordering::Relaxed)
    }

    /// What the memory of proven tokens has done since the start.
    pub fn cache_statistics(&self) -> CacheStatistics {
        self.authenticator.statistics()
    }

    /// Issues a token.
    ///
    /// # Errors
    ///
    /// [`RegistryError::UserDeleted`], [`RegistryError::NameTaken`], [`RegistryError::TooManyTokens`], or a failure.
    pub async fn issue(&self, new: NewToken) -> Result<Issued, RegistryError> {
        let secret = BearerToken::generate().map_err(|_| RegistryError::Randomness)?;
        // Before the lock is taken: a hash takes longer than all the rest.
        let proofs = self.verifier.make(&secret).await?;
        let token = Token {
            id: secret.id(),
            user_id: new.user_id,
            name: new.name,
            scopes: new.scopes,
            created_at: token::now(),
            expires_at: new.expiry.map(Expiry::at),
            last_used_at: None,
        };
        let insert = insert(self.store.clone(), token, proofs, self.max_live_tokens);
        let token = self.store.run_to_completion(insert).await?;
        Ok(Issued { secret: secret.reveal(&self.prefix), token })
    }

    /// Lists at most `size` of the user's tokens that are not revoked, from below the id `before` on.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn list(&self, user: &UserId, before: Option<Uuid>, size: u32) -> Result<Page, RegistryError> {
        // One more than new tells whether there is a next page.
        let mut tokens = self.store.page_tokens(user, before, u64::from(size) + 1).await?;
        let more = tokens.len() > size as usize;
        tokens.truncate(size as usize);
        let next = tokens.last().filter(|_| more).map(|token| token.id);
        Ok(Page { tokens, next })
    }

    /// Revokes one token of the user.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotFound`] when the user has no such token or it is revoked already, or a failure.
    pub async fn revoke(&self, user: &UserId, id: Uuid) -> Result<(), RegistryError> {
        let (store, authenticator, user) =
            (self.store.clone(), Arc::clone(&self.authenticator), user.clone());
        let revoke = async move {
            let now = token::now();
            let transaction = store.begin().await?;
            if !transaction.revoke_token(&user, id, now).await? {
                return Err(RegistryError::NotFound);
            }
            transaction.record(by_user(EventKind::TokenRevoked, &user, id, now)).await?;
            let committed = transaction.commit().await;
            // Also when it is not known whether it was committed.
            authenticator.evict(&Eviction::Token(id));
            let (user_id, token_id) = (user.as_str(), id);
            match committed {
                Ok(()) => tracing::info!(user_id, %token_id, "token revoked"),
                Err(ref fault) => {
                    tracing::warn!(user_id, %token_id, %fault, "not known whether the token is revoked");
                }
            }
            Ok(committed?)
        };
        self.store.run_to_completion(revoke).await
    }

    /// Revokes every token of a user whose account was deleted, at `deleted_at` if that is known, and lets none be
    /// issued again. Doing it twice changes nothing. `actor` and `event_id` go into the log of events.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn revoke_user(
        &self,
        user: &UserId,
        deleted_at: Option<DateTime<Utc>>,
        actor: &str,
        event_id: &str,
    ) -> Result<(), RegistryError> {
        let (store, authenticator) = (self.store.clone(), Arc::clone(&self.authenticator));
        let (user, actor, event_id) = (user.clone(), actor.to_owned(), event_id.to_owned());
        let delete = async move {
            let transaction = store.begin().await?;
            if transaction.lock_account(&user).await?.is_some() {
                return Ok(());
            }
            let now = token::now();
            transaction.mark_account_deleted(&user, deleted_at.map_or(now, |at| now.min(at))).await?;
            let kind = EventKind::UserDeleted;
            let (actor, event_id) = (actor.as_str(), event_id.as_str());
            let event =
                Event { at: now, kind, token_id: None, user_id: &user, actor, reason: Some(event_id) };
            transaction.record(event).await?;
            let committed = transaction.commit().await;
            // Also when it is not known whether it was committed.
            authenticator.evict(&Eviction::Account(user.clone()));
            let user_id = user.as_str();
            match committed {
                Ok(()) => tracing::info!(user_id, actor, event_id, "user deleted"),
                Err(ref fault) => {
                    tracing::warn!(user_id, event_id, %fault, "not known whether the user is deleted");
                }
            }
            Ok(committed?)
        };
        self.store.run_to_completion(delete).await
    }

    /// Tells whether `secret` is good for the scopes `required`, now.
    ///
    /// # Errors
    ///
    /// It cannot be known: a failure.
    pub async fn validate(&self, secret: &[u8], required: &Scopes) -> Result<Verdict, RegistryError> {
        let verdict = self.verdict(secret, required).await?;
        let reason = match &verdict {
            Verdict::Valid(_) => None,
            Verdict::Invalid(reason) => Some(*reason),
        };
        self.validations[outcome_index(reason)].fetch_add(1, Ordering::Relaxed);
        Ok(verdict)
    }

    async fn verdict(&self, secret: &[u8], required: &Scopes) -> Result<Verdict, RegistryError> {
        let Ok(secret) = BearerToken::parse(&self.prefix, secret) else {
            return Ok(Verdict::Invalid(Reason::Malformed));
        };
        let Some(found) = self.authenticator.authenticate(&secret).await? else {
            return Ok(Verdict::Invalid(Reason::Unknown));
        };
        let now = token::now();
        if let Err(reason) = judge(&found, required, now) {
            return Ok(Verdict::Invalid(reason));
        }
        self.last_used.note(found.token.id, now);
        Ok(Verdict::Valid(found.token))
    }

    /// What makes this replica see what others revoke.
    pub fn revocation_tail(&self) -> RevocationTail {
        self.authenticator.revocation_tail()
    }

    /// Writes down when tokens were last used.
    ///
    /// # Errors
    ///
    /// A failure of the database; what was to be written is kept for the next time.
    pub async fn flush_last_used(&self) -> Result<(), RegistryError> {
        Ok(self.last_used.flush(&self.store).await?)
    }
}

/// How many expired tokens a user may keep beside the live ones, so that what CreateToken counts has a bound.
const MAX_EXPIRED_TOKENS: u64 = 1_000;

/// Stores a token, if the rules allow it.
async fn insert(
    store: Store,
    mut token: Token,
    (hash, tag): (SecretHash, Option<Tag>),
    max_live: u64,
) -> Result<Token, RegistryError> {
    let transaction = store.begin().await?;
    if transaction.lock_account(&token.user_id).await?.is_some() {
        return Err(RegistryError::UserDeleted);
    }
    token.created_at = token::now();
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
        Err(fault) => {
            tracing::warn!(user_id, %token_id, %fault, "not known whether the token is issued");
            return Err(fault.into());
        }
    }
    Ok(token)
}

/// Where validations with this outcome are counted.
fn outcome_index(reason: Option<Reason>) -> usize {
    reason.map_or(0, |reason| 1 + reason as usize)
}

/// Whether a token whose secret was proven is good at `now`.
fn judge(found: &Authenticated, required: &Scopes, now: DateTime<Utc>) -> Result<(), Reason> {
    match found.life {
        TokenState::Revoked => Err(Reason::Revoked),
        TokenState::AccountDeleted => Err(Reason::UserDeleted),
        TokenState::Live if found.token.is_expired(now) => Err(Reason::Expired),
        TokenState::Live if !found.token.scopes.contains_all(required) => Err(Reason::MissingScope),
        TokenState::Live => Ok(()),
    }
}

/// Something that a user did to one of their tokens.
fn by_user(kind: EventKind, user: &UserId, token_id: Uuid, at: DateTime<Utc>) -> Event<'_> {
    Event { at, kind, token_id: Some(token_id), user_id: user, actor: user.as_str(), reason: None }
}
