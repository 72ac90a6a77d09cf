//! Waits until the other replicas have seen a change, and removes replicas that have ended without saying so.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::lease::Lease;
use crate::{
    clock::since_boot,
    store::{Change, Replica, Replicas, Store, StoreError},
};

/// The pause between two looks at the other replicas while somebody waits for them, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long after its last renewal a replica surely has no lease any more, by this machine's clock: clocks that run with
/// the time since boot differ by less than a percent in their rates.
fn surely_over(lease: Duration) -> Duration {
    lease + lease / 100 + Duration::from_millis(1)
}

/// The other replicas. All calls that wait for them share one task, and hold no connection meanwhile.
#[derive(Debug)]
pub(super) struct ReplicaWatch {
    id: Uuid,
    store: Store,
    lease: Arc<Lease>,
    waits: Mutex<Waits>,
    statistics: WaitCounters,
}

#[derive(Debug, Default)]
struct Waits {
    /// No more than there are calls in flight.
    new: Vec<Wait>,
    /// Whether the task runs that takes them.
    are_watched: bool,
}

/// A call that waits.
#[derive(Debug)]
struct Wait {
    /// After its commit was answered, since boot.
    since: Duration,
    /// The epoch of its transaction.
    epoch: Option<Uuid>,
    /// What the others must have seen: all that was committed when they were first looked at.
    change: Option<Change>,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

#[derive(Debug, Default)]
struct WaitCounters {
    waiting: AtomicU64,
    waits: AtomicU64,
    waited_micros: AtomicU64,
}

/// What waiting for other replicas has cost since the start.
#[derive(Clone, Copy, Debug)]
pub struct WaitStatistics {
    /// Calls that wait now.
    pub waiting: u64,
    /// Calls that have waited.
    pub waits: u64,
    /// How long they have waited together.
    pub waited: Duration,
}

impl ReplicaWatch {
    pub(super) fn new(id: Uuid, store: Store, lease: Arc<Lease>) -> Self {
        Self { id, store, lease, waits: Mutex::default(), statistics: WaitCounters::default() }
    }

    pub(super) fn statistics(&self) -> WaitStatistics {
        WaitStatistics {
            waiting: self.statistics.waiting.load(Ordering::Relaxed),
            waits: self.statistics.waits.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.statistics.waited_micros.load(Ordering::Relaxed)),
        }
    }

    /// Waits until no other replica answers "valid" for what is revoked in the database now: each has evicted it, or has no
    /// lease. `epoch` is the one in which the transaction revoked it.
    ///
    /// # Errors
    ///
    /// The database cannot be asked, or another server has taken over, so that it is not known. Trying again waits again.
    pub(super) async fn all_have_seen(self: &Arc<Self>, epoch: Option<Uuid>) -> Result<(), StoreError> {
        let since = since_boot();
        let (answer, answered) = oneshot::channel();
        self.statistics.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = CountOnDrop(&self.statistics, since);
        {
            let mut waits = self.lock_waits();
            waits.new.push(Wait { since, epoch, change: None, answer });
            if !waits.are_watched {
                waits.are_watched = true;
                tokio::spawn(Arc::clone(self).watch());
            }
        }
        // The sender is dropped without an answer only if the task panics.
        answered.await.map_err(|_| StoreError::Interrupted)?
    }

    /// Answers waits until there are none.
    async fn watch(self: Arc<Self>) {
        let mut waits = Vec::new();
        let mut pause = FIRST_PAUSE;
        loop {
            {
                let mut shared = self.lock_waits();
                if !shared.new.is_empty() {
                    pause = FIRST_PAUSE;
                    waits.append(&mut shared.new);
                }
                waits.retain(|wait: &Wait| !wait.answer.is_closed());
                if waits.is_empty() {
                    shared.are_watched = false;
                    return;
                }
            }
            let looked = since_boot();
            match self.store.replicas_except(self.id).await {
                Ok(others) => {
                    waits = settle(waits, &others, self.lease.epoch(), looked);
                    self.wake_others_for(&mut waits, others.change).await;
                }
                Err(error) => waits = self.give_up(waits, &error),
            }
            if !waits.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 3 / 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Gives the waits that are new something to wait for, and wakes the other replicas once for all of them.
    async fn wake_others_for(&self, waits: &mut [Wait], change: Change) {
        let mut is_new = false;
        for wait in waits.iter_mut().filter(|wait| wait.change.is_none()) {
            wait.change = Some(change.clone());
            is_new = true;
        }
        if is_new && let Err(error) = self.store.wake_other_replicas(self.id).await {
            tracing::debug!(%error, "other replicas could not be woken; they poll");
        }
    }

    /// Ends the waits for which the database has been out of reach for longer than a lease.
    fn give_up(&self, waits: Vec<Wait>, error: &StoreError) -> Vec<Wait> {
        let now = since_boot();
        let bound = surely_over(self.lease.duration());
        let (over, left) = waits.into_iter().partition(|wait| now > wait.since + bound);
        answer(over, &Err(error.clone()));
        left
    }

    fn lock_waits(&self) -> MutexGuard<'_, Waits> {
        // No code panics while it changes the list, so poisoning is ignored.
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers the waits that are over, given what was read at `looked`. Returns the others. `registered` is the epoch in which
/// this replica is registered: only then does everybody who may hold a lease have a row.
fn settle(waits: Vec<Wait>, others: &Replicas, registered: Option<Uuid>, looked: Duration) -> Vec<Wait> {
    let has_failed_over = |wait: &Wait| {
        wait.epoch.is_none() || [others.change.epoch, registered].iter().any(|epoch| *epoch != wait.epoch)
    };
    let is_over = |wait: &Wait, replica: &Replica| {
        replica.has_seen(wait.change.as_ref().unwrap_or(&others.change))
            || looked > wait.since + surely_over(replica.lease)
    };
    let (failed, waits): (Vec<_>, Vec<_>) = waits.into_iter().partition(has_failed_over);
    answer(failed, &Err(StoreError::FailedOver));
    let (over, left) =
        waits.into_iter().partition(|wait| others.replicas.iter().all(|replica| is_over(wait, replica)));
    answer(over, &Ok(()));
    left
}

fn answer(waits: Vec<Wait>, result: &Result<(), StoreError>) {
    for wait in waits {
        // Fails if the caller no longer waits.
        let _ = wait.answer.send(result.clone());
    }
}

struct CountOnDrop<'a>(&'a WaitCounters, Duration);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        let waited = since_boot().saturating_sub(self.1);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.0.waited_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Finds replicas whose leases are over because they no longer renew them.
#[derive(Debug, Default)]
pub(super) struct Reaper {
    /// For each other replica, how often it has renewed its lease, and since when, since boot.
    renewals: HashMap<Uuid, (i64, Duration)>,
}

impl Reaper {
    /// Removes from the database the replicas that have not renewed their leases for as long as those last.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub(super) async fn run(&mut self, store: &Store, id: Uuid) -> Result<usize, StoreError> {
        let others = store.replicas_except(id).await?.replicas;
        let now = since_boot();
        self.renewals.retain(|id, _| others.iter().any(|replica| replica.id == *id));
        for replica in &others {
            let (renewals, since) = self.renewals.entry(replica.id).or_insert((replica.renewals, now));
            if *renewals != replica.renewals {
                (*renewals, *since) = (replica.renewals, now);
            } else if now > *since + surely_over(replica.lease) && store.remove_replica(replica, id).await? {
                tracing::warn!(replica = %replica.id, "a replica no longer renews its lease; it is removed");
            }
        }
        Ok(others.len())
    }
}
