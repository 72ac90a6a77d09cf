//! Tokens whose secrets were verified, in memory.
//!
//! What was evicted stays evicted: a lookup that began before the eviction is not stored after it. A token is evicted by
//! its id. An account is evicted by a counter: the entries of its users (and of the few others that share the shard) count
//! as outdated from then on, however many there are, and are dropped when they are next asked for.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use quick_cache::{
    Weighter,
    sync::{Cache, DefaultLifecycle},
};
use uuid::Uuid;

use super::id_hash::HashId;
use crate::{
    store::Eviction,
    token::{Digest, Token, UserId},
};

/// A token counts as one entry for each so many bytes that it takes, so that the bound on entries is one on memory too.
pub const BYTES_PER_ENTRY: u64 = 400;

/// What the cache itself takes for an entry, about: the key twice, hashes, links of its queues.
const OVERHEAD: u64 = 64;

/// A revocation makes the lookups of one token shard in so many start again.
const TOKEN_SHARDS: usize = 64;
/// The deletion of an account makes the entries of one account shard in so many outdated.
const ACCOUNT_SHARDS: usize = 4_096;

/// A token that is live as far as this replica knows, with the digest of its secret.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub(super) digest: Digest,
    pub(super) token: Arc<Token>,
}

#[derive(Clone, Debug)]
struct Entry {
    verified: Verified,
    account_shard: usize,
    /// The number of account evictions that the lookup can have seen.
    as_of: u64,
}

/// The cache.
#[derive(Debug)]
pub(super) struct VerifiedTokens {
    entries: Cache<Uuid, Entry, Weight, HashId>,
    /// Invalidation counters, one per shard of token ids.
    token_evictions: [Mutex<u64>; TOKEN_SHARDS],
    /// How many accounts were evicted so far.
    account_evictions: AtomicU64,
    /// For each shard of user ids, the number of its latest eviction.
    latest_account_eviction: Box<[AtomicU64]>,
    hasher: RandomState,
}

/// The right to store a token that is read from the database after the ticket was drawn.
#[derive(Debug)]
pub(super) struct Ticket {
    id: Uuid,
    token_evictions: u64,
    account_evictions: u64,
}

impl VerifiedTokens {
    pub(super) fn new(entries: u64) -> Self {
        let expected = usize::try_from(entries).unwrap_or(usize::MAX);
        Self {
            entries: Cache::with(expected, entries, Weight, HashId::default(), DefaultLifecycle::default()),
            token_evictions: std::array::from_fn(|_| Mutex::default()),
            account_evictions: AtomicU64::default(),
            latest_account_eviction: (0..ACCOUNT_SHARDS).map(|_| AtomicU64::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The digest and the token, unless the token or its account was evicted since they were looked up.
    pub(super) fn get(&self, id: Uuid) -> Option<(Digest, Arc<Token>)> {
        let entry = self.entries.get(&id)?;
        if entry.as_of < self.latest_account_eviction[entry.account_shard].load(Ordering::Acquire) {
            self.entries.remove_if(&id, |found| Arc::ptr_eq(&found.verified.token, &entry.verified.token));
            return None;
        }
        Some((entry.verified.digest, entry.verified.token))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ticket(&self, id: Uuid) -> Ticket {
        Ticket {
            id,
            token_evictions: *self.token_shard(id),
            account_evictions: self.account_evictions.load(Ordering::Acquire),
        }
    }

    /// Whether nothing was evicted since the ticket was drawn that its lookup may not see. Which account the token
    /// belongs to is known only after the lookup, so every account counts.
    pub(super) fn is_current(&self, ticket: &Ticket) -> bool {
        *self.token_shard(ticket.id) == ticket.token_evictions
            && self.account_evictions.load(Ordering::Acquire) == ticket.account_evictions
    }

    /// Stores the token, unless it may have been evicted since the ticket was drawn.
    pub(super) fn put(&self, ticket: &Ticket, verified: Verified) {
        let account_shard = self.account_shard(&verified.token.user_id);
        let entry = Entry { verified, account_shard, as_of: ticket.account_evictions };
        // Held until the entry is in: an eviction that comes meanwhile waits, and then takes it out.
        let token_evictions = self.token_shard(ticket.id);
        if *token_evictions == ticket.token_evictions {
            self.entries.insert(ticket.id, entry);
        }
    }

    pub(super) fn evict(&self, eviction: &Eviction) {
        match eviction {
            Eviction::Token(id) => self.evict_token(*id),
            Eviction::Account(user) => self.evict_account(user),
        }
    }

    fn evict_token(&self, id: Uuid) {
        let mut token_evictions = self.token_shard(id);
        *token_evictions = token_evictions.wrapping_add(1);
        self.entries.remove(&id);
    }

    fn evict_account(&self, user: &UserId) {
        let number = self.account_evictions.fetch_add(1, Ordering::AcqRel) + 1;
        // The greater number stays when two accounts of one shard are evicted at once.
        self.latest_account_eviction[self.account_shard(user)].fetch_max(number, Ordering::AcqRel);
    }

    pub(super) fn evict_all(&self) {
        let mut shards: Vec<_> = self.token_evictions.iter().map(lock).collect();
        shards.iter_mut().for_each(|shard| **shard = shard.wrapping_add(1));
        self.account_evictions.fetch_add(1, Ordering::AcqRel);
        self.entries.clear();
    }

    fn token_shard(&self, id: Uuid) -> MutexGuard<'_, u64> {
        // The last byte of a UUIDv7 is random.
        lock(&self.token_evictions[usize::from(id.as_bytes()[15]) % TOKEN_SHARDS])
    }

    fn account_shard(&self, user: &UserId) -> usize {
        // The remainder is below ACCOUNT_SHARDS, which fits.
        (self.hasher.hash_one(user.as_str()) % ACCOUNT_SHARDS as u64) as usize
    }
}

fn lock(shard: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // A counter cannot be half-written, so poisoning is ignored.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Uuid, Entry> for Weight {
    fn weight(&self, _: &Uuid, entry: &Entry) -> u64 {
        let fixed = size_of::<Entry>() + size_of::<Token>() + 2 * size_of::<usize>();
        let bytes = OVERHEAD + (fixed + entry.verified.token.heap_bytes()) as u64;
        bytes.div_ceil(BYTES_PER_ENTRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{BearerToken, Scopes, TokenName};

    fn verified(scopes: usize) -> (Uuid, Verified) {
        verified_of("alice", scopes)
    }

    fn verified_of(user: &str, scopes: usize) -> (Uuid, Verified) {
        let secret = BearerToken::generate().unwrap();
        let scope = |n| format!("{n:064}").parse().unwrap();
        let token = Token {
            id: secret.id(),
            user_id: user.parse().unwrap(),
            name: TokenName::parse("one").unwrap(),
            scopes: Scopes::new((0..scopes).map(scope).collect()),
            created_at: chrono::DateTime::UNIX_EPOCH,
            expires_at: None,
            last_used_at: None,
        };
        (secret.id(), Verified { digest: secret.digest(), token: Arc::new(token) })
    }

    /// The order that matters: read, evicted, stored.
    #[test]
    fn a_lookup_that_an_eviction_overtakes_is_not_stored() {
        type Evict = fn(&VerifiedTokens, Uuid);
        let evictions: [Evict; 3] = [
            |cache, id| cache.evict_token(id),
            |cache, _| cache.evict_account(&"alice".parse().unwrap()),
            |cache, _| cache.evict_all(),
        ];
        for evict in evictions {
            let cache = VerifiedTokens::new(10);
            let (id, token) = verified(0);
            let ticket = cache.ticket(id);
            assert!(cache.is_current(&ticket));
            evict(&cache, id);
            assert!(!cache.is_current(&ticket));
            cache.put(&ticket, token);
            assert!(cache.get(id).is_none());

            let (id, token) = verified(0);
            cache.put(&cache.ticket(id), token);
            assert!(cache.get(id).is_some());
            evict(&cache, id);
            assert!(cache.get(id).is_none());
        }
    }

    #[test]
    fn an_account_that_is_evicted_takes_its_own_tokens_along() {
        let cache = VerifiedTokens::new(1_000);
        let put = |user: String| {
            let (id, token) = verified_of(&user, 0);
            cache.put(&cache.ticket(id), token);
            id
        };
        let alices: Vec<_> = (0..10).map(|_| put("alice".into())).collect();
        let others: Vec<_> = (0..100).map(|n| put(format!("user {n}"))).collect();
        cache.evict_account(&"alice".parse().unwrap());
        assert!(alices.iter().all(|id| cache.get(*id).is_none()));
        let kept = others.iter().filter(|id| cache.get(**id).is_some()).count();
        assert!(kept > 90, "{kept} of 100 users are not in her shard");
        let id = put("alice".into());
        assert!(cache.get(id).is_some(), "looked up after the eviction");
    }

    #[test]
    fn it_is_bounded_by_entries_and_by_memory() {
        for (scopes, most) in [(0, 100), (64, 100 * BYTES_PER_ENTRY / (64 * 64))] {
            let cache = VerifiedTokens::new(100);
            for _ in 0..1_000 {
                let (id, token) = verified(scopes);
                cache.put(&cache.ticket(id), token);
            }
            assert!(cache.len() as u64 <= most && cache.len() > 1, "{}", cache.len());
        }
    }
}
