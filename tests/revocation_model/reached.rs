//! What must occur, or the model would prove nothing.

use stateright::Property;

use super::{
    creation::Creation,
    database::{Server, Token},
    replica::LEASE,
    revocation::{Because, Revocation, Wait},
    setup::{Fault, Revoker, Setup},
    state::State,
};

impl Setup {
    pub fn reached(&self) -> Vec<Property<Self>> {
        let mut reached = Vec::from(reached_by_validations());
        reached.extend(reached_by_revocations());
        if self.revoker == Revoker::Another {
            reached.extend(reached_by_waiting());
        }
        match self.fault {
            Fault::NoFailover => {}
            Fault::Failover => {
                reached.extend(reached_by_failovers());
                reached.extend(reached_by_replaced_primaries());
            }
            Fault::LossyFailover => {
                reached.extend(reached_by_failovers());
                reached.extend(reached_by_losses());
            }
            Fault::CrashInEpoch => reached.extend(reached_by_crashes()),
        }
        reached
    }
}

fn reached_by_validations() -> [Property<Setup>; 5] {
    [
        Property::sometimes("valid from memory", |setup: &Setup, state: &State| {
            state.replica.answers_from_memory(setup)
        }),
        Property::sometimes("valid from a lookup", |_, state: &State| state.replica.lookup.is_some()),
        Property::sometimes("an eviction overtakes a lookup", |_, state: &State| {
            state.replica.lookup.is_some() && state.replica.read.as_ref().is_some_and(|read| read.evicts)
        }),
        Property::sometimes("validates again after the acknowledgement", |setup: &Setup, state: &State| {
            state.is_acknowledged() && state.replica.has_lease(setup)
        }),
        Property::sometimes("the row of a registered replica is removed", |_, state: &State| {
            state.replica.registered == Some(state.primary()) && state.primary_database().row.is_none()
        }),
    ]
}

fn reached_by_revocations() -> [Property<Setup>; 2] {
    [
        Property::sometimes("revoked by a call that ended early", |setup: &Setup, state: &State| {
            let is_revoked = matches!(state.primary_database().token, Token::Revoked(_));
            is_revoked && state.may_revoke(setup) && state.replica.answers_from_memory(setup)
        }),
        Property::sometimes("waits for a renewal", |_, state: &State| {
            waits(state, |wait| wait.is_settled && !wait.is_renewed)
        }),
    ]
}

fn reached_by_waiting() -> [Property<Setup>; 3] {
    [
        Property::sometimes("no other row", |setup: &Setup, state: &State| {
            settles(setup, state, Because::NoOtherRow)
        }),
        Property::sometimes("seen", |setup: &Setup, state: &State| settles(setup, state, Because::Seen)),
        Property::sometimes("the lease is over", |setup: &Setup, state: &State| {
            settles(setup, state, Because::LeaseIsOver)
        }),
    ]
}

fn reached_by_failovers() -> [Property<Setup>; 4] {
    [
        Property::sometimes("valid from memory in the second epoch", |setup: &Setup, state: &State| {
            state.replica.registered == Some(Server::Second) && state.replica.answers_from_memory(setup)
        }),
        Property::sometimes("a creation waits", |_, state: &State| {
            state.creation == Creation::Waiting { age: 1 }
        }),
        Property::sometimes("a creation has waited", |_, state: &State| {
            state.creation == Creation::Waiting { age: LEASE }
        }),
        Property::sometimes(
            "a validation reads a server long after it began",
            |setup: &Setup, state: &State| state.may_answer_unknown() && !state.replica.has_lease(setup),
        ),
    ]
}

fn reached_by_replaced_primaries() -> [Property<Setup>; 2] {
    [
        Property::sometimes("only the replaced primary shows the revocation", |_, state: &State| {
            matches!(state.first.token, Token::Revoked(_))
                && replaced_primary_settles_and_second_accepts(state)
        }),
        Property::sometimes("the replaced primary lacks the token", |_, state: &State| {
            state.first.token == Token::Missing && replaced_primary_settles_and_second_accepts(state)
        }),
    ]
}

fn reached_by_losses() -> [Property<Setup>; 3] {
    [
        Property::sometimes("a lost token is valid from memory", |setup: &Setup, state: &State| {
            state.creation == Creation::Lost && state.replica.answers_from_memory(setup)
        }),
        Property::sometimes("no such token", |_, state: &State| {
            state.is_acknowledged() && state.primary_database().token == Token::Missing
        }),
        Property::sometimes("the placeholder is removed", |_, state: &State| {
            state.second.as_ref().is_some_and(|second| second.placeholder.is_none())
        }),
    ]
}

fn reached_by_crashes() -> [Property<Setup>; 3] {
    [
        Property::sometimes("a report may be lost", |_, state: &State| {
            state.first.row.as_ref().is_some_and(|row| row.seen != row.durable_seen)
        }),
        Property::sometimes("reads again from the last renewal", |_, state: &State| {
            let is_of_session = state.replica.head.is_none_or(|head| head.run == state.run);
            !is_of_session && state.replica.reported.is_some() && state.replica.read.is_some()
        }),
        Property::sometimes("cannot renew before it has read again", |setup: &Setup, state: &State| {
            state.replica.head.is_some() && state.replica.renewed_seen(setup, state.run).is_none()
        }),
    ]
}

fn waits(state: &State, so: impl Fn(&Wait) -> bool) -> bool {
    matches!(&state.revocation, Revocation::Waiting(wait) if so(wait))
}

/// Whether the revocation is acknowledged for this reason by the next statement.
fn settles(setup: &Setup, state: &State, because: Because) -> bool {
    waits(state, |wait| wait.is_renewed && state.settles(setup, wait, wait.epoch) == Some(because))
}

/// Whether only the renewal keeps a call on the replaced primary from the acknowledgement.
fn replaced_primary_settles_and_second_accepts(state: &State) -> bool {
    let accepts = state.second.as_ref().is_some_and(|second| second.token == Token::Live);
    accepts && waits(state, |wait| wait.epoch == Server::First && wait.is_settled)
}
