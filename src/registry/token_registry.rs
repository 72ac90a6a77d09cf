//! The domain: who may have which tokens, and when a token is good. Every rule is here once.

use std::{borrow::Cow, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{CreationRates, RegistryError, purge::PurgeCounts, validate::Outcomes};
use crate::{
    caller::Caller,
    clock::Clock,
    credentials::SecretVerifier,
    store::{CommitGate, Event, EventKind, Replicas, Store},
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

    /// Whether this replica has a lease and has read the revocation log of PostgreSQL within this time.
    pub fn has_read_revocations_within(&self, time: Duration) -> bool {
        self.authenticator.has_read_within(time)
    }

    /// The id of the registration of this replica: a new one at each start, and each time that it registers anew.
    pub fn replica_id(&self) -> Uuid {
        self.authenticator.registration()
    }

    /// Every replica of the service.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn replicas(&self) -> Result<Replicas, RegistryError> {
        Ok(self.store.replicas().await?)
    }

    /// Follows the revocation log, polling it at this interval, and the other replicas, until [`TokenRegistry::close`].
    pub async fn follow_revocations(&self, tail: RevocationTail, interval: Duration) {
        self.authenticator.follow(tail, interval).await;
    }

    /// Ends the lease of this replica for good, so that it can be removed.
    pub fn close(&self) {
        self.authenticator.close();
    }

    /// Removes this replica, which must be closed, from those that revocations wait for.
    ///
    /// # Errors
    ///
    /// A failure of the database; revocations then wait until the others see that this replica stands still.
    pub async fn deregister(&self) -> Result<(), RegistryError> {
        Ok(self.authenticator.deregister().await?)
    }

    /// Runs a transaction as [`Store::write`] does, if this replica has a lease before and when its turn has come: without
    /// one, another server may have taken over, and commits may have to wait for ever.
    pub(super) async fn write<T, W>(
        &self,
        work: impl FnOnce(CommitGate) -> W + Send + 'static,
    ) -> Result<T, RegistryError>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, RegistryError>> + Send + 'static,
    {
        self.authenticator.check_lease()?;
        let authenticator = Arc::clone(&self.authenticator);
        let checked = |gate: CommitGate| async move {
            authenticator.check_lease()?;
            work(gate).await
        };
        self.store.write(checked).await
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
