//! Follows the revocation log, so that what any replica revokes is evicted from this one's memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, time::timeout};

use super::cache::VerifiedTokens;
use crate::{
    clock::{Clock, MAX_CLOCK_ERROR, since_boot},
    store::{LogHead, Store, StoreError},
};

/// How long each of the two reads of a poll may take.
const READ_TIMEOUT: Duration = Duration::from_millis(400);

/// How old this replica's view of the revocation log is.
#[derive(Debug)]
pub(super) struct Freshness {
    start: Duration,
    /// Until when the view is trusted, in milliseconds since boot.
    fresh_until: AtomicU64,
    max_staleness: Duration,
}

impl Freshness {
    pub(super) fn new(max_staleness: Duration) -> Self {
        Self { start: since_boot(), fresh_until: AtomicU64::new(0), max_staleness }
    }

    pub(super) fn is_fresh(&self) -> bool {
        millis(since_boot()) < self.fresh_until.load(Ordering::Acquire)
    }

    /// How long ago the last read of the log began; before the first one, how long this replica has been running.
    pub(super) fn lag(&self) -> Duration {
        let fresh_until = Duration::from_millis(self.fresh_until.load(Ordering::Acquire));
        let last_read = fresh_until.saturating_sub(self.max_staleness).max(self.start);
        since_boot().saturating_sub(last_read)
    }

    /// All that was revoked before `at` is evicted.
    fn seen(&self, at: Duration) {
        self.fresh_until.store(millis(at + self.max_staleness), Ordering::Release);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Follows the revocation log, and evicts from memory what it tells of.
#[derive(Debug)]
pub struct RevocationTail {
    store: Store,
    clock: Clock,
    verified: Arc<VerifiedTokens>,
    freshness: Arc<Freshness>,
    epochs: watch::Sender<Option<Arc<str>>>,
    /// The state of the log whose evictions are done; `None` before the first read.
    head: Option<LogHead>,
}

impl RevocationTail {
    pub(super) fn new(
        store: Store,
        clock: Clock,
        verified: Arc<VerifiedTokens>,
        freshness: Arc<Freshness>,
        epochs: watch::Sender<Option<Arc<str>>>,
    ) -> Self {
        Self { store, clock, verified, freshness, epochs, head: None }
    }

    /// Polls the log at this interval, for ever.
    pub async fn follow(mut self, interval: Duration) {
        let (mut failing, mut wrong) = (false, false);
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let polled = self.poll_once().await;
            match &polled {
                Ok(()) if failing => tracing::info!("the revocation log is read again"),
                Err(error) if !failing => tracing::warn!(%error, "the revocation log cannot be read"),
                _ => {}
            }
            failing = polled.is_err();
            let ahead = self.clock.system_ahead();
            if wrong != (ahead.abs() > MAX_CLOCK_ERROR) {
                wrong = !wrong;
                let seconds_ahead = ahead.as_seconds_f64();
                if wrong {
                    tracing::warn!(seconds_ahead, "the clock of this machine differs from the database's");
                } else {
                    tracing::info!("the clock of this machine agrees with the database's again");
                }
            }
        }
    }

    /// Reads the log once. The cache is then trusted for `max_staleness`.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn poll_once(&mut self) -> Result<(), StoreError> {
        let began = since_boot();
        let head = timeout(READ_TIMEOUT, self.store.log_head()).await.map_err(|_| StoreError::Timeout)??;
        match head.time {
            Some(time) => self.clock.synchronise(time, began),
            None => self.clock.follow_system(),
        }
        let evictions = match &self.head {
            // A timeout counts as too many events.
            Some(from) => match timeout(READ_TIMEOUT, self.store.evictions(from, &head)).await {
                Ok(evictions) => evictions?,
                Err(_) => None,
            },
            None => None,
        };
        match evictions {
            Some(evictions) => evictions.iter().for_each(|eviction| self.verified.evict(eviction)),
            // After the head was read: what is stored from now on was looked up later than that, or is refused by its
            // ticket; and what is revoked later is found by the next read.
            None => {
                if self.head.is_some() {
                    tracing::warn!(
                        "evicted all tokens: too many revocations at once, or a restored database"
                    );
                }
                self.verified.evict_all();
            }
        }
        self.epochs.send_if_modified(|known| {
            let changed = *known != head.epoch;
            known.clone_from(&head.epoch);
            changed
        });
        self.head = Some(head);
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
        freshness.seen(since_boot());
        assert!(freshness.is_fresh());
        freshness.seen(freshness.start);
        assert!(freshness.is_fresh());
        let freshness = Freshness::new(Duration::ZERO);
        freshness.seen(since_boot());
        assert!(!freshness.is_fresh());
    }
}
