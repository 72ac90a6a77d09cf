//! Authenticates bearer tokens: from the cache while the lease holds, otherwise from the database.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use super::{
    RevocationTail,
    cache::{self, Ticket, VerifiedTokens},
    cold_permits::ColdPermits,
    lease::Lease,
    replica_watch::ReplicaWatch,
    revocation_tail::TailCounters,
};
use crate::{
    clock::Clock,
    credentials::{HashError, SecretVerifier, Verification},
    store::{Eviction, Server, Store, StoreError, StoredToken, TokenState},
    token::{BearerToken, Digest, Token},
};

/// The limits of the cache and of cold lookups.
#[derive(Clone, Copy, Debug)]
pub struct ValidationLimits {
    /// The most cached tokens; see [`BYTES_PER_ENTRY`](super::BYTES_PER_ENTRY).
    pub cache_entries: u64,
    /// The most lookups in the database at once.
    pub cold_lookups: usize,
    /// How long the lease lasts, without which nothing is answered from the cache, or on PostgreSQL at all.
    pub max_staleness: Duration,
    /// How long one read of the revocation log or of the replicas, or one renewal of the lease, may take.
    pub poll_timeout: Duration,
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
    pub(super) verified: Arc<VerifiedTokens>,
    pub(super) lease: Arc<Lease>,
    pub(super) replicas: Arc<ReplicaWatch>,
    pub(super) tail: Arc<TailCounters>,
    /// By which other replicas tell who wakes them.
    waker: Uuid,
    bound: Duration,
    in_flight: Mutex<HashMap<Digest, Arc<Lookup>>>,
    permits: ColdPermits,
    pub(super) hits: AtomicU64,
    pub(super) misses: AtomicU64,
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
        let (waker, bound) = (Uuid::now_v7(), limits.poll_timeout);
        let lease = Arc::new(Lease::new(limits.max_staleness));
        Self {
            replicas: Arc::new(ReplicaWatch::new(waker, store.clone(), Arc::clone(&lease), bound)),
            store,
            verified: Arc::new(VerifiedTokens::new(limits.cache_entries)),
            lease,
            tail: Arc::default(),
            waker,
            bound,
            permits: ColdPermits::new(limits.cold_lookups, verifier.can_vouch()),
            verifier,
            in_flight: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
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
        // Before the cache is read or a lookup is joined: what was revoked before this call began is evicted if the lease
        // holds now.
        let has_lease = self.lease.holds();
        if has_lease && let Some((expected, token)) = self.verified.get(bearer.id()) {
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Ok((expected == digest).then_some(Authenticated { token, state: TokenState::Live }));
        }
        let epoch = self.lease.epoch();
        if !has_lease && self.store.can_fail_over() {
            return Err(StoreError::NoLease.into());
        }
        self.misses.fetch_add(1, Ordering::Relaxed);
        // Boxed so that the future of a cache hit stays small.
        let found = if has_lease {
            Box::pin(self.look_up(bearer, digest)).await?
        } else {
            // One in flight may have begun before a revocation that this replica has not seen.
            let ticket = self.verified.ticket(bearer.id());
            Box::pin(self.query(bearer, digest, &ticket)).await?
        };
        // Another server may have taken over before the read, where the token was created since.
        if found.is_none() {
            self.check_epoch(epoch)?;
        }
        Ok(found)
    }

    /// Evicts what this replica revoked, without waiting for the next read of the log.
    pub fn evict(&self, eviction: &Eviction) {
        self.verified.evict(eviction);
    }

    /// Returns the id of the present registration of this replica, or of the last one.
    pub fn registration(&self) -> Uuid {
        self.lease.registration()
    }

    /// Returns whether calls may be answered: always, if no failover can replace the database.
    pub fn can_answer(&self) -> bool {
        self.lease.holds() || !self.store.can_fail_over()
    }

    /// Returns whether this replica has a lease and has read the revocation log of PostgreSQL within this time.
    pub fn has_read_within(&self, time: Duration) -> bool {
        self.store.can_fail_over() && self.lease.holds() && self.lease.lag() < time
    }

    /// Checks that calls may be answered, and written.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoLease`]: another server may have taken over.
    pub fn check_lease(&self) -> Result<(), StoreError> {
        if self.can_answer() { Ok(()) } else { Err(StoreError::NoLease) }
    }

    /// Checks that this replica has a lease of this epoch, which a server has that was asked.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoLease`], [`StoreError::EpochChanged`].
    pub fn check_epoch(&self, epoch: Option<Uuid>) -> Result<(), StoreError> {
        self.check_lease()?;
        let is_same = epoch.is_some() && epoch == self.lease.epoch();
        if is_same || !self.store.can_fail_over() { Ok(()) } else { Err(StoreError::EpochChanged) }
    }

    /// Returns the epoch of the database in which this replica is registered, as it changes; `None` while it is not. See
    /// [`LogHead::epoch`](crate::store::LogHead::epoch).
    pub fn epochs(&self) -> watch::Receiver<Option<Uuid>> {
        self.lease.epochs()
    }

    /// Waits until no replica answers "valid" for what is revoked in the database now. `epoch` is the one in which the
    /// transaction revoked it, or found it revoked.
    ///
    /// # Errors
    ///
    /// It is not known, because the database cannot be asked, cannot commit or has failed over.
    pub async fn all_have_seen(&self, epoch: Option<Uuid>) -> Result<(), StoreError> {
        self.replicas.all_have_seen(epoch).await
    }

    /// Waits until no replica answers "unknown" for what was created in the database now, because it has a lease of an
    /// earlier epoch. `server` is the one of the transaction.
    ///
    /// # Errors
    ///
    /// As for [`Authenticator::all_have_seen`].
    pub async fn earlier_leases_are_over(&self, server: Server) -> Result<(), StoreError> {
        self.replicas.earlier_leases_are_over(server).await
    }

    /// Ends the lease of this replica for good. It answers no more validations on PostgreSQL, and none from memory.
    pub fn close(&self) {
        self.lease.close();
    }

    /// Removes this replica, which must be closed, from those that revocations wait for.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn deregister(&self) -> Result<(), StoreError> {
        self.store.deregister_replica(self.lease.registration()).await
    }

    /// Returns the task that evicts what other replicas revoke, and keeps the lease.
    pub fn revocation_tail(&self, clock: Clock) -> RevocationTail {
        RevocationTail::new(
            self.waker,
            self.store.clone(),
            clock,
            Arc::clone(&self.verified),
            Arc::clone(&self.lease),
            Arc::clone(&self.tail),
            self.bound,
        )
    }

    /// Follows the revocation log, polling it at this interval, and the other replicas, until the lease is closed.
    pub async fn follow(&self, tail: RevocationTail, interval: Duration) {
        tokio::select! {
            () = tail.follow(interval) => {}
            () = self.replicas.follow() => {}
        }
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
        let permit =
            self.permits.acquire(bearer.id(), |id| self.verifier.vouches_for(id)).ok_or(LookupError::Busy)?;
        let Some(stored) = self.store.find_token(bearer.id(), self.lease.epoch(), permit.share()).await?
        else {
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
                if let Err(error) = self.store.retag_token(bearer.id(), &stored.hash, tag).await {
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
        let limits = ValidationLimits {
            cache_entries: 10,
            cold_lookups: 10,
            max_staleness: Duration::from_secs(5),
            poll_timeout: Duration::from_secs(1),
        };
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
