//! Which steps are possible, and what must hold.
//!
//! A statement takes place on the server at the moment when it begins, and its answer is processed at any later time, or
//! never. This is the worst case: if it took place later, it would see more, and the lease would count from earlier.
//! A read counts as answered by any server that can be read, so that every mixture of old and new connections occurs.

use stateright::{Model, Property};

use super::{
    database::{Database, Server},
    replica::{Evict, LEASE, Lookup, Replica},
    setup::{Fault, Revoker, Rule, Setup},
    state::{Because, Revocation, State},
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Tick,
    Failover {
        row_is_lost: bool,
    },
    /// A transaction gets an id and aborts.
    AbortTransaction,
    Crash,
    Register,
    Renew,
    /// A revocation deletes the row, which did not move while the revocation waited.
    DeleteRow,
    RegisterOther,
    DeregisterOther,
    ProcessWrite,
    LoseWrite,
    ReadLog(Server),
    /// Reads the head from the primary, and the events from a standby that lacks them.
    ReadHeadOnly,
    ReadStandby,
    ProcessRead,
    AnswerFromMemory,
    LookUp(Server),
    LookUpOnStandby,
    JoinLookup,
    ProcessLookup,
    CommitRevocation,
    ProcessCommit,
    ReadReplicas(Server),
}

impl Model for Setup {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            first: Database::default(),
            second: None,
            has_aborted: false,
            other: self.has(Rule::RenewAlone).then_some(LEASE),
            replica: Replica::new(),
            revocation: Revocation::Idle,
            is_broken: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        use Action::*;
        if state.is_broken {
            return;
        }
        actions.push(Tick);
        self.faults(state, actions);
        self.upkeep(state, actions);
        self.validations(state, actions);
        let servers =
            [Server::First, Server::Second].into_iter().filter(|server| state.database(*server).is_some());
        match state.revocation {
            Revocation::Idle if self.revoker == Revoker::Itself || state.other.is_some() => {
                actions.push(CommitRevocation);
            }
            Revocation::Idle => {}
            Revocation::Committed(_) => actions.push(ProcessCommit),
            Revocation::Waiting { .. } => actions.extend(servers.map(ReadReplicas)),
            Revocation::Acknowledged(_) | Revocation::Failed => {}
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Tick => next.tick(),
            Action::Failover { row_is_lost } => {
                next.fail_over(row_is_lost, self.fault == Fault::LossyFailover)
            }
            Action::AbortTransaction => next.abort_transaction(),
            Action::Crash => next.crash(self),
            Action::Register => next.register(self),
            Action::Renew => next.renew(self),
            Action::DeleteRow => next.delete_row(),
            Action::RegisterOther => next.other = Some(0),
            Action::DeregisterOther => next.other = None,
            Action::ProcessWrite => {
                let write = next.replica.write.take()?;
                next.replica.process_write(self, &write);
            }
            Action::LoseWrite => next.replica.write = None,
            Action::ReadLog(server) => next.read_log(server, &state.database(server)?.clone()),
            Action::ReadHeadOnly => {
                next.read_log(Server::First, &state.first);
                next.replica.read.as_mut()?.evict = Evict::Nothing;
            }
            Action::ReadStandby => next.read_log(Server::First, &state.standby()),
            Action::ProcessRead => {
                let read = next.replica.read.take()?;
                next.replica.process_read(self, &read);
            }
            Action::AnswerFromMemory => next.is_broken = true,
            Action::LookUp(_) | Action::LookUpOnStandby => {
                next.replica.lookup = Some(Lookup { stale: false, late: state.is_acknowledged() });
            }
            Action::JoinLookup => next.replica.lookup.as_mut()?.late = true,
            Action::ProcessLookup => {
                let lookup = next.replica.lookup.take()?;
                next.is_broken = lookup.late;
                next.replica.process_lookup(self, &lookup);
            }
            Action::CommitRevocation => next.commit_revocation(),
            Action::ProcessCommit => next.process_commit(self),
            Action::ReadReplicas(server) => next.read_replicas(self, server),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(NEVER_VALID, |_, state: &State| !state.is_broken)];
        if self.without.is_empty() {
            properties.extend(self.reached());
        }
        properties
    }
}

/// The promise.
pub const NEVER_VALID: &str = "no validation that begins after the acknowledgement is answered valid";

impl Setup {
    /// What must occur, or the model would prove nothing.
    fn reached(&self) -> Vec<Property<Self>> {
        let mut reached = vec![
            Property::sometimes("valid from memory", |setup: &Self, state: &State| {
                state.replica.answers_from_memory(setup)
            }),
            Property::sometimes("valid from a lookup", |_, state: &State| state.replica.lookup.is_some()),
            Property::sometimes("a lookup is overtaken", |_, state: &State| {
                state.replica.lookup.as_ref().is_some_and(|lookup| lookup.stale)
            }),
            Property::sometimes(
                "validates again after the acknowledgement",
                |setup: &Self, state: &State| state.is_acknowledged() && state.replica.has_lease(setup),
            ),
        ];
        match self.revoker {
            Revoker::Another => reached.extend([
                Property::sometimes("acknowledged without other rows", |_, state: &State| {
                    state.revocation == Revocation::Acknowledged(Because::NoOtherRow)
                }),
                Property::sometimes("acknowledged because it was seen", |_, state: &State| {
                    state.revocation == Revocation::Acknowledged(Because::Seen)
                }),
                Property::sometimes("acknowledged because the lease is over", |_, state: &State| {
                    state.revocation == Revocation::Acknowledged(Because::LeaseIsOver)
                }),
            ]),
            Revoker::Itself => {
                reached.push(Property::sometimes("acknowledged", |_, state: &State| state.is_acknowledged()))
            }
        }
        if self.fault != Fault::NoFailover {
            reached.push(Property::sometimes(
                "valid from memory in the second epoch",
                |setup: &Self, state: &State| {
                    state.replica.registered == Some(Server::Second)
                        && state.replica.answers_from_memory(setup)
                },
            ));
        }
        reached
    }

    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        match self.fault {
            Fault::NoFailover => {}
            Fault::Failover | Fault::LossyFailover if state.second.is_some() => {}
            Fault::Failover => actions.push(Action::Failover { row_is_lost: false }),
            // Revocations that are lost with their commit are not promised to hold.
            Fault::LossyFailover if state.first.revoked_by.is_none() => {
                actions.extend([false, true].map(|row_is_lost| Action::Failover { row_is_lost }));
            }
            Fault::LossyFailover => {}
            Fault::Crash => {
                if !state.has_aborted && state.second.is_none() {
                    actions.push(Action::AbortTransaction);
                }
                // Any other crash only loses answers.
                if state.first.is_unflushed && state.second.is_none() {
                    actions.push(Action::Crash);
                }
            }
        }
    }

    /// What the replica does to have a lease.
    fn upkeep(&self, state: &State, actions: &mut Vec<Action>) {
        let replica = &state.replica;
        let row = state.primary_database().row.as_ref();
        if row.is_some_and(|row| row.age == LEASE) && state.other == Some(LEASE) {
            actions.push(Action::DeleteRow);
        }
        if !self.has(Rule::RenewAlone) {
            actions.push(if state.other.is_none() { Action::RegisterOther } else { Action::DeregisterOther });
        }
        if replica.write.is_some() {
            actions.extend([Action::ProcessWrite, Action::LoseWrite]);
        } else if replica.registered.is_none() {
            actions.push(Action::Register);
        } else if replica.head.is_some() {
            actions.push(Action::Renew);
        }
        if replica.read.is_some() {
            actions.push(Action::ProcessRead);
        } else if replica.registered.is_some() {
            actions.push(Action::ReadLog(Server::First));
            match &state.second {
                Some(_) => actions.push(Action::ReadLog(Server::Second)),
                None if !self.has(Rule::NoStandby) => actions.push(Action::ReadStandby),
                None if !self.has(Rule::OneConnection) => actions.push(Action::ReadHeadOnly),
                None => {}
            }
        }
    }

    fn validations(&self, state: &State, actions: &mut Vec<Action>) {
        let replica = &state.replica;
        if state.is_acknowledged() && replica.answers_from_memory(self) {
            actions.push(Action::AnswerFromMemory);
        }
        if state.is_acknowledged() && replica.may_join(self) {
            actions.push(Action::JoinLookup);
        }
        for server in [Server::First, Server::Second] {
            let is_live = state.database(server).is_some_and(|database| database.revoked_by.is_none());
            if is_live && replica.may_look_up(self, server) {
                actions.push(Action::LookUp(server));
            }
        }
        if !self.has(Rule::NoStandby) && state.second.is_none() && replica.may_look_up(self, Server::First) {
            actions.push(Action::LookUpOnStandby);
        }
        if replica.lookup.is_some() {
            actions.push(Action::ProcessLookup);
        }
    }
}
