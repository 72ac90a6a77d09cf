//! Whether the database is known to be out of reach.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::StoreError;

/// What the health check last found. Calls fail at once during an outage instead of each waiting for a timeout, and
/// connections from before it are not used afterwards: some of them hang.
#[derive(Debug)]
pub(super) struct Reachability {
    start: Instant,
    away: AtomicBool,
    /// When the last outage or failover ended, in milliseconds since `start`; 0 if there was none.
    recovered_at: AtomicU64,
}

impl Reachability {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), away: AtomicBool::new(false), recovered_at: AtomicU64::new(0) }
    }

    /// # Errors
    ///
    /// [`StoreError::Away`] during an outage.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::Acquire) { Err(StoreError::Away) } else { Ok(()) }
    }

    pub(super) fn report(&self, reachable: bool) {
        if !reachable {
            self.away.store(true, Ordering::Release);
        } else if self.away.load(Ordering::Acquire) {
            self.distrust_older_connections();
            self.away.store(false, Ordering::Release);
        }
    }

    pub(super) fn distrust_older_connections(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.recovered_at.store(now.max(1), Ordering::Release);
    }

    /// Whether an outage or a failover ended less than `age` ago.
    pub(super) fn had_outage_within(&self, age: Duration) -> bool {
        let recovered_at = self.recovered_at.load(Ordering::Acquire);
        recovered_at > 0 && self.start.elapsed().saturating_sub(Duration::from_millis(recovered_at)) < age
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_fail_during_an_outage_and_older_connections_are_not_trusted_after_it() {
        let reachability = Reachability::new();
        let (old, new) = (Duration::from_secs(3_600), Duration::ZERO);
        assert!(reachability.check().is_ok() && !reachability.had_outage_within(old));
        reachability.report(false);
        assert!(matches!(reachability.check(), Err(StoreError::Away)));
        reachability.report(true);
        assert!(reachability.check().is_ok());
        assert!(reachability.had_outage_within(old) && !reachability.had_outage_within(new));
    }
}
