//! The replica that validates.

use super::{
    database::{Epoch, Server, Snapshot},
    setup::{Rule, Setup},
};

/// How many ticks a lease lasts. Ages stop here: older makes no difference.
pub const LEASE: u8 = 2;

/// What a read of the log tells of the revocation.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Evict {
    Nothing,
    Token,
    /// The first read after a registration, or in another session.
    All,
}

/// A read of the log that took place on the server and whose answer is not processed yet.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Read {
    pub age: u8,
    pub epoch: Epoch,
    pub snapshot: Snapshot,
    pub evict: Evict,
    pub row_is_there: bool,
    /// No other replica had a row.
    pub is_alone: bool,
}

/// A write to the replica's row that took place on the server and whose answer is not processed yet.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Write {
    pub age: u8,
    pub kind: WriteKind,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum WriteKind {
    Registered(Epoch),
    Renewed,
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
    /// Its memory was emptied after a read that began after the registration.
    pub ready: bool,
    /// Ticks since the last successful read began.
    pub read_age: u8,
    /// Ticks since the last successful write to its row began.
    pub write_age: u8,
    /// The snapshot of the last read whose evictions are done.
    pub head: Option<Snapshot>,
    pub cached: bool,
    pub read: Option<Read>,
    pub write: Option<Write>,
    pub lookup: Option<Lookup>,
}

impl Replica {
    pub fn new() -> Self {
        Self {
            registered: None,
            ready: false,
            read_age: LEASE,
            write_age: LEASE,
            head: None,
            cached: false,
            read: None,
            write: None,
            lookup: None,
        }
    }

    pub fn has_lease(&self, setup: &Setup) -> bool {
        let renewed = self.write_age < LEASE || !setup.has(Rule::Renewal);
        self.ready && self.read_age < LEASE && renewed
    }

    pub fn answers_from_memory(&self, setup: &Setup) -> bool {
        self.cached && (self.has_lease(setup) || !setup.has(Rule::LeaseForMemory))
    }

    /// Whether a validation that memory does not answer may ask `server`.
    pub fn may_look_up(&self, setup: &Setup, server: Server) -> bool {
        let with_lease = self.has_lease(setup) || !setup.has(Rule::LeaseToLookUp);
        let in_epoch = self.registered == Some(server) || !setup.has(Rule::EpochOfLookup);
        let free = self.lookup.as_ref().is_none_or(|lookup| lookup.stale && setup.has(Rule::TicketToJoin));
        with_lease && in_epoch && free && !self.answers_from_memory(setup)
    }

    /// Whether a caller that comes now shares the lookup in flight.
    pub fn may_join(&self, setup: &Setup) -> bool {
        let with_lease = self.has_lease(setup) || !setup.has(Rule::LeaseToJoin);
        let current =
            self.lookup.as_ref().is_some_and(|lookup| !lookup.stale || !setup.has(Rule::TicketToJoin));
        with_lease && current && !self.answers_from_memory(setup)
    }

    /// What a renewal that begins now writes as `seen`.
    pub fn seen(&self, setup: &Setup) -> Option<Snapshot> {
        match &self.read {
            Some(read) if !setup.has(Rule::EvictBeforeSeen) => Some(read.snapshot),
            _ => self.head,
        }
    }

    pub fn tick(&mut self) {
        let ages = [Some(&mut self.read_age), Some(&mut self.write_age)].into_iter();
        let in_flight =
            [self.read.as_mut().map(|read| &mut read.age), self.write.as_mut().map(|write| &mut write.age)];
        for age in ages.chain(in_flight).flatten() {
            *age = LEASE.min(*age + 1);
        }
    }

    pub fn evict(&mut self) {
        self.cached = false;
        if let Some(lookup) = &mut self.lookup {
            lookup.stale = true;
        }
    }

    /// Voids the lease. What is in flight belongs to the old registration and no longer counts.
    fn void(&mut self) {
        self.evict();
        *self = Self { lookup: self.lookup.take(), ..Self::new() };
    }

    pub fn process_read(&mut self, setup: &Setup, read: &Read) {
        let same_epoch = self.registered == Some(read.epoch) || !setup.has(Rule::EpochOfRead);
        let row_is_there =
            read.row_is_there || !setup.has(Rule::RowIsThere) || !setup.has(Rule::RegisterFirst);
        if !same_epoch || !row_is_there {
            return self.void();
        }
        if read.evict != Evict::Nothing {
            self.evict();
        }
        self.head = Some(read.snapshot);
        self.ready = true;
        self.read_age = if setup.has(Rule::ReadFromBegin) { read.age } else { 0 };
        if read.is_alone && !setup.has(Rule::RenewAlone) {
            self.write_age = self.write_age.min(read.age);
        }
    }

    pub fn process_write(&mut self, setup: &Setup, write: &Write) {
        match write.kind {
            WriteKind::NoRow => return self.void(),
            WriteKind::Registered(epoch) => self.registered = Some(epoch),
            WriteKind::Renewed => {}
        }
        self.write_age = if setup.has(Rule::RenewalFromBegin) { write.age } else { 0 };
    }

    pub fn process_lookup(&mut self, setup: &Setup, lookup: &Lookup) {
        if !lookup.stale || !setup.has(Rule::TicketToCache) {
            self.cached = true;
        }
    }
}
