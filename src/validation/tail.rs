//! Follows the log of events, so that what is revoked by any replica is forgotten by this one.
//!
//! On PostgreSQL an event can become visible after others with greater ids: ids are handed out before the commit. So
//! what was read is read again, until it is certain that nothing can appear in it any more: an id is left behind only by
//! a read that began when every transaction that may hold a smaller one had ended.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::cache::ProvenTokens;
use crate::{
    store::{Revocations, Store, StoreError},
    token,
};

/// How long one look into the log may take.
const LOOK_TIMEOUT: Duration = Duration::from_millis(400);

/// How far the clocks of replicas may be apart; matters for the first look alone.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// How old this replica's view of the revocations is.
#[derive(Debug)]
pub(super) struct Freshness {
    epoch: Instant,
    /// Until when the view is to be trusted, in milliseconds since the epoch.
    fresh_until: AtomicU64,
    max_staleness: Duration,
}

impl Freshness {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self { epoch: Instant::now(), fresh_until: AtomicU64::new(0), max_staleness }
    }

    pub(super) fn is_fresh(&self) -> bool {
        self.since_epoch(Instant::now()) < self.fresh_until.load(Ordering::Acquire)
    }

    /// How long ago the last look began; before the first one, how long this replica has been there.
    pub(super) fn lag(&self) -> Duration {
        let fresh_until = Duration::from_millis(self.fresh_until.load(Ordering::Acquire));
        (self.epoch.elapsed() + self.max_staleness).saturating_sub(fresh_until.max(self.max_staleness))
    }

    /// All that was revoked before `at` is forgotten.
    fn seen(&self, at: Instant) {
        self.fresh_until.store(self.since_epoch(at + self.max_staleness), Ordering::Release);
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Reads the log of events, and makes this replica forget what it tells of.
#[derive(Debug)]
pub struct RevocationTail {
    store: Store,
    proven: Arc<ProvenTokens>,
    freshness: Arc<Freshness>,
    /// None before the first look.
    window: Option<Window>,
}

impl RevocationTail {
    pub(super) fn new(store: Store, proven: Arc<ProvenTokens>, freshness: Arc<Freshness>) -> Self {
        Self { store, proven, freshness, window: None }
    }

    /// Looks into the log every `poll`, for ever.
    pub async fn follow(mut self, poll: Duration) {
        let mut behind = false;
        let mut turns = tokio::time::interval(poll);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let look = tokio::time::timeout(LOOK_TIMEOUT, self.look()).await;
            let seen = look.map_err(|_| StoreError::Timeout).flatten();
            match &seen {
                Ok(()) if behind => tracing::info!("revocations are seen again"),
                Err(fault) if !behind => tracing::warn!(%fault, "revocations are not seen"),
                _ => {}
            }
            behind = seen.is_err();
        }
    }

    /// Looks into the log once. From then on, for the time of the greatest staleness, memory is trusted.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let after = match &self.window {
            Some(window) => window.after,
            None => self.first().await?,
        };
        let found = self.store.revocations(after).await?;
        let window = self.window.get_or_insert_with(|| Window::new(after, self.store.longest_write()));
        if found.last < window.last() {
            tracing::warn!(
                "the log of events is shorter than it was: another database, or an older state of it"
            );
            self.proven.forget_all();
            // The next look reads as a first one does.
            self.window = None;
            return Ok(());
        }
        self.proven.forget(window.advance(began, &found));
        self.freshness.seen(began);
        Ok(())
    }

    /// An id below which nothing can appear any more. An event is stamped with the time up to a transaction's length
    /// before it is given its id, and is visible up to another after.
    async fn first(&self) -> Result<i64, StoreError> {
        let settled = token::now() - 2 * self.store.longest_write() - CLOCK_SKEW;
        self.store.last_event_before(settled).await
    }
}

/// The part of the log that is read again and again.
#[derive(Debug)]
struct Window {
    /// Up to which id nothing can appear any more and all is read.
    after: i64,
    /// How long an event may take to appear.
    length: Duration,
    /// The ends of the log at earlier looks, each with the time at which that look was over, oldest first.
    ends: VecDeque<(Instant, i64)>,
    /// The revocations in the window that are forgotten already.
    known: HashSet<i64>,
}

impl Window {
    fn new(after: i64, length: Duration) -> Self {
        Self { after, length, ends: VecDeque::new(), known: HashSet::new() }
    }

    fn last(&self) -> i64 {
        self.ends.back().map_or(self.after, |end| end.1)
    }

    /// Takes in what a look that began at `began` found, and gives the tokens not known before.
    fn advance(&mut self, began: Instant, found: &Revocations) -> Vec<Uuid> {
        let new: Vec<Uuid> =
            found.tokens.iter().filter(|(id, _)| !self.known.contains(id)).map(|(_, token)| *token).collect();
        while let Some((_, end)) = self.ends.pop_front_if(|(over, _)| *over + self.length <= began) {
            self.after = end;
        }
        self.known = found.tokens.iter().map(|(id, _)| *id).filter(|id| *id > self.after).collect();
        if self.last() < found.last {
            self.ends.push_back((Instant::now(), found.last));
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(30);

    fn found(last: i64, ids: &[i64]) -> Revocations {
        Revocations { last, tokens: ids.iter().map(|id| (*id, Uuid::from_u128(*id as u128))).collect() }
    }

    fn ids(tokens: Vec<Uuid>) -> Vec<u128> {
        tokens.into_iter().map(|token| token.as_u128()).collect()
    }

    #[test]
    fn what_appears_late_is_seen_and_nothing_is_told_twice() {
        let mut window = Window::new(0, LENGTH);
        let start = Instant::now();
        assert_eq!(ids(window.advance(start, &found(7, &[5, 7]))), [5, 7]);
        assert_eq!(ids(window.advance(start, &found(7, &[5, 6, 7]))), [6]);
        assert_eq!(window.after, 0);
        // All transactions of the time of the first look are over: this look reads 7 and below for the last time.
        let later = Instant::now() + LENGTH;
        assert_eq!(ids(window.advance(later, &found(9, &[4, 5, 6, 7, 9]))), [4, 9]);
        assert_eq!((window.after, window.last()), (7, 9));
        assert_eq!(window.known, HashSet::from([9]));
    }

    #[test]
    fn where_ids_appear_in_order_nothing_is_read_again() {
        let mut window = Window::new(0, Duration::ZERO);
        window.advance(Instant::now(), &found(7, &[5]));
        assert_eq!(ids(window.advance(Instant::now(), &found(7, &[5]))), [0; 0]);
        assert_eq!(window.after, 7);
    }

    #[test]
    fn a_view_is_trusted_for_its_time_and_no_longer() {
        let freshness = Freshness::new(Duration::from_secs(5));
        assert!(!freshness.is_fresh(), "nothing was seen yet");
        freshness.seen(Instant::now());
        assert!(freshness.is_fresh());
        freshness.seen(freshness.epoch);
        assert!(freshness.is_fresh());
        let freshness = Freshness::new(Duration::ZERO);
        freshness.seen(Instant::now());
        assert!(!freshness.is_fresh());
    }
}
