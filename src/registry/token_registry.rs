//! The domain: who may have which tokens, and when a token is good. Every rule is here once.

use std::{borrow::Cow, sync::Arc};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{CreationRates, RegistryError, purge::PurgeCounts, validate::Outcomes};
use crate::{
    caller::Caller,
    clock::Clock,
    credentials::SecretVerifier,
    store::{Event, EventKind, Replicas, Store},
    telemetry,
    token::{Prefix, UserId},
    validation::{Authenticator, LastUsed, RevocationTail, ValidationLimits, ValidationStatistics},
};

/// Issues, lists, revokes and validates tokens.
#[derive(Debug)]
pub struct TokenRegistry {
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) verifier: Arc<SecretVerifier>,
    pub(super) authenticator: Arc<Authenticator>,
    pub(super) prefix: Prefix,
    pub(super) max_live_tokens: u64,
    pub(super) last_used: Arc<LastUsed>,
    pub(super) outcomes: Outcomes,
    pub(super) purge_counts: Arc<PurgeCounts>,
    pub(super) creation_rates: CreationRates,
}

impl TokenRegistry {
    /// A registry over `store` that lets each user have `max_live_tokens`.
    pub fn new(
        store: Store,
        clock: Clock,
        verifier: SecretVerifier,
        prefix: Prefix,
        max_live_tokens: u64,
        creation_rates: CreationRates,
        limits: ValidationLimits,
    ) -> Self {
        let verifier = Arc::new(verifier);
        let authenticator = Arc::new(Authenticator::new(store.clone(), Arc::clone(&verifier), limits));
        Self {
            store,
            clock,
            verifier,
            authenticator,
            prefix,
            max_live_tokens,
            last_used: Arc::default(),
            outcomes: Outcomes::default(),
            purge_counts: Arc::default(),
            creation_rates,
        }
    }

    /// The clock that tokens are judged by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The prefix of every bearer token.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// How often argon2 has run since the start.
    pub fn argon2_runs(&self) -> u64 {
        self.verifier.argon2_runs()
    }

    /// How many runs of argon2 wait for their turn.
    pub fn argon2_waiting(&self) -> usize {
        self.verifier.argon2_waiting()
    }

    /// What validation has done since the start.
    pub fn statistics(&self) -> ValidationStatistics {
        self.authenticator.statistics()
    }

    /// What makes this replica see what others revoke.
    pub fn revocation_tail(&self) -> RevocationTail {
        self.authenticator.revocation_tail(self.clock.clone())
    }

    /// Whether validations can be answered: with PostgreSQL, only while this replica has a lease.
    pub fn can_validate(&self) -> bool {
        self.authenticator.can_answer()
    }

    /// The id of this replica, a new one at each start.
    pub fn replica_id(&self) -> Uuid {
        self.authenticator.replica_id()
    }

    /// Every replica of the service.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn replicas(&self) -> Result<Replicas, RegistryError> {
        // No replica has this id.
        Ok(self.store.replicas_except(Uuid::nil()).await?)
    }

    /// Removes this replica, which must answer no more validations, from those that revocations wait for.
    ///
    /// # Errors
    ///
    /// A failure of the database; revocations then wait until the lease has ended.
    pub async fn deregister(&self) -> Result<(), RegistryError> {
        Ok(self.authenticator.deregister().await?)
    }

    /// Writes when tokens were last used.
    ///
    /// # Errors
    ///
    /// A failure of the database; what was not written is kept for the next time.
    pub async fn flush_last_used(&self) -> Result<(), RegistryError> {
        Ok(self.last_used.flush(&self.store).await?)
    }
}

/// Who asked for a change, for the audit log.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) actor: Cow<'static, str>,
    pub(super) trace_id: Option<String>,
}

impl Origin {
    /// The origin of the call that is being answered.
    pub(super) fn of(caller: &Caller) -> Self {
        Self { actor: caller.actor(), trace_id: telemetry::trace_id() }
    }

    /// Something that was done to a token.
    pub(super) fn event<'a>(
        &'a self,
        kind: EventKind,
        user_id: &'a UserId,
        token_id: Uuid,
        at: DateTime<Utc>,
    ) -> Event<'a> {
        let trace_id = self.trace_id.as_deref();
        Event { at, kind, token_id: Some(token_id), user_id, actor: &self.actor, reason: None, trace_id }
    }
}
