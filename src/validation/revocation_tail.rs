//! Follows the revocation log, so that what any replica revokes is evicted from this one's memory, and keeps the lease that
//! lets other replicas rely on it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, task::JoinHandle};
use uuid::Uuid;

use super::{cache::VerifiedTokens, lease::Lease, transitions::Transitions};
use crate::{
    clock::{Clock, Moment},
    store::{Eviction, LogHead, LogRead, LogReader, Renewer, Store, StoreError},
};

/// What the tail has done since the start.
#[derive(Debug, Default)]
pub(super) struct TailCounters {
    pub(super) events: AtomicU64,
    pub(super) epoch_changes: AtomicU64,
}

/// How long ago the last read may be. Events stay in the log for an hour at least before they are purged.
const LONGEST_GAP: Duration = Duration::from_secs(20 * 60);

/// After so many reads in a row that took too long, there count as too many events to read: one read may merely have met a
/// connection that hangs.
const TOO_MANY_TIMEOUTS: u32 = 2;

/// Follows the revocation log, and evicts from memory what it tells of.
///
/// The order is what makes a revocation complete when the call returns: a replica registers before it uses its memory,
/// evicts before it says what it has seen, and counts its lease from when a read or a renewal began
/// (docs/decisions/0014-ok-means-everywhere.md).
#[derive(Debug)]
pub struct RevocationTail {
    /// By which the others tell who wakes them.
    waker: Uuid,
    store: Store,
    clock: Clock,
    verified: Arc<VerifiedTokens>,
    lease: Arc<Lease>,
    counters: Arc<TailCounters>,
    /// How long a statement may take, so that one that hangs leaves time for another before the lease ends.
    bound: Duration,
    reader: LogReader,
    /// The session that the reader has read in, and how many reads in a row took too long.
    session: Option<Moment>,
    timeouts: u32,
    registration: Option<Registration>,
    /// The id of an attempt to register whose answer was lost.
    unanswered: Option<Uuid>,
    /// The epoch that was read last.
    epoch: Option<Uuid>,
    /// Whether other replicas may wait for this one to say what it has seen.
    is_awaited: bool,
    /// Whether a call of this replica may wait for a renewal that begins from now on.
    wants_renewal: bool,
    renewal: Option<Renewal>,
    renewer: Option<Renewer>,
}

/// A registration of this replica, and how far its lease is.
#[derive(Debug)]
struct Registration {
    id: Uuid,
    /// The state of the log whose evictions are done; `None` before the first read.
    head: Option<LogHead>,
    /// The state of the log that the last successful renewal reported. Of this, PostgreSQL uses no transaction id again.
    reported: Option<LogHead>,
    /// When the last read that counts began, if there was one.
    read_at: Option<Moment>,
    /// When the last successful renewal began, or the registration.
    renewed_at: Moment,
}

/// What is done with this replica's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The session is opened. What was read before may be from before a crash, and cannot be reported.
    Open,
    /// The others are told what this replica has seen.
    Report,
    /// That, and the lease is renewed.
    Renew,
}

/// A write to this replica's row in progress, apart from the reads: its COMMIT may take long. When it is dropped it goes on,
/// within its bound, so that its backend does not wait for a standby for ever.
#[derive(Debug)]
struct Renewal {
    step: Step,
    began: Moment,
    seen: LogHead,
    task: JoinHandle<(Renewer, Result<bool, StoreError>)>,
}

impl RevocationTail {
    pub(super) fn new(
        waker: Uuid,
        store: Store,
        clock: Clock,
        verified: Arc<VerifiedTokens>,
        lease: Arc<Lease>,
        counters: Arc<TailCounters>,
        bound: Duration,
    ) -> Self {
        Self {
            waker,
            reader: LogReader::new(store.clone()),
            store,
            clock,
            verified,
            lease,
            counters,
            bound,
            session: None,
            timeouts: 0,
            registration: None,
            unanswered: None,
            epoch: None,
            is_awaited: false,
            wants_renewal: false,
            renewal: None,
            renewer: None,
        }
    }

    /// Polls the log at this interval and whenever another replica asks for it, and renews the lease, until the lease is
    /// closed.
    pub(super) async fn follow(mut self, interval: Duration) {
        let mut log = Transitions::default();
        let woken = Notify::new();
        let (waker, store, lease) = (self.waker, self.store.clone(), Arc::clone(&self.lease));
        let listen = || Box::pin(store.listen_for_others(waker, &woken));
        let mut listening = listen();
        let mut turns = tokio::time::interval(interval);
        turns.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut relisten = false;
        while !lease.is_closed() {
            tokio::select! {
                _ = turns.tick() => {
                    if relisten {
                        listening = listen();
                        relisten = false;
                    }
                }
                () = woken.notified() => self.is_awaited = true,
                () = lease.renewal_wanted.notified() => self.wants_renewal = true,
                // Again at the next turn, so that a database that refuses is not asked all the time.
                _ = &mut listening, if !relisten => relisten = true,
                renewed = finished(&mut self.renewal) => {
                    log.renewed(&renewed.result);
                    if !self.after_renewal(renewed) {
                        continue;
                    }
                }
            }
            let polled = self.poll_once().await;
            // The connection that listens may hang too, and would not tell.
            relisten |= polled.is_ok() && log.read_fails;
            log.read(&polled);
            log.clock(&self.clock);
            if polled.is_ok() {
                self.renew_if_due();
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
            let mut registration = match self.registration.take() {
                Some(registration) => registration,
                None => self.register().await?,
            };
            let (began, read) = match self.read(&mut registration).await {
                Ok(read) => read,
                Err(error) => {
                    self.registration = Some(registration);
                    return Err(error);
                }
            };
            let LogRead { head, evictions } = read;
            match head.time {
                Some(time) => self.clock.synchronise(time, began.boot()),
                None => self.clock.follow_system(),
            }
            let has_failed_over = self.epoch.is_some() && self.epoch != head.epoch;
            self.epoch = head.epoch;
            if head.is_registered && !has_failed_over {
                self.evict(&registration, evictions);
                self.is_awaited |= !self.store.can_fail_over()
                    && registration.head.as_ref().is_none_or(|last| head.is_ahead_of(last));
                self.lease.set_epoch(head.epoch);
                registration.head = Some(head);
                registration.read_at = Some(began);
                if self.extend_lease(&mut registration) {
                    self.registration = Some(registration);
                    return Ok(());
                }
                tracing::warn!("this replica fell behind and gave up its lease: evicted all tokens");
            } else if has_failed_over {
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

    /// Registers this replica under an id of its own. That counts as a renewal.
    async fn register(&mut self) -> Result<Registration, StoreError> {
        if self.lease.is_closed() {
            return Err(StoreError::NoLease);
        }
        let (id, began) = (Uuid::now_v7(), Moment::now());
        let mut renewer = self.renewer.take().unwrap_or_else(|| Renewer::new(self.store.clone()));
        let unanswered = self.unanswered.replace(id);
        let (lease, now) = (self.lease.duration(), self.clock.now());
        let registered = renewer.register(id, unanswered, lease, now, self.bound).await;
        self.renewer = Some(renewer);
        registered?;
        self.unanswered = None;
        self.lease.registers(id);
        Ok(Registration { id, head: None, reported: None, read_at: None, renewed_at: began })
    }

    /// Reads the log, and returns when the read began. If the session was lost in which it was read before, PostgreSQL may
    /// have crashed, and may have used transaction ids again beyond those that a renewal has reported.
    async fn read(&mut self, registration: &mut Registration) -> Result<(Moment, LogRead), StoreError> {
        let session = self.reader.open(self.bound).await?;
        if self.session.replace(session) != Some(session) {
            registration.head = registration.reported.clone();
        }
        let is_recent = registration.read_at.is_some_and(|at| Moment::now().at_most_since(at) < LONGEST_GAP);
        let may_continue = is_recent && self.timeouts < TOO_MANY_TIMEOUTS;
        let from = registration.head.as_ref().filter(|_| may_continue);
        let began = Moment::now();
        let read = self.reader.read(registration.id, from, self.bound).await;
        self.timeouts = if matches!(read, Err(StoreError::Timeout)) { self.timeouts + 1 } else { 0 };
        Ok((began, read?))
    }

    /// Gives up the lease and everything in memory.
    fn start_over(&mut self) {
        self.lease.end();
        self.verified.evict_all();
        self.registration = None;
        self.renewal = None;
        self.renewer = None;
    }

    /// Evicts what was revoked since the last read.
    fn evict(&mut self, registration: &Registration, evictions: Option<Vec<Eviction>>) {
        if let Some(evictions) = evictions {
            evictions.iter().for_each(|eviction| self.verified.evict(eviction));
            self.counters.events.fetch_add(evictions.len() as u64, Ordering::Relaxed);
            // Who revoked it waits.
            self.is_awaited |= !evictions.is_empty();
        } else {
            // After the head was read: what is stored from now on was looked up later than that, or is refused by its
            // ticket; and what is revoked later is found by the next read.
            if registration.head.is_some() {
                tracing::warn!("evicted all tokens: too many revocations to read, or a restored database");
            }
            self.verified.evict_all();
            self.is_awaited = true;
        }
    }

    /// Returns whether it did: not once the registration is void.
    fn extend_lease(&self, registration: &mut Registration) -> bool {
        let Some(read_at) = registration.read_at else { return true };
        // Nobody can take a SQLite file away from its readers, and without another replica nobody removes this one's row.
        if registration.is_alone() {
            registration.renewed_at = read_at;
        }
        self.lease.extend(registration.id, read_at, registration.renewed_at)
    }

    /// Starts a renewal if a third of the lease has passed since the last one or a call waits for it, or a report if others
    /// wait for that.
    fn renew_if_due(&mut self) {
        let Some(registration) = self.registration.as_ref().filter(|registration| !registration.is_alone())
        else {
            return;
        };
        let (Some(seen), Some(read_at)) = (registration.head.clone(), registration.read_at) else { return };
        let began = Moment::now();
        let is_due = began.at_most_since(registration.renewed_at) >= self.lease.duration() / 3;
        if self.renewal.is_some() || !(is_due || self.is_awaited || self.wants_renewal) {
            return;
        }
        let mut renewer = self.renewer.take().unwrap_or_else(|| Renewer::new(self.store.clone()));
        let may_report = renewer.session().is_some_and(|opened_at| opened_at.boot() <= read_at.boot());
        let step = match may_report {
            false => Step::Open,
            // With SQLite a report renews too.
            true if is_due || self.wants_renewal || !self.store.can_fail_over() => Step::Renew,
            true => Step::Report,
        };
        self.is_awaited &= step == Step::Open;
        self.wants_renewal &= step != Step::Renew;
        let (id, now, bound, head) = (registration.id, self.clock.now(), self.bound, seen.clone());
        let task = tokio::spawn(async move {
            let done = match step {
                Step::Open => renewer.open(bound).await.map(|()| true),
                Step::Report => renewer.report(id, &head, bound).await,
                Step::Renew => renewer.renew(id, &head, now, bound).await,
            };
            (renewer, done)
        });
        self.renewal = Some(Renewal { step, began, seen, task });
    }

    /// Returns whether the log is to be read at once: another renewal or report needs it.
    fn after_renewal(&mut self, renewed: Renewed) -> bool {
        self.renewer = renewed.renewer;
        match (renewed.result, self.registration.as_mut()) {
            (_, None) => return false,
            // The next poll finds out why, and registers anew.
            (Ok(false), Some(_)) => {
                self.start_over();
                return true;
            }
            (Err(_), Some(_)) => {
                self.is_awaited = true;
                self.wants_renewal |= renewed.step == Step::Renew;
                return false;
            }
            (Ok(true), Some(registration)) if renewed.step == Step::Renew => {
                registration.reported = Some(renewed.seen);
                registration.renewed_at = renewed.began;
                self.lease.is_renewed(renewed.began);
                if let Some(read_at) = registration.read_at {
                    self.lease.extend(registration.id, read_at, renewed.began);
                }
            }
            (Ok(true), Some(_)) => {}
        }
        // Others may have begun to wait meanwhile.
        self.is_awaited || self.wants_renewal
    }
}

impl Registration {
    /// Whether this replica is alone on a SQLite file.
    fn is_alone(&self) -> bool {
        self.head.as_ref().is_some_and(|head| head.is_alone)
    }
}

/// A renewal that has ended.
struct Renewed {
    step: Step,
    began: Moment,
    seen: LogHead,
    renewer: Option<Renewer>,
    result: Result<bool, StoreError>,
}

/// Waits until the renewal in progress has ended; for ever without one.
async fn finished(renewal: &mut Option<Renewal>) -> Renewed {
    let Some(running) = renewal else { return std::future::pending().await };
    let (renewer, result) = match (&mut running.task).await {
        Ok((renewer, result)) => (Some(renewer), result),
        Err(_) => (None, Err(StoreError::Interrupted)),
    };
    // It is there: it was awaited.
    let Some(Renewal { step, began, seen, .. }) = renewal.take() else { return std::future::pending().await };
    Renewed { step, began, seen, renewer, result }
}
