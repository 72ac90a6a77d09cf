//! Purging: which rows are no longer kept.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{TokenRegistry, repeat};
use crate::{
    clock::Clock,
    store::{LogPosition, Outdated, Store, StoreError},
};

/// How long rows are kept that no call needs any more. The rows of deleted accounts are kept for good.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// How long an event stays in the audit log.
    pub events: Duration,
    /// How long a token is kept after it was revoked or has expired, or its account was deleted.
    pub tokens: Duration,
}

/// Rows that were purged, by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PurgedRows {
    /// Rows of `tokens`.
    pub tokens: u64,
    /// Rows of `token_events`.
    pub events: u64,
    /// Rows of `create_requests`.
    pub requests: u64,
}

impl PurgedRows {
    /// The number for the table that such rows are in.
    fn of(&mut self, outdated: &Outdated) -> &mut u64 {
        match outdated {
            Outdated::Events { .. } => &mut self.events,
            Outdated::CreateRequests { .. } => &mut self.requests,
            Outdated::RevokedTokens { .. }
            | Outdated::ExpiredTokens { .. }
            | Outdated::TokensOfDeletedAccounts { .. } => &mut self.tokens,
        }
    }
}

/// The rows that this replica has purged since its start.
#[derive(Debug, Default)]
pub(super) struct PurgeCounts(Mutex<PurgedRows>);

impl PurgeCounts {
    fn rows(&self) -> MutexGuard<'_, PurgedRows> {
        // A number cannot be half-written, so poisoning is ignored.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The shortest pause between two batches.
const MIN_PAUSE: Duration = Duration::from_millis(10);

/// Purges rows that are older than their retention.
///
/// An event is purged only by the second run after it became visible. Its own time would not do: it may be written by a
/// replica whose clock is wrong, or become visible long after it happened, and a replica that has not read it yet would
/// keep the revoked token in memory.
#[derive(Debug)]
pub struct Purger {
    store: Store,
    clock: Clock,
    retention: Retention,
    counts: Arc<PurgeCounts>,
    /// The position in the log at the beginning of the previous run.
    position: Option<LogPosition>,
}

impl TokenRegistry {
    /// Returns what purges rows that are older than `retention`.
    pub fn purger(&self, retention: Retention) -> Purger {
        Purger {
            store: self.store.clone(),
            clock: self.clock.clone(),
            retention,
            counts: Arc::clone(&self.purge_counts),
            position: None,
        }
    }

    /// Returns how many rows were purged since the start.
    pub fn purged_rows(&self) -> PurgedRows {
        *self.purge_counts.rows()
    }
}

impl Purger {
    /// Purges, batch by batch, what is now older than its retention, and returns how many rows that were. Ends early if
    /// another replica is purging.
    ///
    /// # Errors
    ///
    /// The database failed; what was purged until then stays purged.
    pub async fn purge_once(&mut self) -> Result<PurgedRows, StoreError> {
        let position = self.store.log_position().await?;
        let now = self.clock.now();
        let before = ago(now, self.retention.tokens);
        let mut outdated = vec![
            Outdated::RevokedTokens { before },
            Outdated::ExpiredTokens { before },
            Outdated::TokensOfDeletedAccounts { before, now },
            Outdated::CreateRequests { before: now - repeat::WINDOW },
        ];
        if let Some(position) = self.position.replace(position) {
            outdated.push(Outdated::Events { before: ago(now, self.retention.events), position });
        }
        let mut purged = PurgedRows::default();
        for outdated in outdated {
            if !self.purge(&outdated, &mut purged).await? {
                break;
            }
        }
        if purged != PurgedRows::default() {
            let PurgedRows { tokens, events, requests } = purged;
            tracing::info!(tokens, events, requests, "purged rows that are older than their retention");
        }
        Ok(purged)
    }

    /// Purges, batch by batch, and returns whether to continue: not if another replica is purging.
    async fn purge(&self, outdated: &Outdated, purged: &mut PurgedRows) -> Result<bool, StoreError> {
        let mut next = Some(DateTime::UNIX_EPOCH);
        while let Some(from) = next {
            let began = Instant::now();
            let Some(batch) = self.store.purge_batch(outdated, from).await? else { return Ok(false) };
            *purged.of(outdated) += batch.rows;
            *self.counts.rows().of(outdated) += batch.rows;
            next = batch.next;
            if next.is_some() {
                // At least half of the time, the database is left to calls.
                tokio::time::sleep(began.elapsed().max(MIN_PAUSE)).await;
            }
        }
        Ok(true)
    }
}

/// Returns the time that was so long before `now`.
fn ago(now: DateTime<Utc>, span: Duration) -> DateTime<Utc> {
    let time = TimeDelta::from_std(span).ok().and_then(|span| now.checked_sub_signed(span));
    // Nothing is older than the epoch.
    time.unwrap_or(DateTime::UNIX_EPOCH)
}
