//! From a secret to the token that it proves: from memory where it was proven before and nothing was revoked since that
//! this replica could have missed; else from the database.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    RevocationTail,
    cache::{self, Ticket, VerifiedTokens},
    revocation_tail::Freshness,
};
use crate::{
    clock::Clock,
    credentials::{HashError, SecretVerifier, Verification},
    store::{Eviction, Store, StoreError, StoredToken, TokenState},
    token::{BearerToken, Digest, Token},
};
use tokio::sync::{OnceCell, Semaphore};

/// How tokens are kept in memory.
#[derive(Clone, Copy, Debug)]
pub struct ValidationLimits {
    /// How many tokens are kept at most; see [`BYTES_PER_ENTRY`].
    pub cache_entries: u64,
    /// How many secrets at once may be looked up in the database.
    pub cold_lookups: usize,
    /// How old the replica's view of the revocations may be for what is in memory to be trusted.
    pub max_staleness: Duration,
}

/// A token whose secret was proven.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// What may be shown.
    pub token: Arc<Token>,
    /// Whether it was revoked, as far as this replica knows.
    pub state: TokenState,
}

/// Why it cannot be known whose a secret is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// Too many secrets are being looked up already.
    #[error("too many secrets are being looked up")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Tells whose secret one is.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    verifier: Arc<SecretVerifier>,
    verified: Arc<VerifiedTokens>,
    freshness: Arc<Freshness>,
    in_flight: Mutex<HashMap<Digest, Arc<Lookup>>>,
    room: Semaphore,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What memory has done so far.
#[derive(Clone, Copy, Debug)]
pub struct CacheStatistics {
    /// How many secrets were judged from memory.
    pub hits: u64,
    /// How many were not.
    pub misses: u64,
    /// How many tokens are in memory now.
    pub entries: usize,
    /// How old this replica's view of the revocations is.
    pub tail_lag: Duration,
}

/// A question to the database that others who ask for the same secret may join.
#[derive(Debug)]
struct Lookup {
    ticket: Ticket,
    answer: OnceCell<Result<Option<Authenticated>, LookupError>>,
}

impl Authenticator {
    /// Looks tokens up in `store` and proves them with `verifier`.
    pub fn new(store: Store, verifier: Arc<SecretVerifier>, limits: ValidationLimits) -> Self {
        Self {
            store,
            verifier,
            verified: Arc::new(VerifiedTokens::new(limits.cache_entries)),
            freshness: Arc::new(Freshness::new(limits.max_staleness)),
            in_flight: Mutex::default(),
            room: Semaphore::new(limits.cold_lookups),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What memory has done so far.
    pub fn statistics(&self) -> CacheStatistics {
        CacheStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.verified.len(),
            tail_lag: self.freshness.lag(),
        }
    }

    /// The token that `secret` is of, whatever became of it; `None` when there is none. Whether it has expired is for
    /// the caller to tell.
    ///
    /// # Errors
    ///
    /// See [`LookupError`].
    pub async fn authenticate(&self, secret: &BearerToken) -> Result<Option<Authenticated>, LookupError> {
        let digest = secret.digest();
        if self.freshness.is_fresh()
            && let Some((expected, token)) = self.verified.get(secret.id())
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok((expected == digest).then_some(Authenticated { token, state: TokenState::Live }));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        // In a box of its own: else each call that memory answers would move about what a question to the database needs.
        Box::pin(self.look_up(secret, digest)).await
    }

    /// Evicts what this replica itself took access from, before it reads so in the log.
    pub fn evict(&self, eviction: &Eviction) {
        self.verified.evict(eviction);
    }

    /// What makes this replica forget what others revoke. Memory is not trusted when it has not succeeded for as long as
    /// the limits allow.
    pub fn revocation_tail(&self, clock: Clock) -> RevocationTail {
        RevocationTail::new(
            self.store.clone(),
            clock,
            Arc::clone(&self.verified),
            Arc::clone(&self.freshness),
        )
    }

    /// Asks the database, once for all who ask for the same secret meanwhile.
    async fn look_up(
        &self,
        secret: &BearerToken,
        digest: Digest,
    ) -> Result<Option<Authenticated>, LookupError> {
        let lookup = self.join(secret, digest);
        // Taken out however this ends: the last one to hang up leaves nothing behind.
        let listed = Leave { authenticator: self, digest, lookup };
        // If whoever asks first hangs up, another asks anew.
        listed.lookup.answer.get_or_init(|| self.ask(secret, digest, &listed.lookup.ticket)).await.clone()
    }

    /// The lookup under way for the secret, unless something was revoked since it began that it may not see; else a
    /// new one.
    fn join(&self, secret: &BearerToken, digest: Digest) -> Arc<Lookup> {
        let new = || Arc::new(Lookup { ticket: self.verified.ticket(secret.id()), answer: OnceCell::new() });
        match self.in_flight().entry(digest) {
            Entry::Vacant(place) => Arc::clone(place.insert(new())),
            Entry::Occupied(mut listed) => {
                if !self.verified.is_current(&listed.get().ticket) {
                    listed.insert(new());
                }
                Arc::clone(listed.get())
            }
        }
    }

    async fn ask(
        &self,
        secret: &BearerToken,
        digest: Digest,
        ticket: &Ticket,
    ) -> Result<Option<Authenticated>, LookupError> {
        let _room = self.room.try_acquire().map_err(|_| LookupError::Busy)?;
        let Some(stored) = self.store.find_token(secret.id()).await? else {
            return Ok(None);
        };
        if !self.prove(secret, &stored).await? {
            return Ok(None);
        }
        let token = Arc::new(stored.token);
        if stored.state == TokenState::Live {
            self.verified.put(ticket, cache::Verified { digest, token: Arc::clone(&token) });
        }
        Ok(Some(Authenticated { token, state: stored.state }))
    }

    /// Whether `secret` is the token's. A token that was proven by an old key, or by argon2id for want of a key, is
    /// tagged anew, so that the next time is quick.
    async fn prove(&self, secret: &BearerToken, stored: &StoredToken) -> Result<bool, LookupError> {
        match self.verifier.check(secret, &stored.hash, stored.tag.as_ref()).await? {
            Verification::Wrong => return Ok(false),
            Verification::Right => {}
            Verification::RightWithNewTag(tag) => {
                // The verdict does not hang on it; the next validation tries again.
                if let Err(error) = self.store.retag_token(secret.id(), tag).await {
                    tracing::warn!(token_id = %secret.id(), %error, "a token was not tagged anew");
                }
            }
        }
        Ok(true)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Lookup>>> {
        // A map is whole between any two of its operations.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a lookup off the list when it is done, or when nobody waits for it any more.
struct Leave<'a> {
    authenticator: &'a Authenticator,
    digest: Digest,
    lookup: Arc<Lookup>,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.authenticator.in_flight();
        // Two hold one that nobody else waits for: the list and this.
        let over = self.lookup.answer.initialized() || Arc::strong_count(&self.lookup) <= 2;
        if over && in_flight.get(&self.digest).is_some_and(|listed| Arc::ptr_eq(listed, &self.lookup)) {
            in_flight.remove(&self.digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credentials::{HashLimits, Hasher, KeyRing},
        store::PoolLimits,
    };

    async fn authenticator(folder: &std::path::Path) -> Authenticator {
        let url = format!("sqlite://{}", folder.join("test.db").display()).parse().unwrap();
        let limits = PoolLimits { connections: 1, timeout: Duration::from_secs(5) };
        let store = Store::open(&url, limits).await.unwrap();
        let cheap = HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency: 1, queue: 1 };
        let verifier = SecretVerifier::new(Hasher::new(cheap).unwrap(), KeyRing::empty());
        let limits =
            ValidationLimits { cache_entries: 10, cold_lookups: 10, max_staleness: Duration::from_secs(5) };
        Authenticator::new(store, Arc::new(verifier), limits)
    }

    /// Otherwise whoever asks after a revocation could be given the answer to a question from before it.
    #[tokio::test]
    async fn a_lookup_that_a_revocation_overtakes_is_not_joined() {
        let folder = tempfile::tempdir().unwrap();
        let authenticator = authenticator(folder.path()).await;
        let secret = BearerToken::generate().unwrap();
        let join = || authenticator.join(&secret, secret.digest());
        let first = join();
        assert!(Arc::ptr_eq(&first, &join()));
        authenticator.evict(&Eviction::Token(secret.id()));
        let second = join();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &join()));
    }
}
