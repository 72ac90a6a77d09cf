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
    /// So does a replica that finds the token revoked already.
    EvictIfRevokedAlready,
    /// A revocation waits for the other replicas.
    Wait,
    /// So does one that finds the token revoked already.
    WaitIfRevokedAlready,
    /// So does one that finds no such token.
    WaitIfMissing,
    /// A revocation needs a renewal that began after its COMMIT was answered.
    RenewalAfterCommit,
    /// One that finds nothing to revoke needs a renewal that began after its read.
    RenewalAfterRead,
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
    /// In a new epoch, a revocation and a creation also wait for replicas whose rows the failover may have lost.
    WaitForLostRows,
    /// A standby is not read: its epoch is that of another server.
    NoStandby,
    /// The snapshot and the events of the log are read by one statement.
    OneStatement,
    /// When the session that reads is lost, the next read starts from the position of the last committed renewal.
    Rewind,
    /// That position is not the one of a report, which a crash may lose.
    RewindToRenewal,
    /// A renewal tells only of a read that began after the session of the renewal was opened.
    RenewOnOlderSession,
    /// So does a report.
    ReportOnOlderSession,
    /// A registration has an id that was never used.
    NewIdPerRegistration,
    /// A row is removed only if it has not been renewed since it was noted.
    RemovalIsConditional,
    /// A row is removed only if the row of the remover is there.
    RemoverIsRegistered,
    /// A replica drops its notes about the others when it registers anew.
    NotesEndWithRegistration,
    /// A replica that leaves ends its lease before it removes its row.
    LeaseEndsBeforeLeaving,
    /// A creation waits until no replica has a lease of an earlier epoch.
    CreationWaits,
}

/// What can go wrong. Pauses, lost answers, failing statements and callers that go away always can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server is always the same one, as with SQLite.
    NoFailover,
    /// A failover that loses no commit. The old primary stays readable, and calls are made on it.
    Failover,
    /// A failover that may lose the last commit on the token, whose id is assigned again, and the row of the replica.
    /// The old primary stays readable; no new calls are made on it.
    LossyFailover,
    /// A crash of the server that begins no epoch. The ids of transactions that were not flushed are assigned again.
    CrashInEpoch,
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

    /// Whether the server may crash without beginning an epoch.
    pub fn has_crashes(&self) -> bool {
        self.fault == Fault::CrashInEpoch
    }

    /// Whether a failover may lose commits.
    pub fn is_lossy(&self) -> bool {
        self.fault == Fault::LossyFailover
    }

    /// Whether other replicas come and go, which makes a difference only to one that does not renew while it is alone.
    pub fn others_come_and_go(&self) -> bool {
        !self.has(Rule::RenewAlone)
    }
}
