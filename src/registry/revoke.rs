//! Taking access away: one token, or an account with all of its tokens.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{RegistryError, TokenRegistry, Transport, token_registry::Origin, validate::judge};
use crate::{
    caller::Caller,
    store::{CommitGate, Event, EventKind, Eviction, StoreError, WriteTransaction},
    telemetry,
    token::{Scopes, UserId},
    validation::{Authenticated, Authenticator},
};

impl TokenRegistry {
    /// Revokes one token of the user. When it returns, no replica accepts the token any more. With `allow_missing` it
    /// succeeds also when the user has no such token or it is revoked already, so that a caller whose answer was lost can
    /// repeat the call.
    ///
    /// # Errors
    ///
    /// [`RegistryError::NotAllowed`]; without `allow_missing`, [`RegistryError::NotFound`] in these two cases, when no replica
    /// accepts the token any more either; or a failure.
    pub async fn revoke(
        &self,
        caller: &Caller,
        user: &UserId,
        id: Uuid,
        allow_missing: bool,
    ) -> Result<(), RegistryError> {
        caller.check_user(user)?;
        let origin = Origin::of(caller);
        let (store, clock, user) = (self.store.clone(), self.clock.clone(), user.clone());
        let authenticator = Arc::clone(&self.authenticator);
        let revoke = move |gate: CommitGate| async move {
            let now = clock.now();
            let transaction = store.begin().await?;
            if !transaction.revoke_token(&user, id, now).await? {
                let epoch = transaction.server_of_this().await?.epoch;
                authenticator.check_epoch(epoch)?;
                // Another replica may have revoked it, and this one may not have read that yet.
                authenticator.evict(&Eviction::Token(id));
                return Ok((epoch, false));
            }
            let epoch =
                transaction.record(origin.event(EventKind::TokenRevoked, &user, id, now)).await?.epoch;
            authenticator.check_epoch(epoch)?;
            let committed = commit_and_evict(transaction, &gate, &authenticator, &Eviction::Token(id)).await;
            let (user_id, token_id) = (user.as_str(), id);
            match committed {
                Ok(()) => tracing::info!(user_id, %token_id, "token revoked"),
                Err(ref error) => {
                    tracing::warn!(user_id, %token_id, %error, "not known whether the token is revoked");
                }
            }
            committed?;
            Ok((epoch, true))
        };
        let (epoch, is_found) = self.write(revoke).await?;
        // Also if there was nothing to revoke: the call that revoked it may have ended before all replicas had seen it.
        self.authenticator.all_have_seen(epoch).await?;
        if is_found || allow_missing { Ok(()) } else { Err(RegistryError::NotFound) }
    }

    /// Revokes the token with this bearer token, for its holder. When it returns, no replica accepts it: there is no such
    /// token, or it is revoked, as it is also when it had expired or its account was deleted.
    ///
    /// # Errors
    ///
    /// A failure: it may still be valid.
    pub async fn revoke_presented(&self, bearer: &[u8]) -> Result<(), RegistryError> {
        let recognised = self.recognise(bearer).await?;
        let reason = match &recognised {
            Ok(found) => judge(found, &Scopes::default(), self.clock.now()).err(),
            Err(reason) => Some(*reason),
        };
        self.count(Transport::Revocation, reason);
        let Ok(Authenticated { token, .. }) = recognised else { return Ok(()) };
        self.revoke(&Caller::holder(&token), &token.user_id, token.id, true).await
    }

    /// Revokes every token of a user whose account was deleted, at `deleted_at` if that is known, and lets none be
    /// issued again. When it returns, no replica accepts any of them. Doing it twice changes nothing. `actor` and
    /// `event_id` go into the audit log.
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
        let epoch = self.commit_deletion(user, deleted_at, actor, event_id).await?;
        // Also if it was deleted before: the call that deleted it may have ended before all replicas had seen it.
        Ok(self.authenticator.all_have_seen(epoch).await?)
    }

    /// As [`TokenRegistry::revoke_user`], but returns after the commit, with the epoch of the transaction. For events that were
    /// acknowledged long ago.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn commit_deletion(
        &self,
        user: &UserId,
        deleted_at: Option<DateTime<Utc>>,
        actor: &str,
        event_id: &str,
    ) -> Result<Option<Uuid>, RegistryError> {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let authenticator = Arc::clone(&self.authenticator);
        let (user, actor, event_id) = (user.clone(), actor.to_owned(), event_id.to_owned());
        let trace_id = telemetry::trace_id();
        let delete = move |gate: CommitGate| async move {
            let transaction = store.begin().await?;
            if transaction.lock_account(&user).await?.is_some() {
                let epoch = transaction.server_of_this().await?.epoch;
                authenticator.check_epoch(epoch)?;
                // Another replica may have deleted it, and this one may not have read that yet.
                authenticator.evict(&Eviction::Account(user));
                return Ok(epoch);
            }
            let now = clock.now();
            transaction.mark_account_deleted(&user, deleted_at.map_or(now, |at| now.min(at))).await?;
            let kind = EventKind::UserDeleted;
            let (actor, event_id) = (actor.as_str(), event_id.as_str());
            let event = Event {
                at: now,
                kind,
                token_id: None,
                user_id: &user,
                actor,
                reason: Some(event_id),
                trace_id: trace_id.as_deref(),
            };
            let epoch = transaction.record(event).await?.epoch;
            authenticator.check_epoch(epoch)?;
            let committed =
                commit_and_evict(transaction, &gate, &authenticator, &Eviction::Account(user.clone())).await;
            let user_id = user.as_str();
            match committed {
                Ok(()) => tracing::info!(user_id, actor, event_id, "user deleted"),
                Err(ref error) => {
                    tracing::warn!(user_id, event_id, %error, "not known whether the user is deleted");
                }
            }
            committed?;
            Ok(epoch)
        };
        self.write(delete).await
    }
}

/// Commits, and then evicts what the transaction took access from, also if it is not known whether it was committed.
pub(super) async fn commit_and_evict(
    transaction: WriteTransaction,
    gate: &CommitGate,
    authenticator: &Authenticator,
    eviction: &Eviction,
) -> Result<(), StoreError> {
    let committed = transaction.commit(gate).await;
    authenticator.evict(eviction);
    committed
}
