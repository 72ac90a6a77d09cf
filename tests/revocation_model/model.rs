//! Which steps are possible, and what must hold.
//!
//! A statement takes place on the server at the moment when it begins, and its answer is processed at any later time, or
//! never. This is the worst case: if it took place later, it would see more, and the lease would count from earlier.
//! Waits and notes count from the answer; so, as the worst case, the statements of another revoking replica and of the
//! remover are answered at once.
//! A read counts as answered by any server that can be read, so that every mixture of old and new connections occurs.

use stateright::{Model, Property};

use super::{
    creation::Creation,
    database::{Server, Token},
    replica::Lookup,
    revocation::Revocation,
    setup::{Fault, Rule, Setup},
    state::{Broken, State},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    Failover {
        row_is_lost: bool,
        token: Token,
    },
    /// A transaction gets an id and aborts.
    AbortTransaction,
    Crash,
    Register,
    Renew,
    Report(Server),
    Leave,
    NoteRow,
    RemoveRow,
    RegisterOther,
    DeregisterOther,
    ProcessWrite,
    LoseWrite,
    ReadLog(Server),
    /// Reads the snapshot from the primary, and the events from a standby that lacks them.
    ReadSnapshotOnly,
    ReadStandby,
    ProcessRead,
    AnswerFromMemory,
    CheckLease,
    AnswerUnknown(Server),
    /// For a validation that has checked its lease at some time before.
    LookUp(Server),
    /// For a validation that begins after the revocation's acknowledgement.
    LookUpLate(Server),
    LookUpOnStandby,
    JoinLookup,
    ProcessLookup,
    CreateToken,
    EndCreation(Server),
    Revoke(Server),
    ProcessCommit,
    RenewRevoker,
    ReadReplicas(Server),
    EndRevocationEarly,
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::new(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        actions.push(Action::Tick);
        self.faults(state, actions);
        self.upkeep(state, actions);
        self.removal(state, actions);
        self.creation(state, actions);
        self.revocation(state, actions);
        self.validations(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => next.tick(self),
            Action::Failover { row_is_lost, token } => next.fail_over(self, row_is_lost, token),
            Action::AbortTransaction => next.abort_transaction(),
            Action::Crash => next.crash(),
            Action::Register => next.register(self),
            Action::Renew => next.renew(self),
            Action::Report(server) => next.report(self, server),
            Action::Leave => next.leave(self),
            Action::NoteRow => next.note_row(),
            Action::RemoveRow => next.remove_row(self),
            Action::RegisterOther => next.register_other(self),
            Action::DeregisterOther => next.other = false,
            Action::ProcessWrite => next.process_write(self),
            Action::LoseWrite => next.replica.write = None,
            Action::ReadLog(server) => next.read_log(self, server, &state.database(server)?.clone()),
            Action::ReadSnapshotOnly => {
                next.read_log(self, Server::First, &state.first);
                next.replica.read.as_mut()?.evicts = false;
            }
            Action::ReadStandby => next.read_log(self, Server::First, &state.standby()),
            Action::ProcessRead => {
                let read = next.replica.read.take()?;
                next.replica.process_read(self, &read);
            }
            Action::AnswerFromMemory => next.broken = Some(Broken::Valid),
            Action::CheckLease => next.has_checked = true,
            Action::AnswerUnknown(_) => next.broken = Some(Broken::Unknown),
            Action::LookUp(_) => next.replica.lookup = Some(Lookup { stale: false, late: false }),
            Action::LookUpLate(_) | Action::LookUpOnStandby => {
                next.replica.lookup = Some(Lookup { stale: false, late: state.is_acknowledged() });
            }
            Action::JoinLookup => next.replica.lookup.as_mut()?.late = true,
            Action::ProcessLookup => {
                let lookup = next.replica.lookup.take()?;
                next.broken = lookup.late.then_some(Broken::Valid);
                next.replica.process_lookup(self, &lookup);
            }
            Action::CreateToken => next.create_token(self),
            Action::EndCreation(_) => next.creation = Creation::Acknowledged,
            Action::Revoke(server) => next.revoke(self, server),
            Action::ProcessCommit => next.process_commit(self),
            Action::RenewRevoker => next.revoker_has_renewed(self),
            Action::ReadReplicas(_) => next.settle(self),
            Action::EndRevocationEarly => next.end_early(),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always(NEVER_VALID, |_, state: &State| state.broken != Some(Broken::Valid)),
            Property::always(NEVER_UNKNOWN, |_, state: &State| state.broken != Some(Broken::Unknown)),
        ];
        if self.without.is_empty() {
            properties.extend(self.reached());
        }
        properties
    }
}

/// The promise of a revocation.
pub const NEVER_VALID: &str =
    "no validation that begins after the revocation's acknowledgement is answered valid";

/// The promise of a creation.
pub const NEVER_UNKNOWN: &str =
    "no validation that begins after the creation's acknowledgement is answered unknown";

impl Setup {
    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let token = state.first.token;
        match self.fault {
            Fault::NoFailover => {}
            Fault::Failover | Fault::LossyFailover if state.second.is_some() => {}
            Fault::Failover => actions.push(Action::Failover { row_is_lost: false, token }),
            Fault::LossyFailover => {
                let earlier = match token {
                    Token::Missing => None,
                    Token::Live => Some(Token::Missing),
                    Token::Revoked(_) => Some(Token::Live),
                };
                for token in earlier.into_iter().chain([token]) {
                    actions.extend([false, true].map(|row_is_lost| Action::Failover { row_is_lost, token }));
                }
            }
            Fault::CrashInEpoch => {
                if !state.has_aborted {
                    actions.push(Action::AbortTransaction);
                }
                // Any other crash only loses answers.
                if state.first.is_unflushed {
                    actions.push(Action::Crash);
                }
            }
        }
    }

    /// What the replica does to have a lease.
    fn upkeep(&self, state: &State, actions: &mut Vec<Action>) {
        let replica = &state.replica;
        if replica.write.is_some() {
            actions.extend([Action::ProcessWrite, Action::LoseWrite]);
        } else if replica.registered.is_none() {
            actions.push(Action::Register);
        } else if replica.renewed_seen(self, state.run).is_some() {
            actions.push(Action::Renew);
        }
        let reports = state.servers().filter(|(server, _)| state.may_report(self, *server));
        actions.extend(reports.map(|(server, _)| Action::Report(server)));
        if replica.read.is_some() {
            actions.push(Action::ProcessRead);
        } else if replica.registered.is_some() {
            actions.extend(state.servers().map(|(server, _)| Action::ReadLog(server)));
            match &state.second {
                Some(_) => {}
                None if !self.has(Rule::NoStandby) => actions.push(Action::ReadStandby),
                None if !self.has(Rule::OneStatement) => actions.push(Action::ReadSnapshotOnly),
                None => {}
            }
        }
    }

    fn removal(&self, state: &State, actions: &mut Vec<Action>) {
        if self.others_come_and_go() {
            actions.push(if state.other { Action::DeregisterOther } else { Action::RegisterOther });
        }
        // After the acknowledgement a removal could only end the lease.
        if state.is_acknowledged() {
            return;
        }
        if state.replica.registered.is_some() && state.primary_database().row.is_some() {
            actions.push(Action::Leave);
        }
        if state.may_note_row() {
            actions.push(Action::NoteRow);
        }
        if state.may_remove_row(self) {
            actions.push(Action::RemoveRow);
        }
    }

    fn creation(&self, state: &State, actions: &mut Vec<Action>) {
        if state.creation == Creation::Idle {
            actions.push(Action::CreateToken);
        }
        let ends = state.servers().filter(|(server, _)| state.may_end_creation(*server));
        actions.extend(ends.map(|(server, _)| Action::EndCreation(server)));
    }

    fn revocation(&self, state: &State, actions: &mut Vec<Action>) {
        match &state.revocation {
            Revocation::Idle if state.may_revoke(self) => {
                let is_asked = |server| server == state.primary() || !self.is_lossy();
                let servers = state.servers().filter(|(server, _)| is_asked(*server));
                actions.extend(servers.map(|(server, _)| Action::Revoke(server)));
            }
            Revocation::Idle | Revocation::Acknowledged => {}
            Revocation::Committed(_) => {
                actions.extend([Action::ProcessCommit, Action::EndRevocationEarly]);
            }
            Revocation::Waiting(wait) => {
                actions.push(Action::EndRevocationEarly);
                if state.revoker_may_renew(self, wait) {
                    actions.push(Action::RenewRevoker);
                }
                let settles =
                    state.servers().filter(|(server, _)| state.settles(self, wait, *server).is_some());
                actions.extend(settles.map(|(server, _)| Action::ReadReplicas(server)));
            }
        }
    }

    fn validations(&self, state: &State, actions: &mut Vec<Action>) {
        let replica = &state.replica;
        let (is_late, has_lease) = (state.is_acknowledged(), replica.has_lease_to_look_up(self));
        if is_late && replica.answers_from_memory(self) {
            actions.push(Action::AnswerFromMemory);
        }
        if is_late && replica.may_join(self) {
            actions.push(Action::JoinLookup);
        }
        if has_lease && state.may_check_lease() {
            actions.push(Action::CheckLease);
        }
        for (server, database) in state.servers().filter(|(server, _)| replica.may_look_up(self, *server)) {
            match database.token {
                Token::Live if is_late && has_lease => {
                    actions.extend([Action::LookUp(server), Action::LookUpLate(server)]);
                }
                Token::Live => actions.push(Action::LookUp(server)),
                Token::Missing if state.may_answer_unknown() => actions.push(Action::AnswerUnknown(server)),
                Token::Missing | Token::Revoked(_) => {}
            }
        }
        let has_standby = !self.has(Rule::NoStandby) && state.second.is_none();
        if has_standby && has_lease && replica.may_look_up(self, Server::First) {
            actions.push(Action::LookUpOnStandby);
        }
        if replica.lookup.is_some() {
            actions.push(Action::ProcessLookup);
        }
    }
}
