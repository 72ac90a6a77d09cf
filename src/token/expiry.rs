//! The time at which a token stops being valid.

use chrono::{DateTime, Datelike as _, Utc};

use crate::clock::to_micros;

/// A time that was in the future when it was parsed, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(DateTime<Utc>);

/// Why a time is not an expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    /// Outside the range of protobuf's Timestamp: years 1 to 9999, nanoseconds 0 to 999,999,999.
    #[error("is not a valid timestamp: years 1 to 9999, nanoseconds 0 to 999999999")]
    Invalid,
    /// The time is now or earlier.
    #[error("must be in the future; leave it unset for a token that does not expire")]
    Past,
}

impl Expiry {
    /// Parses the fields of a protobuf Timestamp: seconds since the Unix epoch, and nanoseconds to add.
    ///
    /// # Errors
    ///
    /// The timestamp is out of range, or not after `now`.
    pub fn parse(seconds: i64, nanos: i32, now: DateTime<Utc>) -> Result<Self, ExpiryError> {
        let at = u32::try_from(nanos)
            .ok()
            .filter(|nanos| *nanos <= 999_999_999)
            .and_then(|nanos| DateTime::from_timestamp(seconds, nanos))
            .filter(|at| (1..=9999).contains(&at.year()))
            .map(to_micros)
            .ok_or(ExpiryError::Invalid)?;
        if at <= now { Err(ExpiryError::Past) } else { Ok(Self(at)) }
    }

    /// Returns the time of expiry.
    pub fn at(self) -> DateTime<Utc> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_timestamps_in_the_future_are_accepted() {
        let now = DateTime::from_timestamp(1_000, 0).unwrap();
        let parse =
            |seconds, nanos| Expiry::parse(seconds, nanos, now).map(|expiry| expiry.0.timestamp_micros());
        assert_eq!(parse(1_000, 1_999), Ok(1_000_000_001));
        assert_eq!(parse(253_402_300_799, 999_999_999), Ok(253_402_300_799_999_999));
        assert_eq!(parse(1_000, 999), Err(ExpiryError::Past), "less than a microsecond ahead");
        assert_eq!(parse(-62_135_596_800, 0), Err(ExpiryError::Past));
        for (seconds, nanos) in [
            (253_402_300_800, 0),
            (-62_135_596_801, 0),
            (2_000, -1),
            (2_000, 1_000_000_000),
            (i64::MAX, 0),
            (i64::MIN, 0),
        ] {
            assert_eq!(parse(seconds, nanos), Err(ExpiryError::Invalid), "{seconds} {nanos}");
        }
    }
}
