//! When a token shall stop being valid by itself.

use chrono::{DateTime, Datelike as _, Utc};

use crate::clock::to_micros;

/// A moment that lay in the future when it was checked, in whole microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry(DateTime<Utc>);

/// Why a moment is no expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpiryError {
    /// Not a point in time as protobuf defines it: years 1 to 9999, nanoseconds 0 to 999,999,999.
    #[error("is not a valid timestamp: years 1 to 9999, nanoseconds 0 to 999999999")]
    Invalid,
    /// Now or earlier.
    #[error("must be in the future; leave it unset for a token that does not expire")]
    Past,
}

impl Expiry {
    /// Checks the moment `nanos` nanoseconds after `seconds` since the Unix epoch, as protobuf's Timestamp has it.
    ///
    /// # Errors
    ///
    /// It is no valid timestamp, or not after `now`.
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

    /// The moment itself.
    pub fn at(self) -> DateTime<Utc> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_future_and_only_valid_timestamps() {
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
