//! What became of the events so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counts since the start.
#[derive(Debug)]
pub struct EventCounts {
    handled: AtomicU64,
    redelivered: AtomicU64,
    dead_lettered: AtomicU64,
    attached: AtomicBool,
    lag: AtomicU64,
}

/// Stands for a lag that is not known.
const UNKNOWN: u64 = u64::MAX;

impl Default for EventCounts {
    fn default() -> Self {
        Self {
            handled: AtomicU64::default(),
            redelivered: AtomicU64::default(),
            dead_lettered: AtomicU64::default(),
            attached: AtomicBool::default(),
            lag: AtomicU64::new(UNKNOWN),
        }
    }
}

impl EventCounts {
    /// How many events were handled, by NATS or by HTTP.
    pub fn handled(&self) -> u64 {
        self.handled.load(Ordering::Relaxed)
    }

    /// How many messages came that had come before.
    pub fn redelivered(&self) -> u64 {
        self.redelivered.load(Ordering::Relaxed)
    }

    /// How many messages went to the dead letters.
    pub fn dead_lettered(&self) -> u64 {
        self.dead_lettered.load(Ordering::Relaxed)
    }

    /// Whether the subscriber is attached to its stream.
    pub fn is_attached(&self) -> bool {
        self.attached.load(Ordering::Relaxed)
    }

    /// How many messages of the stream were not acknowledged by any replica, when the broker was last asked; `None` when
    /// it did not answer then.
    pub fn lag(&self) -> Option<u64> {
        Some(self.lag.load(Ordering::Relaxed)).filter(|lag| *lag != UNKNOWN)
    }

    /// Counts an event whose consequences are committed.
    pub fn count_handled(&self) {
        self.handled.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was delivered before.
    pub fn count_redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that became a dead letter.
    pub fn count_dead_lettered(&self) {
        self.dead_lettered.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets whether the subscriber is attached.
    pub fn set_attached(&self, attached: bool) {
        self.attached.store(attached, Ordering::Relaxed);
    }

    /// Sets how many messages are not acknowledged; `None` when that is not known.
    pub fn set_lag(&self, lag: Option<u64>) {
        self.lag.store(lag.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }
}
