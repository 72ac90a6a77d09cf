//! Counters of events, for the metrics.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters since the process started, and the state of the subscriber.
#[derive(Debug)]
pub struct EventCounts {
    handled: AtomicU64,
    redelivered: AtomicU64,
    dead_lettered: AtomicU64,
    replayed: AtomicU64,
    attached: AtomicBool,
    lag: AtomicU64,
}

/// Represents a lag that is not known.
const UNKNOWN: u64 = u64::MAX;

impl Default for EventCounts {
    fn default() -> Self {
        Self {
            handled: AtomicU64::default(),
            redelivered: AtomicU64::default(),
            dead_lettered: AtomicU64::default(),
            replayed: AtomicU64::default(),
            attached: AtomicBool::default(),
            lag: AtomicU64::new(UNKNOWN),
        }
    }
}

impl EventCounts {
    /// Returns how many events were handled, over NATS or HTTP.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// Returns how many messages were redelivered.
    pub fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// Returns how many messages were copied to the dead letters.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered.load(Ordering::Relaxed)
    }

    /// Returns how many events were applied again by a replay, because the database had lost them.
    pub fn replayed(&self) -> u64 {
        self.replayed.load(Ordering::Relaxed)
    }

    /// Returns whether the subscriber is attached to its stream.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// Returns how many messages no replica has acknowledged yet, as of the last check; `None` if that is not known.
    pub fn lag(&self) -> Option<u64> {
        Some(self.lag.load(Ordering::Relaxed)).filter(|lag| *lag != UNKNOWN)
    }

    /// Counts an event whose transaction has committed.
    pub fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was redelivered.
    pub fn count_redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was copied to the dead letters.
    pub fn count_dead_lettered(&self) {
        self.dead_lettered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an event that was applied again by a replay.
    pub fn count_replayed(&self) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether the subscriber is attached.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }

    /// Sets how many messages no replica has acknowledged yet; `None` if that is not known.
    pub fn set_lag(&self, lag: Option<u64>) {
        self.lag.store(lag.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}
