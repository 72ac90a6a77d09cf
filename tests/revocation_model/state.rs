//! The state, and what each step of the validating replica and each fault does.

use super::{
    creation::Creation,
    database::{Database, Epoch, Row, Server, Token},
    removal::Note,
    replica::{LEASE, Position, Read, Replica, Run, Write, WriteKind},
    revocation::Revocation,
    setup::{Rule, Setup},
};

/// A promise that was broken.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub enum Broken {
    /// A validation that began after the revocation's acknowledgement was answered "valid".
    Valid,
    /// A validation that began after the creation's acknowledgement was answered "unknown".
    Unknown,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct State {
    pub first: Database,
    /// After a failover.
    pub second: Option<Database>,
    pub run: Run,
    pub has_aborted: bool,
    /// Another replica is registered: it removes rows, and may revoke.
    pub other: bool,
    /// What it has noted of the row of the validating replica.
    pub note: Option<Note>,
    pub replica: Replica,
    pub creation: Creation,
    pub revocation: Revocation,
    /// A validation that began after the creation's acknowledgement has checked its lease, and has not read yet.
    /// Tracked only if there is a server that lacks the token.
    pub has_checked: bool,
    pub broken: Option<Broken>,
}

impl State {
    pub fn new(setup: &Setup) -> Self {
        Self {
            first: Database::new(Token::Missing),
            second: None,
            run: 0,
            has_aborted: false,
            other: !setup.others_come_and_go(),
            note: None,
            replica: Replica::new(),
            creation: Creation::Idle,
            revocation: Revocation::Idle,
            has_checked: false,
            broken: None,
        }
    }

    pub fn primary(&self) -> Server {
        if self.second.is_some() { Server::Second } else { Server::First }
    }

    pub fn servers(&self) -> impl Iterator<Item = (Server, &Database)> {
        [(Server::First, Some(&self.first)), (Server::Second, self.second.as_ref())]
            .into_iter()
            .filter_map(|(server, database)| Some((server, database?)))
    }

    pub fn database(&self, server: Server) -> Option<&Database> {
        match server {
            Server::First => Some(&self.first),
            Server::Second => self.second.as_ref(),
        }
    }

    pub fn database_mut(&mut self, server: Server) -> Option<&mut Database> {
        match server {
            Server::First => Some(&mut self.first),
            Server::Second => self.second.as_mut(),
        }
    }

    pub fn primary_database(&self) -> &Database {
        self.second.as_ref().unwrap_or(&self.first)
    }

    pub fn writable(&mut self) -> &mut Database {
        self.second.as_mut().unwrap_or(&mut self.first)
    }

    /// The first server's standby, as far behind as can be.
    pub fn standby(&self) -> Database {
        Database { row: self.first.row.clone(), ..Database::new(Token::Live) }
    }

    pub fn tick(&mut self, setup: &Setup) {
        self.replica.tick(setup);
        let note = self.note.as_mut().map(|note| &mut note.age);
        let ages = [note, self.revocation.age(), self.creation.age()];
        for age in ages.into_iter().flatten() {
            *age = LEASE.min(*age + 1);
        }
        // It is removed as soon as it may be: while it is there, it only makes calls wait.
        let placeholder = &mut self.writable().placeholder;
        *placeholder = placeholder.map(|age| age + 1).filter(|age| *age < LEASE);
    }

    /// A failover to a standby where the token is in this state.
    pub fn fail_over(&mut self, setup: &Setup, row_is_lost: bool, token: Token) {
        let mut second = Database { token, ..self.first.clone() };
        second.restart();
        if setup.is_lossy() && setup.has(Rule::WaitForLostRows) {
            second.placeholder = Some(0);
        }
        if row_is_lost {
            second.row = None;
        }
        match (self.first.token, token) {
            // Nobody promises that a lost revocation holds.
            (Token::Revoked(id), Token::Live) => {
                second.next_id = id;
                self.end_early();
            }
            (Token::Live, Token::Missing) => self.creation = Creation::Lost,
            _ => {}
        }
        self.second = Some(second);
    }

    pub fn abort_transaction(&mut self) {
        self.has_aborted = true;
        self.first.next_id += 1;
        self.first.is_unflushed = true;
    }

    pub fn crash(&mut self) {
        self.run += 1;
        self.first.restart();
    }

    pub fn register(&mut self, setup: &Setup) {
        let epoch = self.primary();
        self.row_is_registered(setup);
        let database = self.writable();
        // Without the rule, the replica goes on before its row is there.
        if setup.has(Rule::RegisterFirst) {
            database.row = Some(Row { epoch, seen: database.next_id, durable_seen: 0, is_renewed: false });
            database.commit();
        }
        self.replica.write = Some(Write { age: 0, kind: WriteKind::Registered(epoch), is_awaited: false });
    }

    pub fn renew(&mut self, setup: &Setup) {
        let Some(seen) = self.replica.renewed_seen(setup, self.run) else { return };
        let (epoch, is_awaited) = (self.primary(), self.awaits_own_renewal(setup));
        let database = self.writable();
        let row = database.row.as_mut();
        let kind = match row.filter(|row| row.epoch == epoch || !setup.has(Rule::EpochOfRenewal)) {
            Some(row) => {
                row.seen = seen;
                row.is_renewed = !setup.has(Rule::NewIdPerRegistration);
                database.commit();
                self.row_is_renewed(setup);
                WriteKind::Renewed(if setup.has_crashes() { seen } else { 0 })
            }
            None => WriteKind::NoRow,
        };
        // When it began matters only if it succeeds.
        let age = if kind == WriteKind::NoRow { LEASE } else { 0 };
        self.replica.write = Some(Write { age, kind, is_awaited });
    }

    /// Whether the replica has something new to report to this server. A replaced primary accepts it too, because a
    /// report does not wait for the standby.
    pub fn may_report(&self, setup: &Setup, server: Server) -> bool {
        let row = self.database(server).and_then(|database| database.row.as_ref());
        let seen = self.replica.reported_seen(setup, self.run).filter(|_| self.replica.write.is_none());
        self.replica.registered == Some(server)
            && row.is_some_and(|row| row.epoch == server && seen.is_some_and(|seen| seen != row.seen))
    }

    pub fn report(&mut self, setup: &Setup, server: Server) {
        let Some(seen) = self.replica.reported_seen(setup, self.run) else { return };
        if let Some(row) = self.database_mut(server).and_then(|database| database.row.as_mut()) {
            row.seen = seen;
            // A failover that loses it only makes calls wait longer, and is left out.
            row.durable_seen = if setup.has_crashes() { row.durable_seen } else { seen };
        }
        if !setup.has(Rule::RewindToRenewal) {
            self.replica.reported = Some(seen);
        }
    }

    pub fn read_log(&mut self, setup: &Setup, epoch: Epoch, database: &Database) {
        let from = self.replica.read_from(setup, self.run);
        let evicts = match (from, database.token) {
            (Some(from), Token::Revoked(id)) => id >= from,
            (Some(_), _) => false,
            (None, _) => true,
        };
        self.replica.read = Some(Read {
            age: 0,
            epoch,
            position: Position { snapshot: database.next_id, run: self.run },
            evicts,
            row_is_there: database.row.is_some(),
            is_alone: !self.other,
        });
    }

    pub fn process_write(&mut self, setup: &Setup) {
        let Some(write) = self.replica.write.take() else { return };
        self.replica.process_write(setup, &write);
        if write.is_awaited && matches!(write.kind, WriteKind::Renewed(_)) {
            self.revoker_has_renewed(setup);
        }
    }
}
