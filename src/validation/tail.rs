//! Follows the revocation log, so that what any replica revokes is evicted from this one's memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::cache::VerifiedTokens;
use crate::store::{LogCursor, Store, StoreError};

/// How long one read of the log may take.
const POLL_TIMEOUT: Duration = Duration::from_millis(400);

/// How old this replica's view of the revocation log is.
#[derive(Debug)]
pub(super) struct Freshness {
    epoch: Instant,
    /// Until when the view is trusted, in milliseconds since the epoch.
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

    /// How long ago the last read of the log began; before the first one, how long this replica has been running.
    pub(super) fn lag(&self) -> Duration {
        let fresh_until = Duration::from_millis(self.fresh_until.load(Ordering::Acquire));
        (self.epoch.elapsed() + self.max_staleness).saturating_sub(fresh_until.max(self.max_staleness))
    }

    /// All that was revoked before `at` is evicted.
    fn seen(&self, at: Instant) {
        self.fresh_until.store(self.since_epoch(at + self.max_staleness), Ordering::Release);
    }

    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from(at.duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

/// Follows the revocation log, and evicts from memory what it tells of.
#[derive(Debug)]
pub struct RevocationTail {
    store: Store,
    verified: Arc<VerifiedTokens>,
    freshness: Arc<Freshness>,
    /// `None` before the first read.
    cursor: Option<LogCursor>,
}

impl RevocationTail {
    pub(super) fn new(store: Store, verified: Arc<VerifiedTokens>, freshness: Arc<Freshness>) -> Self {
        Self { store, verified, freshness, cursor: None }
    }

    /// Polls the log at this interval, for ever.
    pub async fn follow(mut self, interval: Duration) {
        let mut failing = false;
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let polled = tokio::time::timeout(POLL_TIMEOUT, self.poll_once()).await;
            let polled = polled.map_err(|_| StoreError::Timeout).flatten();
            match &polled {
                Ok(()) if failing => tracing::info!("the revocation log is read again"),
                Err(fault) if !failing => tracing::warn!(%fault, "the revocation log cannot be read"),
                _ => {}
            }
            failing = polled.is_err();
        }
    }

    /// Reads the log once. From then on, for the greatest staleness, memory is trusted.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn poll_once(&mut self) -> Result<(), StoreError> {
        let began = Instant::now();
        let read = self.store.read_revocation_log(self.cursor.as_ref()).await?;
        // The cursor moves first: a lookup that is stored after everything was evicted began after this read, or is
        // refused by its ticket; what is revoked after this read is found by the next one.
        let is_first = self.cursor.replace(read.cursor).is_none();
        match read.evictions {
            Some(evictions) => evictions.iter().for_each(|eviction| self.verified.evict(eviction)),
            None => {
                if !is_first {
                    tracing::warn!(
                        "evicted all tokens: too many revocations at once, or a restored database"
                    );
                }
                self.verified.evict_all();
            }
        }
        self.freshness.seen(began);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
