//! Waits until the other replicas have seen a change, and removes replicas that have ended without saying so.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::{
    lease::Lease,
    replica_notes::{ReplicaNotes, surely_over},
};
use crate::{
    clock::Moment,
    store::{Change, Replica, ReplicaReader, Replicas, Server, Store, StoreError},
};

/// The pause between two reads of the other replicas while somebody waits for them: after so many it grows.
const PAUSE: Duration = Duration::from_millis(1);
const SHORT_PAUSES: u32 = 10;
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How much longer the first pause is for each other replica: they all use the same database.
const FOR_EACH: Duration = Duration::from_micros(150);

/// How often the others are read while nobody waits, per lease: one that stands still is noticed so much later.
const IDLE_READS_PER_LEASE: u32 = 3;

/// The other replicas. All calls that wait for them share one task, and hold no connection meanwhile.
#[derive(Debug)]
pub(super) struct ReplicaWatch {
    /// By which the others tell who wakes them.
    waker: Uuid,
    store: Store,
    lease: Arc<Lease>,
    /// How long a statement may take.
    bound: Duration,
    /// Those that the task has not taken yet. No more than there are calls in flight.
    new: Mutex<Vec<Wait>>,
    has_new: Notify,
    pub(super) counters: WatchCounters,
}

/// A call that waits.
#[derive(Debug)]
struct Wait {
    /// After its commit was answered, or after it read that there is nothing to change.
    since: Moment,
    /// The epoch of its transaction.
    epoch: Option<Uuid>,
    until: Until,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

/// What a call waits for.
#[derive(Debug)]
enum Until {
    /// The others have seen everything that was committed when they were first read, or have no lease; and a renewal has
    /// shown that the server of the transaction could still commit.
    AllHaveSeen(Option<Change>),
    /// Nobody has a lease of an earlier epoch.
    EarlierLeasesAreOver,
}

/// What the watch has counted since the start.
#[derive(Debug, Default)]
pub(super) struct WatchCounters {
    waiting: AtomicU64,
    waits: AtomicU64,
    waited_micros: AtomicU64,
    /// The other replicas, as of the last read.
    pub(super) others: AtomicU64,
    /// When another replica last renewed its lease, of the one for which that is longest ago: microseconds since the Unix
    /// epoch, or 0.
    pub(super) oldest_renewal: AtomicI64,
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
    pub(super) fn new(waker: Uuid, store: Store, lease: Arc<Lease>, bound: Duration) -> Self {
        let (new, has_new, counters) = (Mutex::default(), Notify::new(), WatchCounters::default());
        Self { waker, store, lease, bound, new, has_new, counters }
    }

    pub(super) fn statistics(&self) -> WaitStatistics {
        WaitStatistics {
            waiting: self.counters.waiting.load(Ordering::Relaxed),
            waits: self.counters.waits.load(Ordering::Relaxed),
            waited: Duration::from_micros(self.counters.waited_micros.load(Ordering::Relaxed)),
        }
    }

    /// Waits until no replica answers "valid" for what is revoked in the database now: each other one has evicted it, or has
    /// no lease, and the server is known to be the primary. `epoch` is the one in which the transaction revoked it, or found
    /// it revoked.
    ///
    /// # Errors
    ///
    /// The database cannot be asked or cannot commit, or another server has taken over, so that it is not known. Trying
    /// again waits again.
    pub(super) async fn all_have_seen(&self, epoch: Option<Uuid>) -> Result<(), StoreError> {
        self.wait(epoch, Until::AllHaveSeen(None)).await
    }

    /// Waits until no replica has a lease of an earlier epoch than that of `server`.
    ///
    /// # Errors
    ///
    /// As for [`ReplicaWatch::all_have_seen`].
    pub(super) async fn earlier_leases_are_over(&self, server: Server) -> Result<(), StoreError> {
        if server.has_earlier_replicas {
            self.wait(server.epoch, Until::EarlierLeasesAreOver).await?;
        }
        Ok(())
    }

    async fn wait(&self, epoch: Option<Uuid>, until: Until) -> Result<(), StoreError> {
        let since = Moment::now();
        let (answer, answered) = oneshot::channel();
        self.counters.waiting.fetch_add(1, Ordering::Relaxed);
        let _counted = CountOnDrop(&self.counters, since);
        self.lock_new().push(Wait { since, epoch, until, answer });
        self.has_new.notify_one();
        // The sender is dropped without an answer only if the watch has ended.
        answered.await.map_err(|_| StoreError::Interrupted)?
    }

    /// Reads the other replicas now and then, and whenever somebody waits for them, for ever.
    pub(super) async fn follow(&self) {
        let mut task = WatchTask {
            watch: self,
            reader: ReplicaReader::new(self.store.clone()),
            notes: ReplicaNotes::default(),
            waits: Vec::new(),
            last: None,
        };
        let idle = (self.lease.duration() / IDLE_READS_PER_LEASE).max(LONGEST_PAUSE);
        let mut pauses = 0;
        let mut next = Instant::now();
        loop {
            tokio::select! {
                () = self.has_new.notified() => pauses = 0,
                () = self.lease.renewed.notified() => {
                    task.settle();
                    continue;
                }
                () = sleep_until(next) => {}
            }
            task.read_once().await;
            let pause = if task.waits.is_empty() { idle } else { pause_after(pauses, task.others()) };
            pauses += 1;
            next = Instant::now() + pause;
        }
    }

    fn lock_new(&self) -> MutexGuard<'_, Vec<Wait>> {
        // No code panics while it changes the list, so poisoning is ignored.
        self.new.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pause after so many earlier ones, with so many other replicas.
fn pause_after(pauses: u32, others: u32) -> Duration {
    match pauses {
        0 => (PAUSE + FOR_EACH * others).min(LONGEST_PAUSE),
        1..=SHORT_PAUSES => PAUSE,
        _ => (PAUSE * (pauses - SHORT_PAUSES)).min(LONGEST_PAUSE),
    }
}

/// What the task of the watch keeps from one read to the next.
struct WatchTask<'a> {
    watch: &'a ReplicaWatch,
    reader: ReplicaReader,
    notes: ReplicaNotes,
    waits: Vec<Wait>,
    /// What was read last, after every wait began; `None` if the last read failed.
    last: Option<Others>,
}

impl WatchTask<'_> {
    /// Reads the others, removes those that stand still, and answers the waits that are over.
    async fn read_once(&mut self) {
        let new = std::mem::take(&mut *self.watch.lock_new());
        let waker = new.iter().any(Wait::needs_the_others_to_read).then_some(self.watch.waker);
        if waker.is_some() {
            self.watch.lease.renewal_wanted.notify_one();
        }
        self.waits.extend(new);
        self.waits.retain(|wait| !wait.answer.is_closed());
        self.leave_if_behind().await;
        let began = Moment::now();
        match self.reader.read(waker, self.watch.bound).await {
            Ok(Replicas { mut replicas, change }) => {
                let registration = self.watch.lease.registration();
                replicas.retain(|replica| replica.id != registration);
                self.watch.counters.count(&replicas);
                let removed = self.remove_those_that_stand_still(registration, &replicas).await;
                replicas.retain(|replica| !removed.contains(&replica.id));
                self.last = Some(Others { replicas, change, began });
                self.settle();
            }
            Err(error) => {
                self.last = None;
                self.give_up(&error);
            }
        }
    }

    fn others(&self) -> u32 {
        self.last.as_ref().map_or(0, |others| u32::try_from(others.replicas.len()).unwrap_or(u32::MAX))
    }

    /// Gives up the lease, in time, if this replica does not keep up with the log: revocations would wait for it until the
    /// lease is over.
    async fn leave_if_behind(&mut self) {
        let bound = self.watch.lease.duration() * 2 / 3;
        // With SQLite a lease may have no length at all.
        if !self.watch.store.can_fail_over() {
            return;
        }
        let Some(id) = self.watch.lease.give_up_if_behind(bound) else { return };
        if let Err(error) = self.reader.remove_own(id, self.watch.bound).await {
            tracing::debug!(%error, "this replica gave up its lease, and could not be removed");
        }
    }

    /// Removes the replicas whose leases are over, and returns their ids.
    async fn remove_those_that_stand_still(&mut self, registration: Uuid, others: &[Replica]) -> Vec<Uuid> {
        let mut removed = Vec::new();
        for replica in self.notes.note(registration, others, Moment::now()) {
            match self.reader.remove(replica, registration, self.watch.bound).await {
                Ok(true) => {
                    tracing::warn!(replica = %replica.id, "a replica no longer renews its lease; it is removed");
                    removed.push(replica.id);
                }
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "a replica that stands still could not be removed"),
            }
        }
        removed
    }

    /// Answers the waits that are over, by what was read last and by the renewals since.
    fn settle(&mut self) {
        let Some(others) = &self.last else { return };
        for mut wait in std::mem::take(&mut self.waits) {
            if let Some(answer) = wait.judge(others, self.watch) {
                // Fails if the caller no longer waits.
                let _ = wait.answer.send(answer);
            } else {
                self.waits.push(wait);
            }
        }
    }

    /// Ends the waits for which the database has been out of reach for longer than a lease.
    fn give_up(&mut self, error: &StoreError) {
        let bound = surely_over(self.watch.lease.duration());
        let now = Moment::now();
        for wait in std::mem::take(&mut self.waits) {
            if now.at_least_since(wait.since) > bound {
                let _ = wait.answer.send(Err(error.clone()));
            } else {
                self.waits.push(wait);
            }
        }
    }
}

/// The other replicas, as a statement that began at this moment read them.
struct Others {
    replicas: Vec<Replica>,
    change: Change,
    began: Moment,
}

impl Wait {
    fn needs_the_others_to_read(&self) -> bool {
        matches!(self.until, Until::AllHaveSeen(_))
    }

    /// The answer, if the wait is over. Only in the epoch in which this replica is registered does everybody who may hold a
    /// lease have a row.
    fn judge(&mut self, others: &Others, watch: &ReplicaWatch) -> Option<Result<(), StoreError>> {
        let lease = &watch.lease;
        if self.epoch.is_none()
            || [others.change.epoch, lease.epoch()].iter().any(|epoch| *epoch != self.epoch)
        {
            return Some(Err(StoreError::FailedOver));
        }
        let waited = others.began.at_least_since(self.since);
        let is_over = |replica: &Replica| waited > surely_over(replica.lease);
        let is_done = match &mut self.until {
            Until::AllHaveSeen(change) => {
                let change = change.get_or_insert_with(|| others.change.clone());
                // Until a commit shows that it was not, another server may have taken over before.
                if watch.store.can_fail_over() && !lease.was_renewed_since(self.since) {
                    return (waited > surely_over(lease.duration())).then_some(Err(StoreError::NoLease));
                }
                others.replicas.iter().all(|replica| replica.has_seen(change) || is_over(replica))
            }
            Until::EarlierLeasesAreOver => {
                others.replicas.iter().all(|replica| replica.is_of(self.epoch) || is_over(replica))
            }
        };
        is_done.then_some(Ok(()))
    }
}

impl WatchCounters {
    fn count(&self, others: &[Replica]) {
        let oldest = others.iter().map(|replica| replica.renewed_at.timestamp_micros()).min();
        self.others.store(others.len() as u64, Ordering::Relaxed);
        self.oldest_renewal.store(oldest.unwrap_or(0), Ordering::Relaxed);
    }
}

struct CountOnDrop<'a>(&'a WatchCounters, Moment);

impl Drop for CountOnDrop<'_> {
    fn drop(&mut self) {
        let waited = Moment::now().at_least_since(self.1);
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
        self.0.waits.fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        self.0.waited_micros.fetch_add(micros, Ordering::Relaxed);
    }
}
