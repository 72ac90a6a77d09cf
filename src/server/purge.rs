//! Purges old rows at intervals.

use std::time::Duration;

use rand::{TryRng as _, rngs::SysRng};
use tokio_util::sync::CancellationToken;

use crate::registry::Purger;

/// Purges at this interval until `stop`.
pub(super) async fn purge_at_intervals(mut purger: Purger, interval: Duration, stop: CancellationToken) {
    let mut pause = first_pause(interval);
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        let Some(purged) = stop.run_until_cancelled(purger.purge_once()).await else { break };
        if let Err(error) = purged {
            tracing::warn!(%error, retry_in = ?interval, "old rows were not purged");
        }
        pause = interval;
    }
}

/// Returns how long after the start the first purge begins: for an interval of an hour, 5 to 15 minutes. It is random so
/// that replicas that start together do not purge together.
fn first_pause(interval: Duration) -> Duration {
    // Without randomness, it is merely not random.
    let random = SysRng.try_next_u32().unwrap_or_default();
    interval / 12 + (interval / 6).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_purge_comes_some_minutes_after_the_start() {
        const MINUTE: Duration = Duration::from_secs(60);
        let pauses: Vec<_> = (0..100).map(|_| first_pause(60 * MINUTE)).collect();
        assert!(pauses.iter().all(|pause| (5 * MINUTE..=15 * MINUTE).contains(pause)), "{pauses:?}");
        let (first, last) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        assert!(*last - *first > MINUTE, "{first:?} to {last:?}");
    }
}
