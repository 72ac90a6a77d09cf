//! Calls that revoke the token.

use super::{
    creation::Creation,
    database::{Epoch, Server, Token},
    replica::LEASE,
    setup::{Revoker, Rule, Setup},
    state::State,
};

/// How far the call is.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Revocation {
    /// There is none, or it has ended early. It can be made at any time.
    Idle,
    /// It has committed, but this was not answered yet.
    Committed(Epoch),
    Waiting(Wait),
    /// It has returned that no replica accepts the token.
    Acknowledged,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub struct Wait {
    /// The epoch of the transaction.
    pub epoch: Epoch,
    /// Ticks since the COMMIT was answered, or since the token was found revoked or missing.
    pub age: u8,
    /// A renewal by the revoking replica has succeeded that began since.
    pub is_renewed: bool,
    /// A statement that began since has shown that no other replica accepts the token.
    pub is_settled: bool,
}

/// What the transaction found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A live token, which it revoked.
    Live,
    RevokedAlready,
    Missing,
}

/// Why a revocation need not wait for the other replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    NoOtherRow,
    Seen,
    LeaseIsOver,
}

impl Revocation {
    pub fn age(&mut self) -> Option<&mut u8> {
        match self {
            Self::Waiting(wait) => Some(&mut wait.age),
            _ => None,
        }
    }
}

impl State {
    pub fn is_acknowledged(&self) -> bool {
        self.revocation == Revocation::Acknowledged
    }

    /// Whether a call may begin. None begins before the token exists: "there is no such token" is true then, and says
    /// nothing about later.
    pub fn may_revoke(&self, setup: &Setup) -> bool {
        let exists = self.primary_database().token != Token::Missing || self.creation == Creation::Lost;
        let has_revoker = setup.revoker == Revoker::Itself || self.other;
        self.revocation == Revocation::Idle && exists && has_revoker
    }

    /// Runs the transaction on this server. On a replaced primary its COMMIT waits for the standby; when this wait is
    /// cancelled, PostgreSQL says that it is committed, and shows what it wrote.
    pub fn revoke(&mut self, setup: &Setup, server: Server) {
        let Some(database) = self.database_mut(server) else { return };
        let found = match database.token {
            Token::Live => {
                database.token = Token::Revoked(database.next_id);
                database.next_id += 1;
                database.commit();
                self.revocation = Revocation::Committed(server);
                return;
            }
            Token::Revoked(_) => Found::RevokedAlready,
            Token::Missing => Found::Missing,
        };
        if found == Found::Missing || setup.has(Rule::EvictIfRevokedAlready) {
            self.evict_locally(setup);
        }
        self.begin_to_wait(setup, server, found);
    }

    pub fn process_commit(&mut self, setup: &Setup) {
        let Revocation::Committed(epoch) = self.revocation else { return };
        if setup.has(Rule::EvictLocally) {
            self.evict_locally(setup);
        }
        self.begin_to_wait(setup, epoch, Found::Live);
    }

    fn evict_locally(&mut self, setup: &Setup) {
        if setup.revoker == Revoker::Itself {
            self.replica.evict(setup);
        }
    }

    fn begin_to_wait(&mut self, setup: &Setup, epoch: Epoch, found: Found) {
        let (renews, waits) = match found {
            Found::Live => (Rule::RenewalAfterCommit, Rule::Wait),
            Found::RevokedAlready => (Rule::RenewalAfterRead, Rule::WaitIfRevokedAlready),
            Found::Missing => (Rule::RenewalAfterRead, Rule::WaitIfMissing),
        };
        let (is_renewed, is_settled) = (!setup.has(renews), !setup.has(waits));
        self.forget_awaited_renewal();
        self.revocation = Revocation::Waiting(Wait { epoch, age: 0, is_renewed, is_settled });
        self.acknowledge_if_done(setup);
    }

    /// The call fails, or its caller goes away.
    pub fn end_early(&mut self) {
        self.forget_awaited_renewal();
        self.revocation = Revocation::Idle;
    }

    fn forget_awaited_renewal(&mut self) {
        if let Some(write) = &mut self.replica.write {
            write.is_awaited = false;
        }
    }

    /// Whether a renewal by the validating replica that begins now is one that its revocation waits for.
    pub fn awaits_own_renewal(&self, setup: &Setup) -> bool {
        setup.revoker == Revoker::Itself
            && matches!(&self.revocation, Revocation::Waiting(wait) if !wait.is_renewed)
    }

    /// Whether the revoking replica, if it is another one, may renew. It is registered in the epoch of its transaction.
    /// Without the rule, it may have registered in a later one meanwhile.
    pub fn revoker_may_renew(&self, setup: &Setup, wait: &Wait) -> bool {
        let in_epoch = wait.epoch == self.primary() || !setup.has(Rule::EpochOfRevoker);
        setup.revoker == Revoker::Another && !wait.is_renewed && in_epoch
    }

    pub fn revoker_has_renewed(&mut self, setup: &Setup) {
        if let Revocation::Waiting(wait) = &mut self.revocation {
            wait.is_renewed = true;
            self.acknowledge_if_done(setup);
        }
    }

    /// Returns why the call need not wait for other replicas any longer, if the rows on this server show that.
    pub fn settles(&self, setup: &Setup, wait: &Wait, server: Server) -> Option<Because> {
        let database = self.database(server)?;
        let in_epoch = server == wait.epoch || !setup.has(Rule::EpochOfWait);
        let is_over = wait.age == LEASE;
        if !in_epoch || wait.is_settled || (database.placeholder.is_some() && !is_over) {
            return None;
        }
        // The snapshot that `seen` must contain contains the revocation. That it contains more, and that the row must be
        // of the same epoch, only makes the call wait longer.
        let has_seen = |seen| !matches!(database.token, Token::Revoked(id) if seen <= id);
        match database.row.as_ref().filter(|_| setup.revoker == Revoker::Another) {
            None => Some(Because::NoOtherRow),
            Some(row) if has_seen(row.seen) => Some(Because::Seen),
            Some(_) => is_over.then_some(Because::LeaseIsOver),
        }
    }

    pub fn settle(&mut self, setup: &Setup) {
        if let Revocation::Waiting(wait) = &mut self.revocation {
            wait.is_settled = true;
            self.acknowledge_if_done(setup);
        }
    }

    fn acknowledge_if_done(&mut self, setup: &Setup) {
        let Revocation::Waiting(wait) = &self.revocation else { return };
        if !wait.is_renewed || !wait.is_settled {
            return;
        }
        let in_epoch = match setup.revoker {
            Revoker::Another => true,
            Revoker::Itself => {
                self.replica.registered == Some(wait.epoch) || !setup.has(Rule::EpochOfRevoker)
            }
        };
        if !in_epoch {
            return self.end_early();
        }
        self.revocation = Revocation::Acknowledged;
        // Nothing is removed from now on.
        self.note = None;
    }
}
