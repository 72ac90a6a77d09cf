//! The servers.

/// A server, and the epoch of what it commits.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Server {
    /// The primary at first.
    First,
    /// Its standby, which a failover promotes, or itself after a crash.
    Second,
}

pub type Epoch = Server;

/// The transactions with lower ids are visible.
pub type Snapshot = u8;

/// The validating replica's row in `replicas`.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Row {
    pub epoch: Epoch,
    pub seen: Option<Snapshot>,
    /// Ticks since it was written.
    pub age: u8,
}

/// What a server has committed.
#[derive(Clone, Debug, Default, Hash, PartialEq, Eq)]
pub struct Database {
    pub next_id: Snapshot,
    /// The transaction that revoked the token.
    pub revoked_by: Option<Snapshot>,
    pub row: Option<Row>,
    /// Rows may have been lost in the failover, whose replicas still may have a lease.
    pub rows_lost: bool,
    /// The last transaction aborted, and nothing was flushed since: a crash makes its id free again.
    pub is_unflushed: bool,
}
