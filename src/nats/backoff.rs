//! Exponential backoff between attempts.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);

/// Returns the delay after the `attempt`th failure in a row, counted from 1. It doubles from 0.5 s up to 30 s.
pub(super) fn delay(attempt: u64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_up_to_a_limit() {
        let millis = |attempt| delay(attempt).as_millis();
        assert_eq!(
            [0, 1, 2, 3, 6, 7, 8, u64::MAX].map(millis),
            [500, 500, 1_000, 2_000, 16_000, 30_000, 30_000, 30_000]
        );
    }
}
