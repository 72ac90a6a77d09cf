//! The time: what every comparison and every stored time uses, and how much of it has passed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use rustix::time::{ClockId, clock_gettime};

/// How wrong the system's clock may be before the service warns.
const MAX_CLOCK_ERROR: TimeDelta = TimeDelta::seconds(1);

/// A clock that shows the database's time, or one that a test sets. Clones share their time.
///
/// It runs with the time since boot, so that a change of the system's clock does not move it: a clock that is set back
/// must not make an expired token valid again.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    Running {
        /// What to add to the time since boot, in microseconds.
        offset: Arc<AtomicI64>,
        /// How wrong the system's clock is; zero but in tests.
        error: TimeDelta,
    },
    /// Microseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// Returns a clock that shows the system's time until it is synchronised.
    pub fn system() -> Self {
        Self::system_with_error(TimeDelta::zero())
    }

    /// Returns the same as if the system's clock were wrong by `error`, for tests.
    pub fn system_with_error(error: TimeDelta) -> Self {
        let clock = Self(Source::Running { offset: Arc::default(), error });
        clock.follow_system();
        clock
    }

    /// Returns a clock that shows `now` until it is advanced.
    pub fn manual(now: DateTime<Utc>) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(now.timestamp_micros()))))
    }

    /// Returns the current time in whole microseconds, the precision that every supported database stores.
    pub fn now(&self) -> DateTime<Utc> {
        from_micros(match &self.0 {
            Source::Running { offset, .. } => micros(since_boot()) + offset.load(Ordering::Relaxed),
            Source::Manual(micros) => micros.load(Ordering::SeqCst),
        })
    }

    /// Synchronises the clock with the database, which showed `time` at some moment between `asked` and now, both since
    /// boot. The error is at most half of that span.
    pub fn synchronise(&self, time: DateTime<Utc>, asked: Duration) {
        if let Source::Running { offset, .. } = &self.0 {
            let middle = asked + since_boot().saturating_sub(asked) / 2;
            offset.store(time.timestamp_micros() - micros(middle), Ordering::Relaxed);
        }
    }

    /// Synchronises the clock with the system's, which an embedded database shares.
    pub fn follow_system(&self) {
        if let Source::Running { error, .. } = self.0 {
            self.synchronise(system_now() + error, since_boot());
        }
    }

    /// Returns how far the system's clock is ahead of this one; negative when it is behind.
    pub fn system_ahead(&self) -> TimeDelta {
        match self.0 {
            Source::Running { error, .. } => system_now() + error - self.now(),
            Source::Manual(_) => TimeDelta::zero(),
        }
    }

    /// Returns whether the system's clock differs from this one by more than a second. Replicas judge expiry by the
    /// database's clock, but other programs on the same machine do not.
    pub fn system_is_wrong(&self) -> bool {
        self.system_ahead().abs() > MAX_CLOCK_ERROR
    }

    /// Advances a manual clock. Does nothing to the others.
    pub fn advance(&self, by: TimeDelta) {
        if let Source::Manual(micros) = &self.0 {
            micros.fetch_add(by.num_microseconds().unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// Returns the time since the machine was booted, suspension included (CLOCK_BOOTTIME). It never goes back.
pub fn since_boot() -> Duration {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    // Neither is negative, nor are nanoseconds a second or more.
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// A moment by two clocks of this machine: one that also counts the time in which the machine was suspended
/// (CLOCK_BOOTTIME), and one whose rate nobody adjusts (CLOCK_MONOTONIC_RAW). chrony may slew the first by 8.3 %.
///
/// Who holds a lease counts the longer of the two spans, and who waits for the end of one the shorter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    boot: Duration,
    raw: Duration,
}

impl Moment {
    /// Returns the present moment.
    pub fn now() -> Self {
        Self { boot: since_boot(), raw: read(ClockId::MonotonicRaw) }
    }

    /// Returns a moment from its times by the two clocks.
    pub const fn new(boot: Duration, raw: Duration) -> Self {
        Self { boot, raw }
    }

    /// Returns its time since boot, suspension included.
    pub fn boot(self) -> Duration {
        self.boot
    }

    /// Returns its time by the clock whose rate nobody adjusts.
    pub fn raw(self) -> Duration {
        self.raw
    }

    /// Returns the earlier one by each clock.
    pub fn min(self, other: Self) -> Self {
        Self { boot: self.boot.min(other.boot), raw: self.raw.min(other.raw) }
    }

    /// Returns how much time has passed since `earlier`, at least.
    pub fn at_least_since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot).min(self.raw.saturating_sub(earlier.raw))
    }

    /// Returns how much time has passed since `earlier`, at most.
    pub fn at_most_since(self, earlier: Self) -> Duration {
        self.boot.saturating_sub(earlier.boot).max(self.raw.saturating_sub(earlier.raw))
    }
}

#[expect(clippy::disallowed_methods, reason = "only this function reads the system's clock")]
fn system_now() -> DateTime<Utc> {
    Utc::now()
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
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

    #[test]
    fn holders_count_the_faster_clock_and_waiters_the_slower() {
        let seconds = Duration::from_secs;
        let start = Moment::new(seconds(100), seconds(50));
        // Slewed, and suspended.
        for (boot, raw) in [(104, 55), (108, 55), (160, 55)] {
            let now = Moment::new(seconds(boot), seconds(raw));
            assert_eq!(now.at_least_since(start), seconds((boot - 100).min(raw - 50)));
            assert_eq!(now.at_most_since(start), seconds((boot - 100).max(raw - 50)));
        }
        let (earlier, later) = (Moment::now(), Moment::now());
        assert_eq!(earlier.at_least_since(later), Duration::ZERO);
        assert_eq!(earlier.min(later), earlier);
    }

    #[test]
    fn a_wrong_clock_of_the_system_is_corrected_and_its_error_known() {
        let right = Clock::system();
        let slow = Clock::system_with_error(TimeDelta::hours(-1));
        let apart = |one: &Clock, two: &Clock| (one.now() - two.now()).abs();
        assert!(apart(&right, &slow) > TimeDelta::minutes(59));
        assert!(slow.system_ahead().abs() < TimeDelta::seconds(1), "nothing to compare with yet");
        slow.synchronise(right.now(), since_boot());
        assert!(apart(&right, &slow) < TimeDelta::seconds(1));
        let ahead = slow.system_ahead();
        assert!(ahead < TimeDelta::minutes(-59) && ahead > TimeDelta::minutes(-61), "{ahead}");
    }
}
