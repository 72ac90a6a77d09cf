//! When tokens were last used, kept in memory and written in batches: a validation never waits for it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::id_hash::HashId;
use crate::store::{Store, StoreError};

/// How many tokens are remembered between two writes; the use of further ones is not noted until the next.
const CAPACITY: usize = 100_000;

/// The latest use of each token that is not written yet. A crash loses it and nothing else.
#[derive(Debug, Default)]
pub struct LastUsed(Mutex<HashMap<Uuid, DateTime<Utc>, HashId>>);

impl LastUsed {
    /// Notes that the token was used at `at`.
    pub fn note(&self, id: Uuid, at: DateTime<Utc>) {
        let mut uses = self.uses();
        if uses.len() < CAPACITY || uses.contains_key(&id) {
            let latest = uses.entry(id).or_insert(at);
            *latest = at.max(*latest);
        }
    }

    /// Whether a use of the token is noted and not written yet.
    pub fn is_noted(&self, id: Uuid) -> bool {
        self.uses().contains_key(&id)
    }

    /// Writes the uses in batches. A use stays noted until the database has confirmed it, also when the caller stops
    /// waiting.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let mut uses: Vec<_> = self.uses().iter().map(|(id, at)| (*id, *at)).collect();
        // In the order of their ids: two replicas that write at once do not lock each other out.
        uses.sort_unstable();
        for batch in uses.chunks(Store::MAX_LAST_USES) {
            store.write_last_uses(batch).await?;
            let mut uses = self.uses();
            for (id, written) in batch {
                // A later use came meanwhile and is not written yet.
                if uses.get(id).is_some_and(|at| at <= written) {
                    uses.remove(id);
                }
            }
        }
        Ok(())
    }

    fn uses(&self) -> MutexGuard<'_, HashMap<Uuid, DateTime<Utc>, HashId>> {
        // A map of times is never half-changed, so poisoning is ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
