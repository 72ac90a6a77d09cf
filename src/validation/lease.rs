//! The lease: until when this replica may answer that a token is valid.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::watch;
use uuid::Uuid;

use crate::clock::since_boot;

/// The right to answer "valid". It ends by itself unless the tail extends it, so that a revocation has to wait for a replica
/// that is cut off or paused no longer than this.
#[derive(Debug)]
pub(super) struct Lease {
    start: Duration,
    duration: Duration,
    /// In milliseconds since boot; 0 without a lease.
    ends_at: AtomicU64,
    /// When the last successful read of the log began, in milliseconds since boot; 0 before the first.
    last_read: AtomicU64,
    /// The epoch in which this replica is registered, if it is.
    epoch: watch::Sender<Option<Uuid>>,
}

impl Lease {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            start: since_boot(),
            duration,
            ends_at: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            epoch: watch::Sender::default(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    pub(super) fn holds(&self) -> bool {
        millis(since_boot()) < self.ends_at.load(Ordering::Acquire)
    }

    /// How much of it is left.
    pub(super) fn remaining(&self) -> Duration {
        Duration::from_millis(self.ends_at.load(Ordering::Acquire)).saturating_sub(since_boot())
    }

    /// How long ago the last read of the log began; before the first one, how long this replica has been running.
    pub(super) fn lag(&self) -> Duration {
        let last_read = Duration::from_millis(self.last_read.load(Ordering::Acquire));
        since_boot().saturating_sub(last_read.max(self.start))
    }

    /// The epoch in which this replica is registered; `None` if it is not.
    pub(super) fn epoch(&self) -> Option<Uuid> {
        *self.epoch.borrow()
    }

    pub(super) fn epochs(&self) -> watch::Receiver<Option<Uuid>> {
        self.epoch.subscribe()
    }

    /// Extends the lease. Everything that was revoked before `read` is evicted; `renewed` is when the last successful
    /// renewal began. Both are times since boot.
    pub(super) fn extend(&self, read: Duration, renewed: Duration) {
        self.last_read.store(millis(read), Ordering::Release);
        self.ends_at.store(millis(read.min(renewed) + self.duration), Ordering::Release);
    }

    /// Ends the lease at once. This replica counts as not registered.
    pub(super) fn end(&self) {
        self.ends_at.store(0, Ordering::Release);
        self.epoch.send_replace(None);
    }

    /// Sets the epoch in which this replica is registered.
    pub(super) fn set_epoch(&self, epoch: Option<Uuid>) {
        self.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_for_its_duration_from_the_earlier_of_read_and_renewal() {
        let lease = Lease::new(Duration::from_secs(5));
        assert!(!lease.holds(), "nothing was read yet");
        let (now, earlier) = (since_boot(), since_boot().saturating_sub(Duration::from_secs(6)));
        for (read, renewed, holds) in [
            (now, now, true),
            (now, Duration::MAX - Duration::from_secs(5), true),
            (now, earlier, false),
            (earlier, now, false),
        ] {
            lease.extend(read, renewed);
            assert_eq!(lease.holds(), holds, "{read:?} {renewed:?}");
        }
        lease.extend(now, now);
        lease.end();
        assert!(!lease.holds());
        let lease = Lease::new(Duration::ZERO);
        lease.extend(since_boot(), since_boot());
        assert!(!lease.holds());
    }
}
