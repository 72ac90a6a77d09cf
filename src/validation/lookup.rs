//! Authenticates bearer tokens: from the cache if it is fresh, otherwise from the database.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OnceCell, Semaphore, watch};

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

/// The limits of the cache and of cold lookups.
#[derive(Clone, Copy, Debug)]
pub struct ValidationLimits {
    /// The most cached tokens; see [`BYTES_PER_ENTRY`](super::BYTES_PER_ENTRY).
    pub cache_entries: u64,
    /// The most lookups in the database at once.
    pub cold_lookups: usize,
    /// How long the cache is trusted after the last successful read of the revocation log.
    pub max_staleness: Duration,
}

/// A token whose secret was verified.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// The token, without its bearer.
    pub token: Arc<Token>,
    /// Whether it was revoked, as far as this replica knows.
    pub state: TokenState,
}

/// Why a lookup failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// Too many lookups are in flight.
    #[error("too many bearer tokens are being looked up")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The secret could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
}

/// Authenticates bearer tokens.
#[derive(Debug)]
pub struct Authenticator {
    store: Store,
    verifier: Arc<SecretVerifier>,
    verified: Arc<VerifiedTokens>,
    freshness: Arc<Freshness>,
    epochs: watch::Sender<Option<Arc<str>>>,
    in_flight: Mutex<HashMap<Digest, Arc<Lookup>>>,
    cold_permits: Semaphore,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What the cache has done since the start.
#[derive(Clone, Copy, Debug)]
pub struct CacheStatistics {
    /// Validations that the cache answered.
    pub hits: u64,
    /// Validations that it did not answer.
    pub misses: u64,
    /// Tokens in the cache now.
    pub entries: usize,
    /// How long ago the last successful read of the revocation log began.
    pub tail_lag: Duration,
}

/// A lookup in flight, shared by all callers with the same bearer token.
#[derive(Debug)]
struct Lookup {
    ticket: Ticket,
    answer: OnceCell<Result<Option<Authenticated>, LookupError>>,
}

impl Authenticator {
    /// Returns an authenticator that looks tokens up in `store` and verifies their secrets with `verifier`.
    pub fn new(store: Store, verifier: Arc<SecretVerifier>, limits: ValidationLimits) -> Self {
        Self {
            store,
            verifier,
            verified: Arc::new(VerifiedTokens::new(limits.cache_entries)),
            freshness: Arc::new(Freshness::new(limits.max_staleness)),
            epochs: watch::Sender::default(),
            in_flight: Mutex::default(),
            cold_permits: Semaphore::new(limits.cold_lookups),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// Returns what the cache has done since the start.
    pub fn statistics(&self) -> CacheStatistics {
        CacheStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.verified.len(),
            tail_lag: self.freshness.lag(),
        }
    }

    /// Returns the token of a bearer token, even if it is revoked or has expired; `None` if there is no such token or the
    /// secret is wrong.
    ///
    /// # Errors
    ///
    /// See [`LookupError`].
    pub async fn authenticate(&self, bearer: &BearerToken) -> Result<Option<Authenticated>, LookupError> {
        let digest = bearer.digest();
        if self.freshness.is_fresh()
            && let Some((expected, token)) = self.verified.get(bearer.id())
        {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok((expected == digest).then_some(Authenticated { token, state: TokenState::Live }));
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        // Boxed so that the future of a cache hit stays small.
        Box::pin(self.look_up(bearer, digest)).await
    }

    /// Evicts what this replica revoked, without waiting for the next read of the log.
    pub fn evict(&self, eviction: &Eviction) {
        self.verified.evict(eviction);
    }

    /// Returns the task that evicts what other replicas revoke. The cache is not used unless it has succeeded within
    /// `max_staleness`.
    pub fn revocation_tail(&self, clock: Clock) -> RevocationTail {
        RevocationTail::new(
            self.store.clone(),
            clock,
            Arc::clone(&self.verified),
            Arc::clone(&self.freshness),
            self.epochs.clone(),
        )
    }

    /// Returns the epoch of the database, as the revocation tail last saw it.
    pub fn epochs(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.epochs.subscribe()
    }

    /// Queries the database once for all concurrent callers with the same bearer token.
    async fn look_up(
        &self,
        bearer: &BearerToken,
        digest: Digest,
    ) -> Result<Option<Authenticated>, LookupError> {
        let lookup = self.join(bearer, digest);
        // Removes the lookup when this ends, also when it is cancelled.
        let in_flight = InFlightGuard { authenticator: self, digest, lookup };
        // If the first caller disconnects, another one restarts the query.
        let lookup = &in_flight.lookup;
        lookup.answer.get_or_init(|| self.query(bearer, digest, &lookup.ticket)).await.clone()
    }

    /// Returns the lookup in flight for this bearer token, or a new one if there is none or an eviction came after it
    /// began.
    fn join(&self, bearer: &BearerToken, digest: Digest) -> Arc<Lookup> {
        let new = || Arc::new(Lookup { ticket: self.verified.ticket(bearer.id()), answer: OnceCell::new() });
        match self.in_flight().entry(digest) {
            Entry::Vacant(vacant) => Arc::clone(vacant.insert(new())),
            Entry::Occupied(mut listed) => {
                if !self.verified.is_current(&listed.get().ticket) {
                    listed.insert(new());
                }
                Arc::clone(listed.get())
            }
        }
    }

    async fn query(
        &self,
        bearer: &BearerToken,
        digest: Digest,
        ticket: &Ticket,
    ) -> Result<Option<Authenticated>, LookupError> {
        let _permit = self.cold_permits.try_acquire().map_err(|_| LookupError::Busy)?;
        let Some(stored) = self.store.find_token(bearer.id()).await? else {
            return Ok(None);
        };
        if !self.verify(bearer, &stored).await? {
            return Ok(None);
        }
        let token = Arc::new(stored.token);
        if stored.state == TokenState::Live {
            self.verified.put(ticket, cache::Verified { digest, token: Arc::clone(&token) });
        }
        Ok(Some(Authenticated { token, state: stored.state }))
    }

    /// Whether `bearer` has the token's bearer. A token that was verified with an old key, or by argon2id because its key is
    /// missing, gets a new tag, so that the next verification is fast.
    async fn verify(&self, bearer: &BearerToken, stored: &StoredToken) -> Result<bool, LookupError> {
        match self.verifier.check(bearer, &stored.hash, stored.tag.as_ref()).await? {
            Verification::Wrong => return Ok(false),
            Verification::Right => {}
            Verification::RightWithNewTag(tag) => {
                // The result does not depend on it; the next cold validation tries again.
                if let Err(error) = self.store.retag_token(bearer.id(), tag).await {
                    tracing::warn!(token_id = %bearer.id(), %error, "the tag of a token could not be replaced");
                }
            }
        }
        Ok(true)
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Lookup>>> {
        // No code panics while it changes the map, so poisoning is ignored.
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a lookup when it is done, or when no caller waits for it any more.
struct InFlightGuard<'a> {
    authenticator: &'a Authenticator,
    digest: Digest,
    lookup: Arc<Lookup>,
}

impl Drop for InFlightGuard<'_> {
    fn drop(&mut self) {
        let mut in_flight = self.authenticator.in_flight();
        // A count of 2 means that only the map and this guard are left.
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

    /// A caller that arrives after a revocation must not get a result that was read before it.
    #[tokio::test]
    async fn a_lookup_that_a_revocation_overtakes_is_not_joined() {
        let folder = tempfile::tempdir().unwrap();
        let authenticator = authenticator(folder.path()).await;
        let bearer = BearerToken::generate().unwrap();
        let join = || authenticator.join(&bearer, bearer.digest());
        let first = join();
        assert!(Arc::ptr_eq(&first, &join()));
        authenticator.evict(&Eviction::Token(bearer.id()));
        let second = join();
        assert!(!Arc::ptr_eq(&first, &second));
        assert!(Arc::ptr_eq(&second, &join()));
    }
}
