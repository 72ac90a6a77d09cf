//! Issuing a token.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use uuid::Uuid;

use super::{RegistryError, TokenRegistry, repeat, token_registry::Origin};
use crate::{
    caller::Caller,
    clock::Clock,
    credentials::{SecretHash, Tag},
    store::{CommitGate, CreateRequest, EventKind, NewTokenRow, Obstacles, Server, Store, WriteTransaction},
    token::{Expiry, ExpiryError, RequestId, Scopes, Token, TokenName, UserId},
    validation::{Authenticator, LastUsed},
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
    /// The id of the request, if it may be repeated.
    pub request_id: Option<RequestId>,
    /// What happens if it is.
    pub on_repeat: OnRepeat,
}

/// What a repeated request gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRepeat {
    /// The same token with a fresh secret, as long as it was not used.
    ReplaceSecret,
    /// [`RegistryError::RequestDone`], and the token stays as it is: its secret was shown to a person.
    Refuse,
}

/// A token that was just issued, or given another secret, with its bearer token, this once.
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
    /// Issues a token. A request that is repeated with the same request id within an hour gets the same token with a fresh
    /// secret, and the earlier secret stops working.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotAllowed`], [`RegistryError::TooFast`],
    /// [`RegistryError::UserDeleted`], [`RegistryError::RequestIdReused`], [`RegistryError::RequestDone`],
    /// [`RegistryError::NameTaken`], [`RegistryError::TooManyTokens`], [`RegistryError::TooManyExpired`],
    /// [`RegistryError::Expiry`], or a failure.
    pub async fn issue(&self, caller: &Caller, new: NewToken) -> Result<Issued, RegistryError> {
        caller.check_user(&new.user_id)?;
        caller.check_scopes(&new.scopes)?;
        self.creation_rates.check(caller, &new.user_id)?;
        let issuance = Issuance {
            store: self.store.clone(),
            clock: self.clock.clone(),
            authenticator: Arc::clone(&self.authenticator),
            last_used: Arc::clone(&self.last_used),
            limits: TokenLimits { max_live: self.max_live_tokens },
            origin: Origin::of(caller),
            new,
        };
        self.authenticator.check_lease()?;
        issuance.precheck().await?;
        let bearer = self.verifier.generate().map_err(|_| RegistryError::Randomness)?;
        // Before the lock is taken: a hash takes longer than all the rest.
        let credentials = self.verifier.make(&bearer).await?;
        let id = bearer.id();
        let (token, server) = self.write(move |gate| issuance.run(gate, id, credentials)).await?;
        if token.id == id {
            // No replica says that there is no such token.
            self.authenticator.earlier_leases_are_over(server).await?;
        } else {
            // The earlier secret is dead on all replicas when the call returns, and the new one works on all.
            self.authenticator.all_have_seen(server.epoch).await?;
        }
        // A repeated request keeps the id of its token.
        let bearer = bearer.with_id(token.id);
        Ok(Issued { secret: bearer.reveal(&self.prefix), token })
    }

    /// Returns the time that the expiry in a request must be after. A request with a request id may be a repeated one, whose
    /// expiry may have passed since the first; [`TokenRegistry::issue`] refuses it in any other request.
    pub fn earliest_expiry(&self, request_id: Option<RequestId>) -> DateTime<Utc> {
        let now = self.clock.now();
        if request_id.is_some() { now - repeat::WINDOW } else { now }
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

/// A token that is being issued. Owns what it needs, because its transaction may outlive the caller.
#[derive(Debug)]
pub(super) struct Issuance {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) last_used: Arc<LastUsed>,
    limits: TokenLimits,
    pub(super) origin: Origin,
    pub(super) new: NewToken,
}

impl Issuance {
    /// Refuses what would be refused anyway, before argon2, which costs far more than all the rest.
    async fn precheck(&self) -> Result<(), RegistryError> {
        let (new, now) = (&self.new, self.clock.now());
        let obstacles = self.store.obstacles(&new.user_id, &new.name, now, self.limits.max_kept()).await?;
        // Read after the obstacles: the same request, if it is what took the name, is found.
        if let Some(id) = new.request_id
            && !obstacles.account_deleted
            && let Some(earlier) = self.store.earlier_request(&new.user_id, id, now - repeat::WINDOW).await?
        {
            return self.same_token(&earlier, now).map(drop);
        }
        self.check(obstacles, now)
    }

    /// Whether a new token may be issued at `now`.
    fn check(&self, found: Obstacles, now: DateTime<Utc>) -> Result<(), RegistryError> {
        self.limits.check(found)?;
        match self.new.expiry {
            Some(expiry) if expiry.at() <= now => Err(ExpiryError::Past.into()),
            _ => Ok(()),
        }
    }

    /// Issues the token, or gives the one of the same request another secret. Decides once more, since only under the lock
    /// nothing can change any more. Returns the token and the server of the transaction.
    async fn run(
        self,
        gate: CommitGate,
        id: Uuid,
        credentials: (SecretHash, Option<Tag>),
    ) -> Result<(Token, Server), RegistryError> {
        let transaction = self.store.begin().await?;
        if transaction.lock_account(&self.new.user_id).await?.is_some() {
            return Err(RegistryError::UserDeleted);
        }
        let now = self.clock.now();
        if let Some(request) = self.new.request_id {
            let since = now - repeat::WINDOW;
            let earlier = transaction.earlier_request(&self.new.user_id, request, since).await?;
            if let Some(earlier) = earlier {
                let token = self.same_token(&earlier, now)?;
                return self.replace_secret(transaction, &gate, token, credentials, now).await;
            }
        }
        self.insert(transaction, &gate, self.token(id, now), credentials).await
    }

    /// The token that is to be issued, or that the same request has issued.
    pub(super) fn token(&self, id: Uuid, created_at: DateTime<Utc>) -> Token {
        Token {
            id,
            user_id: self.new.user_id.clone(),
            name: self.new.name.clone(),
            scopes: self.new.scopes.clone(),
            created_at,
            expires_at: self.new.expiry.map(Expiry::at),
            last_used_at: None,
        }
    }

    /// Stores a token, if the rules allow it.
    async fn insert(
        &self,
        transaction: WriteTransaction,
        gate: &CommitGate,
        token: Token,
        (hash, tag): (SecretHash, Option<Tag>),
    ) -> Result<(Token, Server), RegistryError> {
        let at = token.created_at;
        let most = self.limits.max_kept();
        self.check(transaction.obstacles(&token.user_id, &token.name, at, most).await?, at)?;
        transaction.insert_token(NewTokenRow { token: &token, hash, tag }).await?;
        if let Some(request_id) = self.new.request_id {
            let (user_id, content) = (&token.user_id, repeat::content(&self.new));
            let request = CreateRequest { user_id, request_id, token_id: token.id, content, at };
            transaction.put_request(request).await?;
        }
        let event = self.origin.event(EventKind::TokenIssued, &token.user_id, token.id, at);
        let server = transaction.record(event).await?;
        self.authenticator.check_epoch(server.epoch)?;
        let (user_id, token_id) = (token.user_id.as_str(), token.id);
        match transaction.commit(gate).await {
            Ok(()) => tracing::info!(user_id, %token_id, "token issued"),
            Err(error) => {
                tracing::warn!(user_id, %token_id, %error, "not known whether the token is issued");
                return Err(error.into());
            }
        }
        Ok((token, server))
    }
}
