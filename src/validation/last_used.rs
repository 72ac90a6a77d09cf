//! Notes of when tokens were last used, kept in memory and written in batches: a validation never waits for one.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::store::{Store, StoreError};

/// How many tokens are noted between two writes; the use of further ones goes unnoted until the next.
const CAPACITY: usize = 100_000;

/// The latest use of each token since the last write. A crash loses it and nothing else.
#[derive(Debug, Default)]
pub struct LastUsed(Mutex<HashMap<Uuid, DateTime<Utc>>>);

impl LastUsed {
    /// Notes that the token was used at `at`.
    pub fn note(&self, id: Uuid, at: DateTime<Utc>) {
        let mut notes = self.notes();
        if notes.len() < CAPACITY || notes.contains_key(&id) {
            let latest = notes.entry(id).or_insert(at);
            *latest = at.max(*latest);
        }
    }

    /// Writes the notes down.
    ///
    /// # Errors
    ///
    /// The database failed; the notes are kept.
    pub async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        // In the order of their ids: two replicas that write at once do not lock each other out.
        let mut notes: Vec<_> = std::mem::take(&mut *self.notes()).into_iter().collect();
        notes.sort_unstable();
        let written = store.note_used(&notes).await;
        if written.is_err() {
            notes.into_iter().for_each(|(id, at)| self.note(id, at));
        }
        written
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<Uuid, DateTime<Utc>>> {
        // A map of times is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
