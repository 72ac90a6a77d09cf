//! Tokens whose secrets were proven, in memory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::{Weighter, sync::Cache};
use uuid::Uuid;

use crate::token::{Digest, Token};

/// A proven token counts as one entry for each so many bytes that it takes, so that the bound on entries is one on
/// memory too.
pub const BYTES_PER_ENTRY: u64 = 400;

/// What the cache itself takes for an entry, about: the key twice, hashes, places in its queues.
const OVERHEAD: u64 = 64;

/// How many parts the ids are in, so that a revocation disturbs few of the lookups under way.
const PARTS: usize = 64;

/// A token that is live as far as this replica knows, with what proves its secret again.
#[derive(Debug)]
pub(super) struct Proven {
    pub(super) digest: Digest,
    pub(super) token: Arc<Token>,
}

/// The cache. What is forgotten stays forgotten: a lookup that began before is not let in after.
#[derive(Debug)]
pub(super) struct ProvenTokens {
    entries: Cache<Uuid, Arc<Proven>, Weight>,
    /// For each part of the ids, how often something of it was forgotten.
    forgettings: [Mutex<u64>; PARTS],
}

/// The right to put a token in that is read from the database after this was drawn.
#[derive(Debug)]
pub(super) struct Ticket {
    id: Uuid,
    forgettings: u64,
}

impl ProvenTokens {
    pub(super) fn new(entries: u64) -> Self {
        let expected = usize::try_from(entries).unwrap_or(usize::MAX);
        Self {
            entries: Cache::with_weighter(expected, entries, Weight),
            forgettings: std::array::from_fn(|_| Mutex::default()),
        }
    }

    pub(super) fn get(&self, id: Uuid) -> Option<Arc<Proven>> {
        self.entries.get(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn ticket(&self, id: Uuid) -> Ticket {
        Ticket { id, forgettings: *self.part(id) }
    }

    /// Whether nothing of the ticket's part of the ids was forgotten since it was drawn.
    pub(super) fn is_current(&self, ticket: &Ticket) -> bool {
        *self.part(ticket.id) == ticket.forgettings
    }

    /// Keeps the token, unless it may have been forgotten since the ticket was drawn.
    pub(super) fn put(&self, ticket: &Ticket, proven: Proven) {
        // Held until it is in: whoever forgets meanwhile waits, and takes it out again.
        let forgettings = self.part(ticket.id);
        if *forgettings == ticket.forgettings {
            self.entries.insert(ticket.id, Arc::new(proven));
        }
    }

    pub(super) fn forget(&self, ids: impl IntoIterator<Item = Uuid>) {
        for id in ids {
            let mut forgettings = self.part(id);
            *forgettings = forgettings.wrapping_add(1);
            self.entries.remove(&id);
        }
    }

    pub(super) fn forget_all(&self) {
        let mut parts: Vec<_> = self.forgettings.iter().map(lock).collect();
        parts.iter_mut().for_each(|part| **part = part.wrapping_add(1));
        self.entries.clear();
    }

    fn part(&self, id: Uuid) -> MutexGuard<'_, u64> {
        // The last byte of a UUIDv7 is random.
        lock(&self.forgettings[usize::from(id.as_bytes()[15]) % PARTS])
    }
}

fn lock(part: &Mutex<u64>) -> MutexGuard<'_, u64> {
    // A number is whole at every moment.
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Clone, Debug)]
struct Weight;

impl Weighter<Uuid, Arc<Proven>> for Weight {
    fn weight(&self, _: &Uuid, proven: &Arc<Proven>) -> u64 {
        let fixed = size_of::<Proven>() + size_of::<Token>() + 4 * size_of::<usize>();
        let bytes = OVERHEAD + (fixed + proven.token.heap_bytes()) as u64;
        bytes.div_ceil(BYTES_PER_ENTRY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::{Scopes, Secret, TokenName};

    fn proven(scopes: usize) -> (Uuid, Proven) {
        let secret = Secret::generate().unwrap();
        let scope = |n| format!("{n:064}").parse().unwrap();
        let token = Token {
            id: secret.id(),
            user_id: "alice".parse().unwrap(),
            name: TokenName::parse("one").unwrap(),
            scopes: Scopes::new((0..scopes).map(scope).collect()),
            created_at: crate::token::now(),
            expires_at: None,
            last_used_at: None,
        };
        (secret.id(), Proven { digest: secret.digest(), token: Arc::new(token) })
    }

    /// The order that matters: read, revoked, put.
    #[test]
    fn a_lookup_that_a_revocation_overtakes_is_not_kept() {
        let cache = ProvenTokens::new(10);
        let (id, token) = proven(0);
        let ticket = cache.ticket(id);
        cache.forget([id]);
        cache.put(&ticket, token);
        assert!(cache.get(id).is_none());

        let (id, token) = proven(0);
        let ticket = cache.ticket(id);
        cache.forget_all();
        cache.put(&ticket, token);
        assert!(cache.get(id).is_none());

        let (id, token) = proven(0);
        cache.put(&cache.ticket(id), token);
        assert!(cache.get(id).is_some());
        cache.forget([id]);
        assert!(cache.get(id).is_none());
    }

    #[test]
    fn it_is_bounded_by_entries_and_by_memory() {
        for (scopes, most) in [(0, 100), (64, 100 * BYTES_PER_ENTRY / (64 * 64))] {
            let cache = ProvenTokens::new(100);
            for _ in 0..1_000 {
                let (id, token) = proven(scopes);
                cache.put(&cache.ticket(id), token);
            }
            assert!(cache.entries.len() as u64 <= most && cache.entries.len() > 1, "{}", cache.entries.len());
        }
    }
}
