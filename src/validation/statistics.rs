//! What validation has done since the start, for metrics.

use std::{sync::atomic::Ordering, time::Duration};

use chrono::{DateTime, Utc};

use super::{Authenticator, WaitStatistics};

/// What validation has done since the start.
#[derive(Clone, Copy, Debug)]
pub struct ValidationStatistics {
    /// Validations that the cache answered.
    pub hits: u64,
    /// Validations that it did not answer.
    pub misses: u64,
    /// Tokens in the cache now.
    pub entries: usize,
    /// How long ago the last successful read of the revocation log began.
    pub tail_lag: Duration,
    /// How much is left of the lease; zero without one.
    pub lease: Duration,
    /// Events that were read from the revocation log.
    pub events_read: u64,
    /// Failovers and restores of the database that were noticed.
    pub epoch_changes: u64,
    /// The other replicas, as of the last read.
    pub other_replicas: u64,
    /// When another replica last renewed its lease, of the one for which that is longest ago.
    pub oldest_renewal: Option<DateTime<Utc>>,
    /// What waiting for the other replicas has cost.
    pub waits: WaitStatistics,
}

impl Authenticator {
    /// Returns what validation has done since the start.
    pub fn statistics(&self) -> ValidationStatistics {
        ValidationStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: self.verified.len(),
            tail_lag: self.lease.lag(),
            lease: self.lease.remaining(),
            events_read: self.tail.events.load(Ordering::Relaxed),
            epoch_changes: self.tail.epoch_changes.load(Ordering::Relaxed),
            other_replicas: self.replicas.counters.others.load(Ordering::Relaxed),
            oldest_renewal: match self.replicas.counters.oldest_renewal.load(Ordering::Relaxed) {
                0 => None,
                micros => DateTime::from_timestamp_micros(micros),
            },
            waits: self.replicas.statistics(),
        }
    }
}
