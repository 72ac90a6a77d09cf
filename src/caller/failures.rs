//! Wrong credentials, by the address that sends them.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use governor::{
    DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};

use crate::listener::network;

/// Wrong credentials that an address may send in a minute.
const FAILURES_A_MINUTE: NonZeroU32 = NonZeroU32::new(60).unwrap();
/// Addresses that are remembered; with more, those that have not failed lately are dropped.
const ADDRESSES: usize = 10_000;
/// Wrong credentials between two looks at whether there are more.
const CLEAN_EVERY: usize = 1_024;

/// Limits the wrong credentials of each address.
pub(super) struct Failures {
    limiter: DefaultKeyedRateLimiter<IpAddr>,
    /// Until when an address may not try costly credentials.
    blocked: quick_cache::sync::Cache<IpAddr, Instant>,
    /// Wrong credentials so far.
    notes: AtomicUsize,
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Failures")
    }
}

impl Default for Failures {
    fn default() -> Self {
        Self {
            limiter: DefaultKeyedRateLimiter::keyed(Quota::per_minute(FAILURES_A_MINUTE)),
            blocked: quick_cache::sync::Cache::new(ADDRESSES),
            notes: AtomicUsize::new(0),
        }
    }
}

impl Failures {
    /// Returns whether too many credentials of the address were wrong.
    pub(super) fn are_too_many(&self, address: IpAddr) -> bool {
        self.blocked.get(&network(address)).is_some_and(|until| Instant::now() < until)
    }

    /// Notes a wrong credential. Returns how long to wait before the next, if there were too many.
    pub(super) fn note(&self, address: IpAddr) -> Option<Duration> {
        // Looking at all of them each time would let many addresses use up the processor.
        let notes = self.notes.fetch_add(1, Ordering::Relaxed);
        if notes.is_multiple_of(CLEAN_EVERY) && self.limiter.len() > ADDRESSES {
            self.limiter.retain_recent();
        }
        let address = network(address);
        let refused = self.limiter.check_key(&address).err()?;
        let wait = refused.wait_time_from(DefaultClock::default().now());
        self.blocked.insert(address, Instant::now() + wait);
        Some(wait)
    }
}
