//! What is modelled: the rules of the protocol, the faults, and who revokes.

/// A rule of the protocol, which a model can leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The row of a replica is committed before the read that its first lease counts from.
    RegisterFirst,
    /// A replica whose row is gone registers anew.
    RowIsThere,
    /// A lookup that an eviction overtook is not cached.
    TicketToCache,
    /// A lookup that an eviction overtook is not joined.
    TicketToJoin,
    /// The revoking replica evicts the token from its own memory.
    EvictLocally,
    /// A revocation waits for the other replicas.
    Wait,
    /// Nothing is answered from memory without a lease.
    LeaseForMemory,
    /// No lookup is started without a lease.
    LeaseToLookUp,
    /// No lookup is joined without a lease.
    LeaseToJoin,
    /// The lease counts from when the log's read began.
    ReadFromBegin,
    /// The lease counts from when the renewal began.
    RenewalFromBegin,
    /// The lease ends without renewals.
    Renewal,
    /// A replica that finds no other row renews its lease too.
    RenewAlone,
    /// `seen` is written after the evictions.
    EvictBeforeSeen,
    /// A read of another epoch empties the memory and voids the lease.
    EpochOfRead,
    /// A renewal succeeds only in the epoch of the row.
    EpochOfRenewal,
    /// A lookup counts only in the epoch of the lease.
    EpochOfLookup,
    /// The other replicas are read in the epoch of the revocation.
    EpochOfWait,
    /// The revoking replica is registered in the epoch of the revocation.
    EpochOfRevoker,
    /// In a new epoch, a revocation also waits for replicas whose rows the failover may have lost.
    WaitForLostRows,
    /// A server in recovery is not read.
    NoStandby,
    /// The head of the log and its events are read on one connection.
    OneConnection,
    /// A crash of the server begins a new epoch.
    EpochOfCrash,
}

/// What can go wrong. Pauses, lost answers and failing statements always can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is always the same one, as with SQLite.
    NoFailover,
    /// A failover that loses no commit. The old primary stays readable.
    Failover,
    /// A failover that also may lose the row of the replica.
    LossyFailover,
    /// A crash of the server, which forgets the ids of transactions that were not flushed.
    Crash,
}

/// Who revokes the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoker {
    /// Another replica.
    Another,
    /// The replica that validates.
    Itself,
}

/// One model.
#[derive(Clone, Debug)]
pub struct Setup {
    pub revoker: Revoker,
    pub fault: Fault,
    pub without: Vec<Rule>,
}

impl Setup {
    pub fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }
}
