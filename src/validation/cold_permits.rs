//! The bound on cold lookups, of which a flood of made-up tokens gets only a share.
//!
//! Well-formed tokens with made-up ids, or with one real id and many wrong secrets, would otherwise take every permit and
//! every connection, and no real token that is not in memory could be looked up.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::store::Share;

/// Lookups that may be part of a flood get one permit in so many.
const LIMITED_PART: usize = 4;

/// The permits of cold lookups.
#[derive(Debug)]
pub(super) struct ColdPermits {
    all: Semaphore,
    /// `None` if there is no key ring, so that no id can be vouched for.
    limited: Option<Semaphore>,
    vouched: VouchedIds,
}

/// The permit of one lookup.
#[derive(Debug)]
pub(super) struct ColdPermit<'a> {
    _all: SemaphorePermit<'a>,
    kind: Kind<'a>,
}

#[derive(Debug)]
enum Kind<'a> {
    /// There is no key ring.
    Any,
    /// The only lookup of an id that is vouched for.
    Vouched { _id: VouchedId<'a> },
    /// All others.
    Limited { _permit: SemaphorePermit<'a> },
}

impl ColdPermits {
    /// Returns permits for `lookups` lookups at once.
    pub(super) fn new(lookups: usize, can_vouch: bool) -> Self {
        let limited = can_vouch.then(|| Semaphore::new((lookups / LIMITED_PART).max(1)));
        Self { all: Semaphore::new(lookups), limited, vouched: VouchedIds::default() }
    }

    /// Returns a permit for a lookup of `id`, or `None` if all of its kind are in use.
    pub(super) fn acquire(&self, id: Uuid, vouches_for: impl FnOnce(Uuid) -> bool) -> Option<ColdPermit<'_>> {
        let kind = match &self.limited {
            None => Kind::Any,
            Some(limited) => match vouches_for(id).then(|| self.vouched.add(id)).flatten() {
                Some(id) => Kind::Vouched { _id: id },
                None => Kind::Limited { _permit: limited.try_acquire().ok()? },
            },
        };
        Some(ColdPermit { _all: self.all.try_acquire().ok()?, kind })
    }
}

impl ColdPermit<'_> {
    /// Returns the share of the database's connections that the lookup may use.
    pub(super) fn share(&self) -> Share {
        match self.kind {
            Kind::Any | Kind::Vouched { .. } => Share::All,
            Kind::Limited { .. } => Share::Half,
        }
    }
}

/// The ids of the lookups of kind [`Kind::Vouched`].
#[derive(Debug, Default)]
struct VouchedIds(Mutex<HashSet<Uuid>>);

impl VouchedIds {
    /// Adds an id until the returned guard is dropped; `None` if it is there.
    fn add(&self, id: Uuid) -> Option<VouchedId<'_>> {
        let is_new = self.lock().insert(id);
        // Not `then_some`, which would make a guard and drop it.
        is_new.then(|| VouchedId { ids: self, id })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Uuid>> {
        // No code panics while it changes the set, so poisoning is ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes its id when it is dropped.
#[derive(Debug)]
struct VouchedId<'a> {
    ids: &'a VouchedIds,
    id: Uuid,
}

impl Drop for VouchedId<'_> {
    fn drop(&mut self) {
        self.ids.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes as many permits as there are.
    fn take(permits: &ColdPermits, mut id: impl FnMut() -> Uuid, is_vouched: bool) -> Vec<ColdPermit<'_>> {
        std::iter::from_fn(|| permits.acquire(id(), |_| is_vouched)).collect()
    }

    #[test]
    fn ids_that_nobody_vouches_for_get_a_quarter_and_at_least_one() {
        for (lookups, limited) in [(1, 1), (3, 1), (4, 1), (16, 4), (256, 64)] {
            let permits = ColdPermits::new(lookups, true);
            assert_eq!(take(&permits, Uuid::now_v7, true).len(), lookups);
            let flood = take(&permits, Uuid::now_v7, false);
            assert_eq!(flood.len(), limited);
            assert!(flood.iter().all(|permit| permit.share() == Share::Half));
            let others = take(&permits, Uuid::now_v7, true);
            assert_eq!(others.len(), lookups - limited);
            assert!(others.iter().all(|permit| permit.share() == Share::All));
        }
    }

    #[test]
    fn many_secrets_for_one_id_get_a_quarter_too() {
        let permits = ColdPermits::new(16, true);
        for _ in 0..2 {
            let flood = take(&permits, || Uuid::from_u128(1), true);
            assert_eq!(flood.len(), 1 + 4);
            assert_eq!(take(&permits, Uuid::now_v7, true).len(), 16 - 5);
        }
    }

    #[test]
    fn a_refused_lookup_holds_nothing() {
        let permits = ColdPermits::new(4, true);
        let all = take(&permits, Uuid::now_v7, true);
        assert!(permits.acquire(Uuid::from_u128(1), |_| true).is_none());
        assert!(permits.acquire(Uuid::from_u128(2), |_| false).is_none());
        drop(all);
        assert_eq!(permits.acquire(Uuid::from_u128(1), |_| true).unwrap().share(), Share::All);
        assert!(permits.acquire(Uuid::from_u128(2), |_| false).is_some());
    }

    #[test]
    fn without_a_key_ring_every_lookup_may_have_any_permit() {
        let permits = ColdPermits::new(16, false);
        let all = take(&permits, Uuid::now_v7, false);
        assert_eq!(all.len(), 16);
        assert!(all.iter().all(|permit| permit.share() == Share::All));
    }
}
