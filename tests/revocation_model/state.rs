//! States, and what each step does.

use super::{
    database::{Database, Epoch, Row, Server},
    replica::{Evict, LEASE, Read, Replica, Write, WriteKind},
    setup::{Revoker, Rule, Setup},
};

/// How far the revocation is.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Revocation {
    Idle,
    Committed(Epoch),
    /// The commit was answered `age` ticks ago.
    Waiting {
        epoch: Epoch,
        age: u8,
    },
    /// OK was returned.
    Acknowledged(Because),
    /// An error was returned.
    Failed,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Because {
    NoOtherRow,
    Seen,
    LeaseIsOver,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct State {
    pub first: Database,
    /// After a failover.
    pub second: Option<Database>,
    pub has_aborted: bool,
    /// Ticks since another replica registered.
    pub other: Option<u8>,
    pub replica: Replica,
    pub revocation: Revocation,
    /// A validation that began after the acknowledgement was answered "valid".
    pub is_broken: bool,
}

impl State {
    pub fn primary(&self) -> Server {
        if self.second.is_some() { Server::Second } else { Server::First }
    }

    pub fn database(&self, server: Server) -> Option<&Database> {
        match server {
            Server::First => Some(&self.first),
            Server::Second => self.second.as_ref(),
        }
    }

    pub fn primary_database(&self) -> &Database {
        self.second.as_ref().unwrap_or(&self.first)
    }

    fn writable(&mut self) -> &mut Database {
        self.second.as_mut().unwrap_or(&mut self.first)
    }

    pub fn is_acknowledged(&self) -> bool {
        matches!(self.revocation, Revocation::Acknowledged(_))
    }

    /// The first server's standby, as far behind as can be.
    pub fn standby(&self) -> Database {
        Database { row: self.first.row.clone(), ..Database::default() }
    }

    pub fn tick(&mut self) {
        self.replica.tick();
        if let Some(age) = &mut self.other {
            *age = LEASE.min(*age + 1);
        }
        if let Some(row) = &mut self.writable().row {
            row.age = LEASE.min(row.age + 1);
        }
        if let Revocation::Waiting { age, .. } = &mut self.revocation {
            *age = LEASE.min(*age + 1);
        }
    }

    pub fn fail_over(&mut self, row_is_lost: bool, rows_lost: bool) {
        let mut second = Database { rows_lost, ..self.first.clone() };
        if row_is_lost {
            second.row = None;
        }
        self.second = Some(second);
    }

    pub fn abort_transaction(&mut self) {
        self.has_aborted = true;
        self.first.next_id += 1;
        self.first.is_unflushed = true;
    }

    pub fn crash(&mut self, setup: &Setup) {
        let next_id = self.first.next_id - 1;
        let restarted = Database { next_id, is_unflushed: false, ..self.first.clone() };
        if setup.has(Rule::EpochOfCrash) {
            self.second = Some(restarted);
        } else {
            self.first = restarted;
        }
    }

    pub fn register(&mut self, setup: &Setup) {
        let epoch = self.primary();
        let database = self.writable();
        // Without the rule, the replica goes on before its row is there.
        if setup.has(Rule::RegisterFirst) {
            database.row = Some(Row { epoch, seen: None, age: 0 });
            database.is_unflushed = false;
        }
        self.replica.write = Some(Write { age: 0, kind: WriteKind::Registered(epoch) });
    }

    /// The revocation of another token did so.
    pub fn delete_row(&mut self) {
        self.writable().row = None;
    }

    pub fn renew(&mut self, setup: &Setup) {
        let (epoch, seen) = (self.primary(), self.replica.seen(setup));
        let database = self.writable();
        let row = database.row.as_mut();
        let kind = match row.filter(|row| row.epoch == epoch || !setup.has(Rule::EpochOfRenewal)) {
            Some(row) => {
                row.seen = seen;
                row.age = 0;
                database.is_unflushed = false;
                WriteKind::Renewed
            }
            None => WriteKind::NoRow,
        };
        self.replica.write = Some(Write { age: 0, kind });
    }

    pub fn read_log(&mut self, epoch: Epoch, database: &Database) {
        let evict = match (self.replica.head, database.revoked_by) {
            (None, _) => Evict::All,
            (Some(head), Some(revocation)) if revocation >= head => Evict::Token,
            _ => Evict::Nothing,
        };
        self.replica.read = Some(Read {
            age: 0,
            epoch,
            snapshot: database.next_id,
            evict,
            row_is_there: database.row.is_some(),
            is_alone: self.other.is_none(),
        });
    }

    pub fn commit_revocation(&mut self) {
        let epoch = self.primary();
        let database = self.writable();
        database.revoked_by = Some(database.next_id);
        database.next_id += 1;
        database.is_unflushed = false;
        self.revocation = Revocation::Committed(epoch);
    }

    pub fn process_commit(&mut self, setup: &Setup) {
        let Revocation::Committed(epoch) = self.revocation else { return };
        if setup.revoker == Revoker::Itself && setup.has(Rule::EvictLocally) {
            self.replica.evict();
        }
        self.revocation = if setup.has(Rule::Wait) {
            Revocation::Waiting { epoch, age: 0 }
        } else {
            Revocation::Acknowledged(Because::NoOtherRow)
        };
    }

    /// Reads the rows of the other replicas, and decides.
    pub fn read_replicas(&mut self, setup: &Setup, server: Server) {
        let Revocation::Waiting { epoch, age } = self.revocation else { return };
        let own_epoch = match setup.revoker {
            Revoker::Another => Some(epoch),
            Revoker::Itself => self.replica.registered,
        };
        let may_decide = (server == epoch || !setup.has(Rule::EpochOfWait))
            && (own_epoch == Some(epoch) || !setup.has(Rule::EpochOfRevoker));
        if !may_decide {
            self.revocation = Revocation::Failed;
            return;
        }
        let Some(database) = self.database(server) else { return };
        let is_over = age == LEASE;
        let because = match database.row.as_ref().filter(|_| setup.revoker == Revoker::Another) {
            None => Some(Because::NoOtherRow),
            Some(row) if row.epoch == server && row.seen >= Some(database.next_id) => Some(Because::Seen),
            Some(_) => is_over.then_some(Because::LeaseIsOver),
        };
        let rows_may_be_lost = database.rows_lost && setup.has(Rule::WaitForLostRows) && !is_over;
        if let Some(because) = because.filter(|_| !rows_may_be_lost) {
            self.revocation = Revocation::Acknowledged(because);
        }
    }
}
