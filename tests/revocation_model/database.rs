//! The servers.

/// A server, and the epoch of what it commits.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Server {
    /// The primary at first. It stays readable when it is replaced.
    First,
    /// Its standby, which a failover promotes.
    Second,
}

pub type Epoch = Server;

/// The transactions with lower ids are visible.
pub type Snapshot = u8;

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Token {
    Missing,
    Live,
    /// By the transaction with this id.
    Revoked(Snapshot),
}

/// The validating replica's row in `replicas`.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Row {
    pub epoch: Epoch,
    pub seen: Snapshot,
    /// What a crash leaves of `seen`. A report is not written to the disk at once.
    pub durable_seen: Snapshot,
    /// It was renewed. Tracked only if ids are used again: otherwise no note about one row can apply to another.
    pub is_renewed: bool,
}

/// What a server has committed.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Database {
    pub token: Token,
    pub next_id: Snapshot,
    pub row: Option<Row>,
    /// Ticks since the remover noted the placeholder, which stands for rows that the failover has lost.
    pub placeholder: Option<u8>,
    /// The last transaction aborted, and nothing was flushed since: its id may be assigned again.
    pub is_unflushed: bool,
}

impl Database {
    pub fn new(token: Token) -> Self {
        Self { token, next_id: 0, row: None, placeholder: None, is_unflushed: false }
    }

    /// A commit writes everything to the disk that was done before it.
    pub fn commit(&mut self) {
        self.is_unflushed = false;
        if let Some(row) = &mut self.row {
            row.durable_seen = row.seen;
        }
    }

    /// The server starts again after a crash, or its standby takes over.
    pub fn restart(&mut self) {
        if self.is_unflushed {
            self.next_id -= 1;
            self.is_unflushed = false;
        }
        if let Some(row) = &mut self.row {
            row.seen = row.durable_seen;
        }
    }
}
