//! Follows the revocation log, so that what any replica revokes is evicted from this one's memory, and keeps the lease that
//! lets other replicas rely on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle, time::timeout};
use uuid::Uuid;

use super::{cache::VerifiedTokens, lease::Lease, replica_watch::Reaper, transitions::Transitions};
use crate::{
    clock::{Clock, since_boot},
    store::{LogHead, Renewer, Store, StoreError},
};

/// What the tail has done since the start.
#[derive(Debug, Default)]
pub(super) struct TailCounters {
    pub(super) events: AtomicU64,
    pub(super) epoch_changes: AtomicU64,
    pub(super) other_replicas: AtomicU64,
    /// When another replica last renewed its lease, of the one for which that is longest ago: microseconds since the Unix
    /// epoch, or 0.
    pub(super) oldest_renewal: AtomicI64,
}

/// How long ago the last read may be. Events stay in the log for an hour at least before they are purged.
const LONGEST_GAP: Duration = Duration::from_secs(20 * 60);

/// Follows the revocation log, and evicts from memory what it tells of.
///
/// The order is what makes a revocation complete when the call returns: a replica registers before it uses its memory,
/// evicts before it says what it has seen, and counts its lease from when a read or a renewal began
/// (docs/decisions/0014-ok-means-everywhere.md).
#[derive(Debug)]
pub struct RevocationTail {
    id: Uuid,
    store: Store,
    clock: Clock,
    verified: Arc<VerifiedTokens>,
    lease: Arc<Lease>,
    counters: Arc<TailCounters>,
    /// How long a read may take.
    bound: Duration,
    is_registered: bool,
    /// The epoch that was read last.
    epoch: Option<Uuid>,
    /// The state of the log whose evictions are done; `None` before the first read.
    head: Option<LogHead>,
    /// When the last read and the last renewal began, since boot.
    read_at: Duration,
    renewed_at: Duration,
    /// Whether other replicas may wait for this one to say what it has seen.
    is_awaited: bool,
    renewal: Option<Renewal>,
    renewer: Option<Renewer>,
    reaper: Reaper,
}

/// A renewal of the lease in progress, apart from the reads: its COMMIT may take long.
#[derive(Debug)]
struct Renewal {
    began: Duration,
    task: JoinHandle<(Renewer, Result<bool, StoreError>)>,
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RevocationTail {
    pub(super) fn new(
        id: Uuid,
        store: Store,
        clock: Clock,
        verified: Arc<VerifiedTokens>,
        lease: Arc<Lease>,
        counters: Arc<TailCounters>,
        bound: Duration,
    ) -> Self {
        Self {
            id,
            store,
            clock,
            verified,
            lease,
            counters,
            bound,
            is_registered: false,
            epoch: None,
            head: None,
            read_at: Duration::ZERO,
            renewed_at: Duration::ZERO,
            is_awaited: false,
            renewal: None,
            renewer: None,
            reaper: Reaper::default(),
        }
    }

    /// Polls the log at this interval and whenever another replica asks for it, and renews the lease, for ever.
    pub async fn follow(mut self, interval: Duration) {
        let mut log = Transitions::default();
        let woken = Notify::new();
        let (id, store) = (self.id, self.store.clone());
        let listen = || Box::pin(store.listen_for_others(id, &woken));
        let mut listening = listen();
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut relisten = false;
        loop {
            tokio::select! {
                _ = turns.tick() => {
                    if relisten {
                        listening = listen();
                        relisten = false;
                    }
                }
                () = woken.notified() => self.is_awaited = true,
                // Again at the next turn, so that a database that refuses is not asked all the time.
                _ = &mut listening, if !relisten => relisten = true,
                renewed = finished(&mut self.renewal) => {
                    log.renewed(&renewed.result);
                    self.after_renewal(renewed).await;
                    continue;
                }
            }
            let polled = self.poll_once().await;
            // The connection that listens may hang too, and would not tell.
            relisten |= polled.is_ok() && log.read_fails;
            log.read(&polled);
            log.clock(&self.clock);
            if polled.is_ok() {
                self.renew_if_due();
            } else {
                // It would hang as well; and the next one finds the database as it is then.
                self.renewal = None;
            }
        }
    }

    /// Reads the log once, and registers this replica if it is not registered.
    ///
    /// # Errors
    ///
    /// The database failed.
    pub async fn poll_once(&mut self) -> Result<(), StoreError> {
        // Once more if this replica has to register anew.
        for _ in 0..2 {
            self.register().await?;
            let began = since_boot();
            let head = within(self.bound, self.store.log_head(self.id)).await?;
            match head.time {
                Some(time) => self.clock.synchronise(time, began),
                None => self.clock.follow_system(),
            }
            let has_failed_over = self.epoch.is_some() && self.epoch != head.epoch;
            self.epoch = head.epoch.or(self.epoch);
            if head.is_registered && !has_failed_over {
                self.evict(&head).await?;
                self.lease.set_epoch(head.epoch);
                self.count_others(&head);
                self.is_awaited |= head.other_replicas > 0
                    && self
                        .head
                        .as_ref()
                        .is_none_or(|last| !self.store.can_fail_over() && head.is_ahead_of(last));
                self.head = Some(head);
                self.read_at = began;
                self.extend_lease();
                return Ok(());
            }
            if has_failed_over {
                self.counters.epoch_changes.fetch_add(1, Ordering::Relaxed);
                tracing::warn!("the database crashed, failed over or was restored: evicted all tokens");
                self.store.discard_connections();
            } else {
                tracing::warn!("another replica has removed this one: evicted all tokens");
            }
            self.start_over();
        }
        Err(StoreError::FailedOver)
    }

    /// Registers this replica unless it is registered. That counts as a renewal.
    async fn register(&mut self) -> Result<(), StoreError> {
        if !self.is_registered {
            let began = since_boot();
            self.store.register_replica(self.id, self.lease.duration(), self.clock.now()).await?;
            self.is_registered = true;
            self.renewed_at = began;
        }
        Ok(())
    }

    /// Gives up the lease and everything in memory.
    fn start_over(&mut self) {
        self.lease.end();
        self.verified.evict_all();
        self.head = None;
        self.is_registered = false;
        self.renewal = None;
        self.renewer = None;
    }

    /// Evicts what was revoked since the last read.
    async fn evict(&mut self, head: &LogHead) -> Result<(), StoreError> {
        let is_recent = since_boot().saturating_sub(self.read_at) < LONGEST_GAP;
        let evictions = match &self.head {
            Some(from) if is_recent => match within(self.bound, self.store.evictions(from, head)).await {
                Ok(evictions) => evictions,
                // A timeout counts as too many events.
                Err(StoreError::Timeout) => None,
                Err(error) => return Err(error),
            },
            _ => None,
        };
        match evictions {
            Some(evictions) => {
                evictions.iter().for_each(|eviction| self.verified.evict(eviction));
                self.counters.events.fetch_add(evictions.len() as u64, Ordering::Relaxed);
                // Who revoked it waits.
                self.is_awaited |= !evictions.is_empty() && head.other_replicas > 0;
            }
            // After the head was read: what is stored from now on was looked up later than that, or is refused by its
            // ticket; and what is revoked later is found by the next read.
            None => {
                if self.head.is_some() {
                    tracing::warn!(
                        "evicted all tokens: too many revocations to read, or a restored database"
                    );
                }
                self.is_awaited |= head.other_replicas > 0;
                self.verified.evict_all();
            }
        }
        Ok(())
    }

    fn count_others(&self, head: &LogHead) {
        self.counters.other_replicas.store(head.other_replicas, Ordering::Relaxed);
        let oldest = head.oldest_renewal.map_or(0, |at| at.timestamp_micros());
        self.counters.oldest_renewal.store(oldest, Ordering::Relaxed);
    }

    fn extend_lease(&mut self) {
        // Nobody can take a SQLite file away from its readers, and without another replica nobody removes this one's row.
        if self.is_alone_on_a_file() {
            self.renewed_at = self.read_at;
        }
        self.lease.extend(self.read_at, self.renewed_at);
    }

    fn is_alone_on_a_file(&self) -> bool {
        !self.store.can_fail_over() && self.head.as_ref().is_some_and(|head| head.other_replicas == 0)
    }

    /// Starts a renewal if a third of the lease has passed since the last one, or others wait for what was read.
    fn renew_if_due(&mut self) {
        let Some(head) = self.head.clone() else { return };
        let began = since_boot();
        let is_due = !self.is_alone_on_a_file() && began >= self.renewed_at + self.lease.duration() / 3;
        if self.renewal.is_some() || !(is_due || self.is_awaited) {
            return;
        }
        self.is_awaited = false;
        let mut renewer = self.renewer.take().unwrap_or_else(|| Renewer::new(self.store.clone(), self.id));
        let now = self.clock.now();
        let task = tokio::spawn(async move {
            let renewed = renewer.renew(&head, now).await;
            (renewer, renewed)
        });
        self.renewal = Some(Renewal { began, task });
    }

    async fn after_renewal(&mut self, renewed: Renewed) {
        self.renewer = renewed.renewer;
        match renewed.result {
            Ok(true) => {
                self.renewed_at = renewed.began;
                self.extend_lease();
                // Others may have begun to wait meanwhile.
                if self.is_awaited {
                    self.renew_if_due();
                }
            }
            // The next poll finds out why, and registers anew.
            Ok(false) => self.start_over(),
            Err(_) => {
                self.is_awaited = true;
                return;
            }
        }
        let has_others = self.head.as_ref().is_some_and(|head| head.other_replicas > 0);
        if has_others && let Err(error) = within(self.bound, self.reaper.run(&self.store, self.id)).await {
            tracing::debug!(%error, "the other replicas cannot be read");
        }
    }
}

async fn within<T>(
    bound: Duration,
    reading: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(bound, reading).await.map_err(|_| StoreError::Timeout)?
}

/// A renewal that has ended.
struct Renewed {
    began: Duration,
    renewer: Option<Renewer>,
    result: Result<bool, StoreError>,
}

/// Waits until the renewal in progress has ended; for ever without one.
async fn finished(renewal: &mut Option<Renewal>) -> Renewed {
    let Some(Renewal { began, task }) = renewal else { return std::future::pending().await };
    let began = *began;
    let (renewer, result) = match task.await {
        Ok((renewer, result)) => (Some(renewer), result),
        Err(_) => (None, Err(StoreError::Interrupted)),
    };
    *renewal = None;
    Renewed { began, renewer, result }
}
