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
    /// A renewal has succeeded.
    pub(super) renewed: Notify,
}

#[derive(Clone, Copy, Debug, Default)]
struct Registration {
    id: Uuid,
    /// Its lease is over for good.
    is_void: bool,
    /// When the last read of the log that counts began, if there was one.
    read_at: Option<Moment>,
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
            renewed: Notify::new(),
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
        *self.lock_registration() = Registration { id, ..Registration::default() };
    }

    /// A renewal has succeeded that began at this moment.
    pub(super) fn is_renewed(&self, began: Moment) {
        self.lock_registration().renewed_at = Some(began);
        self.renewed.notify_one();
    }

    /// Extends the lease of the registration `id`, and returns whether it did: not once it is void. Everything that was
    /// revoked before `read` is evicted; `renewed` is when the last successful renewal began, or the registration.
    pub(super) fn extend(&self, id: Uuid, read: Moment, renewed: Moment) -> bool {
        let mut registration = self.lock_registration();
        if self.is_closed() || registration.is_void || registration.id != id {
            return false;
        }
        registration.read_at = Some(read);
        self.last_read.store(millis(read.boot()), Ordering::Release);
        let from = read.min(renewed);
        self.ends_at_boot.store(millis(from.boot() + self.duration), Ordering::Release);
        self.ends_at_raw.store(millis(from.raw() + self.duration), Ordering::Release);
        true
    }

    /// Ends the lease for good if its last read of the log began longer ago than `bound`, and returns the registration,
    /// whose row can then be removed: nobody has to wait for it.
    pub(super) fn give_up_if_behind(&self, bound: Duration) -> Option<Uuid> {
        let mut registration = self.lock_registration();
        let is_behind =
            registration.read_at.is_some_and(|read_at| Moment::now().at_least_since(read_at) > bound);
        if registration.is_void || !is_behind {
            return None;
        }
        self.void(&mut registration);
        Some(registration.id)
    }

    /// Ends the lease at once. This replica counts as not registered.
    pub(super) fn end(&self) {
        self.void(&mut self.lock_registration());
    }

    fn void(&self, registration: &mut Registration) {
        registration.is_void = true;
        registration.renewed_at = None;
        self.ends_at_boot.store(0, Ordering::Release);
        self.ends_at_raw.store(0, Ordering::Release);
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
        let id = Uuid::now_v7();
        let lease = registered(LEASE, id);
        assert!(!lease.holds(), "nothing was read yet");
        let (now, earlier) = (Moment::now(), ago(Duration::from_secs(6)));
        for (read, renewed, holds) in [(now, now, true), (now, earlier, false), (earlier, now, false)] {
            assert!(lease.extend(id, read, renewed));
            assert_eq!(lease.holds(), holds, "{read:?} {renewed:?}");
        }
        lease.extend(id, now, now);
        lease.end();
        assert!(!lease.holds());
        let lease = registered(Duration::ZERO, id);
        lease.extend(id, Moment::now(), Moment::now());
        assert!(!lease.holds());
    }

    /// A clock that chrony slows down, or that does not count suspension, does not make it longer.
    #[test]
    fn it_is_over_when_either_clock_says_so() {
        let now = Moment::now();
        let earlier = ago(Duration::from_secs(6));
        for begun in [Moment::new(now.boot(), earlier.raw()), Moment::new(earlier.boot(), now.raw())] {
            let id = Uuid::now_v7();
            let lease = registered(LEASE, id);
            lease.extend(id, begun, begun);
            assert!(!lease.holds(), "{begun:?}");
        }
    }

    #[test]
    fn it_is_not_extended_once_its_registration_is_void() {
        let (now, id) = (Moment::now(), Uuid::now_v7());
        type End = fn(&Lease);
        let ends: [End; 4] = [
            |lease| lease.end(),
            |lease| lease.close(),
            |lease| lease.registers(Uuid::now_v7()),
            |lease| assert!(lease.give_up_if_behind(Duration::ZERO).is_some()),
        ];
        for end in ends {
            let lease = registered(LEASE, id);
            assert!(lease.extend(id, now, now));
            end(&lease);
            assert!(!lease.extend(id, now, now));
        }
    }

    #[test]
    fn who_has_read_lately_gives_nothing_up() {
        let id = Uuid::now_v7();
        let lease = registered(LEASE, id);
        assert_eq!(lease.give_up_if_behind(LEASE), None, "nothing was read yet");
        lease.extend(id, Moment::now(), Moment::now());
        assert_eq!(lease.give_up_if_behind(LEASE), None);
        assert!(lease.holds());
        lease.extend(id, ago(Duration::from_secs(3)), Moment::now());
        assert_eq!(lease.give_up_if_behind(LEASE / 2), Some(id));
        assert!(!lease.holds());
        assert_eq!(lease.give_up_if_behind(LEASE / 2), None, "once");
    }

    #[test]
    fn a_renewal_counts_for_its_registration_and_for_what_was_before_it_began() {
        let before = ago(Duration::from_secs(1));
        let lease = registered(LEASE, Uuid::now_v7());
        assert!(!lease.was_renewed_since(before));
        lease.is_renewed(Moment::now());
        assert!(lease.was_renewed_since(before));
        let after = Moment::now();
        assert!(!lease.was_renewed_since(Moment::new(after.boot() + LEASE, after.raw() + LEASE)));
        lease.registers(Uuid::now_v7());
        assert!(!lease.was_renewed_since(before));
    }

    fn registered(duration: Duration, id: Uuid) -> Lease {
        let lease = Lease::new(duration);
        lease.registers(id);
        lease
    }
}
