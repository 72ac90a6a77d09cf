//! The clock that everything which stores or compares a time uses.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};

/// The system's clock, or a manual one for tests. Clones share their time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Microseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Returns the system's clock.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// Returns a clock that shows `now` until it is advanced.
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(now.timestamp_micros()))))
    }

    /// Returns the current time in whole microseconds, the precision that every supported database stores.
    pub fn now(&self) -> DateTime<Utc> {
        match &self.0 {
            Source::System => to_micros(system_now()),
            Source::Manual(micros) => from_micros(micros.load(Ordering::SeqCst)),
        }
    }

    /// Advances a manual clock. Does nothing to the system's clock.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Manual(micros) = &self.0 {
            micros.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "only this function reads the system's clock")]
fn system_now() -> DateTime<Utc> {
    Utc::now()
}

/// Truncates `at` to whole microseconds.
pub(crate) fn to_micros(at: DateTime<Utc>) -> DateTime<Utc> {
    from_micros(at.timestamp_micros())
}

fn from_micros(micros: i64) -> DateTime<Utc> {
    // In range: the number comes from a valid time, or from a test.
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_it_is_advanced() {
        let clock = Clock::manual(DateTime::from_timestamp(1_000, 1_999).unwrap());
        let same = clock.clone();
        assert_eq!(clock.now(), DateTime::from_timestamp(1_000, 1_000).unwrap());
        same.advance(TimeDelta::seconds(2));
        assert_eq!(clock.now(), DateTime::from_timestamp(1_002, 1_000).unwrap());
    }
}
