//! The lease: until when this replica may answer that a token is valid.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::clock::{Moment, since_boot};

/// The right to answer "valid". It ends by itself unless the tail extends it, so that a revocation has to wait for a replica
/// that is cut off or paused no longer than this.
#[derive(Debug)]
pub(super) struct Lease {
    start: Duration,
    duration: Duration,
    /// By the clocks of [`Moment`], in milliseconds; 0 without a lease. It is over when either clock says so.
    ends_at_boot: AtomicU64,
    ends_at_raw: AtomicU64,
    /// When the last successful read of the log began, in milliseconds since boot; 0 before the first.
    last_read: AtomicU64,
    registration: Mutex<Registration>,
    /// The epoch in which this replica is registered, if it is.
    epoch: watch::Sender<Option<Uuid>>,
    /// This replica is leaving: there is no lease any more.
    is_closed: AtomicBool,
    /// Somebody needs a renewal that begins from now on.
    pub(super) renewal_wanted: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Registration {
    id: Uuid,
    /// When the last successful renewal began, if there was one.
    renewed_at: Option<Moment>,
}

impl Lease {
    pub(super) fn new(duration: Duration) -> Self {
        Self {
            start: since_boot(),
            duration,
            ends_at_boot: AtomicU64::new(0),
            ends_at_raw: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            registration: Mutex::default(),
            epoch: watch::Sender::default(),
            is_closed: AtomicBool::new(false),
            renewal_wanted: Notify::new(),
        }
    }

    pub(super) fn duration(&self) -> Duration {
        self.duration
    }

    pub(super) fn holds(&self) -> bool {
        let now = Moment::now();
        millis(now.boot()) < self.ends_at_boot.load(Ordering::Acquire)
            && millis(now.raw()) < self.ends_at_raw.load(Ordering::Acquire)
    }

    /// How much of it is left, at most.
    pub(super) fn remaining(&self) -> Duration {
        let ends_at = self.ends_at_boot.load(Ordering::Acquire);
        Duration::from_millis(ends_at).saturating_sub(since_boot())
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

    /// The id of the last registration of this replica; nil before the first.
    pub(super) fn registration(&self) -> Uuid {
        self.lock_registration().id
    }

    /// Whether a renewal of the present registration has succeeded that began after `moment`.
    pub(super) fn was_renewed_since(&self, moment: Moment) -> bool {
        let renewed_at = self.lock_registration().renewed_at;
        renewed_at.is_some_and(|renewed_at| renewed_at.boot() >= moment.boot())
    }

    /// This replica has registered under this id. It has no lease yet.
    pub(super) fn registers(&self, id: Uuid) {
        *self.lock_registration() = Registration { id, renewed_at: None };
    }

    /// A renewal has succeeded that began at this moment.
    pub(super) fn is_renewed(&self, began: Moment) {
        self.lock_registration().renewed_at = Some(began);
    }

    /// Extends the lease. Everything that was revoked before `read` is evicted; `renewed` is when the last successful
    /// renewal began, or the registration.
    pub(super) fn extend(&self, read: Moment, renewed: Moment) {
        if self.is_closed() {
            return;
        }
        self.last_read.store(millis(read.boot()), Ordering::Release);
        let from = read.min(renewed);
        self.ends_at_boot.store(millis(from.boot() + self.duration), Ordering::Release);
        self.ends_at_raw.store(millis(from.raw() + self.duration), Ordering::Release);
    }

    /// Ends the lease at once. This replica counts as not registered.
    pub(super) fn end(&self) {
        self.ends_at_boot.store(0, Ordering::Release);
        self.ends_at_raw.store(0, Ordering::Release);
        self.lock_registration().renewed_at = None;
        self.epoch.send_replace(None);
    }

    /// Ends the lease for good.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Release);
        self.end();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// Sets the epoch in which this replica is registered.
    pub(super) fn set_epoch(&self, epoch: Option<Uuid>) {
        self.epoch.send_if_modified(|known| std::mem::replace(known, epoch) != epoch);
    }

    fn lock_registration(&self) -> MutexGuard<'_, Registration> {
        // A registration is never half-written, so poisoning is ignored.
        self.registration.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(5);

    fn ago(span: Duration) -> Moment {
        let now = Moment::now();
        Moment::new(now.boot().saturating_sub(span), now.raw().saturating_sub(span))
    }

    #[test]
    fn it_lasts_for_its_duration_from_the_earlier_of_read_and_renewal() {
        let lease = Lease::new(LEASE);
        assert!(!lease.holds(), "nothing was read yet");
        let (now, earlier) = (Moment::now(), ago(Duration::from_secs(6)));
        for (read, renewed, holds) in [(now, now, true), (now, earlier, false), (earlier, now, false)] {
            lease.extend(read, renewed);
            assert_eq!(lease.holds(), holds, "{read:?} {renewed:?}");
        }
        lease.extend(now, now);
        lease.end();
        assert!(!lease.holds());
        let lease = Lease::new(Duration::ZERO);
        lease.extend(Moment::now(), Moment::now());
        assert!(!lease.holds());
    }

    /// A clock that chrony slows down, or that does not count suspension, does not make it longer.
    #[test]
    fn it_is_over_when_either_clock_says_so() {
        let now = Moment::now();
        let earlier = ago(Duration::from_secs(6));
        for begun in [Moment::new(now.boot(), earlier.raw()), Moment::new(earlier.boot(), now.raw())] {
            let lease = Lease::new(LEASE);
            lease.extend(begun, begun);
            assert!(!lease.holds(), "{begun:?}");
        }
    }

    #[test]
    fn it_is_not_extended_once_it_is_closed() {
        let lease = Lease::new(LEASE);
        lease.close();
        lease.extend(Moment::now(), Moment::now());
        assert!(!lease.holds());
    }

    #[test]
    fn a_renewal_counts_for_its_registration_and_for_what_was_before_it_began() {
        let lease = Lease::new(LEASE);
        let before = ago(Duration::from_secs(1));
        lease.registers(Uuid::now_v7());
        assert!(!lease.was_renewed_since(before));
        lease.is_renewed(Moment::now());
        assert!(lease.was_renewed_since(before));
        let after = Moment::now();
        assert!(!lease.was_renewed_since(Moment::new(after.boot() + LEASE, after.raw() + LEASE)));
        lease.registers(Uuid::now_v7());
        assert!(!lease.was_renewed_since(before));
    }
}
