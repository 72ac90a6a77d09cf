//! The replica that validates.

use super::{
    database::{Epoch, Server, Snapshot},
    setup::{Rule, Setup},
};

/// How many ticks a lease lasts. Ages stop here: older makes no difference.
pub const LEASE: u8 = 2;

/// A run of the server. A crash without a new epoch ends a run and all of its sessions.
pub type Run = u8;

/// How far the log was read.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub struct Position {
    pub snapshot: Snapshot,
    /// The run of the server that was read.
    pub run: Run,
}

/// A read of the log that took place on the server and whose answer is not processed yet.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Read {
    pub age: u8,
    pub epoch: Epoch,
    pub position: Position,
    /// It shows the revocation, or does not start from an earlier read.
    pub evicts: bool,
    pub row_is_there: bool,
    /// No other replica had a row.
    pub is_alone: bool,
}

/// A write to the replica's row that took place on the server and whose answer is not processed yet.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Write {
    pub age: u8,
    pub kind: WriteKind,
    /// It began while this replica's revocation waited for a renewal.
    pub is_awaited: bool,
}

impl Write {
    /// Whether it makes no difference when the answer comes, if it comes at all.
    fn has_no_effect(&self, setup: &Setup) -> bool {
        let extends_lease = self.age < LEASE || !setup.has(Rule::RenewalFromBegin);
        let is_reported = matches!(self.kind, WriteKind::Renewed(_)) && !setup.has_crashes();
        is_reported && !extends_lease && !self.is_awaited
    }
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum WriteKind {
    Registered(Epoch),
    Renewed(Snapshot),
    NoRow,
}

/// A lookup that found the token live and that callers wait for.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Lookup {
    /// An eviction came after its ticket was drawn.
    pub stale: bool,
    /// It has a caller that came after the revocation was acknowledged.
    pub late: bool,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Replica {
    /// The epoch of its row.
    pub registered: Option<Epoch>,
    /// Ticks since the last successful read began.
    pub read_age: u8,
    /// Ticks since the last successful write to its row began.
    pub write_age: u8,
    /// The last read whose evictions are done. The first one after the registration empties the memory.
    pub head: Option<Position>,
    /// What the last renewal that was committed has told. Tracked only with crashes.
    pub reported: Option<Snapshot>,
    pub cached: bool,
    pub read: Option<Read>,
    pub write: Option<Write>,
    pub lookup: Option<Lookup>,
}

impl Replica {
    pub fn new() -> Self {
        Self {
            registered: None,
            read_age: LEASE,
            write_age: LEASE,
            head: None,
            reported: None,
            cached: false,
            read: None,
            write: None,
            lookup: None,
        }
    }

    pub fn has_lease(&self, setup: &Setup) -> bool {
        let renewed = self.write_age < LEASE || !setup.has(Rule::Renewal);
        self.head.is_some() && self.read_age < LEASE && renewed
    }

    pub fn answers_from_memory(&self, setup: &Setup) -> bool {
        self.cached && (self.has_lease(setup) || !setup.has(Rule::LeaseForMemory))
    }

    /// Whether a validation that memory does not answer may ask `server`.
    pub fn may_look_up(&self, setup: &Setup, server: Server) -> bool {
        let in_epoch = self.registered == Some(server) || !setup.has(Rule::EpochOfLookup);
        let free = self.lookup.as_ref().is_none_or(|lookup| lookup.stale && setup.has(Rule::TicketToJoin));
        in_epoch && free && !self.answers_from_memory(setup)
    }

    /// Whether a validation that begins now may look the token up.
    pub fn has_lease_to_look_up(&self, setup: &Setup) -> bool {
        self.has_lease(setup) || !setup.has(Rule::LeaseToLookUp)
    }

    /// Whether a caller that comes now shares the lookup in flight.
    pub fn may_join(&self, setup: &Setup) -> bool {
        let with_lease = self.has_lease(setup) || !setup.has(Rule::LeaseToJoin);
        let current =
            self.lookup.as_ref().is_some_and(|lookup| !lookup.stale || !setup.has(Rule::TicketToJoin));
        with_lease && current && !self.answers_from_memory(setup)
    }

    /// The position from which a read in this run of the server starts; `None` if it has to empty the memory.
    pub fn read_from(&self, setup: &Setup, run: Run) -> Option<Snapshot> {
        let head = self.head?;
        if head.run == run || !setup.has(Rule::Rewind) { Some(head.snapshot) } else { self.reported }
    }

    /// What a renewal that begins now in this run of the server tells, if there is one.
    pub fn renewed_seen(&self, setup: &Setup, run: Run) -> Option<Snapshot> {
        self.seen(setup, run, Rule::RenewOnOlderSession)
    }

    /// What a report that begins now in this run of the server tells, if there is one.
    pub fn reported_seen(&self, setup: &Setup, run: Run) -> Option<Snapshot> {
        self.seen(setup, run, Rule::ReportOnOlderSession)
    }

    fn seen(&self, setup: &Setup, run: Run, rule: Rule) -> Option<Snapshot> {
        let position = match &self.read {
            Some(read) if !setup.has(Rule::EvictBeforeSeen) => read.position,
            _ => self.head?,
        };
        let is_of_session = position.run == run || !setup.has(rule);
        is_of_session.then_some(position.snapshot)
    }

    pub fn tick(&mut self, setup: &Setup) {
        let ages = [Some(&mut self.read_age), Some(&mut self.write_age)].into_iter();
        let in_flight =
            [self.read.as_mut().map(|read| &mut read.age), self.write.as_mut().map(|write| &mut write.age)];
        for age in ages.chain(in_flight).flatten() {
            *age = LEASE.min(*age + 1);
        }
        self.write.take_if(|write| write.has_no_effect(setup));
    }

    pub fn evict(&mut self, setup: &Setup) {
        self.cached = false;
        if let Some(lookup) = &mut self.lookup {
            lookup.stale = true;
        }
        // Dropped if nothing can come of it.
        let has_rules = setup.has(Rule::TicketToCache) && setup.has(Rule::TicketToJoin);
        self.lookup.take_if(|lookup| has_rules && !lookup.late);
    }

    /// Voids the lease. What is in flight belongs to the old registration and no longer counts.
    pub fn void(&mut self, setup: &Setup) {
        self.evict(setup);
        *self = Self { lookup: self.lookup.take(), ..Self::new() };
    }

    pub fn process_read(&mut self, setup: &Setup, read: &Read) {
        let same_epoch = self.registered == Some(read.epoch) || !setup.has(Rule::EpochOfRead);
        let row_is_there =
            read.row_is_there || !setup.has(Rule::RowIsThere) || !setup.has(Rule::RegisterFirst);
        if !same_epoch || !row_is_there {
            return self.void(setup);
        }
        if read.evicts {
            self.evict(setup);
        }
        self.head = Some(read.position);
        self.read_age = if setup.has(Rule::ReadFromBegin) { read.age } else { 0 };
        if read.is_alone && !setup.has(Rule::RenewAlone) {
            self.write_age = self.write_age.min(read.age);
        }
    }

    pub fn process_write(&mut self, setup: &Setup, write: &Write) {
        match write.kind {
            WriteKind::NoRow => return self.void(setup),
            WriteKind::Registered(epoch) => self.registered = Some(epoch),
            WriteKind::Renewed(seen) => {
                self.reported = setup.has_crashes().then_some(seen);
            }
        }
        self.write_age = if setup.has(Rule::RenewalFromBegin) { write.age } else { 0 };
    }

    pub fn process_lookup(&mut self, setup: &Setup, lookup: &Lookup) {
        if !lookup.stale || !setup.has(Rule::TicketToCache) {
            self.cached = true;
        }
    }
}
