//! The protocol of docs/decisions/0014-ok-means-everywhere.md, checked over all interleavings of its steps.
//!
//! One replica validates one token, and another one or the same one revokes it. More replicas add nothing: a replica meets
//! the others only in their rows, and a revocation waits for each row by itself.

mod creation;
mod database;
mod model;
mod reached;
mod removal;
mod replica;
mod revocation;
mod setup;
mod state;

use rstest::rstest;
use stateright::{Checker, HasDiscoveries, Model as _};

use model::{NEVER_UNKNOWN, NEVER_VALID};
use setup::{
    Fault::{self, *},
    Revoker::{self, *},
    Rule::{self, *},
    Setup,
};

/// What is not needed with SQLite, where no other server takes over.
const SQLITE: [Rule; 4] = [RenewAlone, LeaseToLookUp, RenewalAfterCommit, RenewalAfterRead];

#[rstest]
#[case(Another, NoFailover)]
#[case(Another, Failover)]
#[case(Another, LossyFailover)]
#[case(Another, CrashInEpoch)]
#[case(Itself, Failover)]
#[case(Itself, CrashInEpoch)]
fn every_interleaving_keeps_both_promises(#[case] revoker: Revoker, #[case] fault: Fault) {
    Setup { revoker, fault, without: Vec::new() }.checker().spawn_bfs().join().assert_properties();
}

#[rstest]
#[case(Another)]
#[case(Itself)]
fn with_sqlite_a_single_replica_need_not_renew(#[case] revoker: Revoker) {
    let setup = Setup { revoker, fault: NoFailover, without: SQLITE.to_vec() };
    let checker = setup.checker().spawn_bfs().join();
    checker.assert_no_discovery(NEVER_VALID);
    checker.assert_no_discovery(NEVER_UNKNOWN);
}

/// Each rule is needed: without it, some interleaving accepts a token that was revoked.
#[rstest]
#[case(RegisterFirst, Another, NoFailover)]
#[case(TicketToCache, Another, NoFailover)]
#[case(TicketToJoin, Another, NoFailover)]
#[case(EvictLocally, Itself, NoFailover)]
#[case(EvictIfRevokedAlready, Itself, NoFailover)]
#[case(Wait, Another, NoFailover)]
#[case(WaitIfRevokedAlready, Another, NoFailover)]
#[case(WaitIfMissing, Another, LossyFailover)]
#[case(RenewalAfterCommit, Another, Failover)]
#[case(RenewalAfterCommit, Itself, Failover)]
#[case(RenewalAfterRead, Another, Failover)]
#[case(RenewalAfterRead, Itself, Failover)]
#[case(LeaseForMemory, Another, NoFailover)]
#[case(LeaseToLookUp, Another, Failover)]
#[case(LeaseToJoin, Another, NoFailover)]
#[case(ReadFromBegin, Another, NoFailover)]
#[case(RenewalFromBegin, Another, Failover)]
#[case(Renewal, Another, Failover)]
#[case(EvictBeforeSeen, Another, NoFailover)]
#[case(NoStandby, Another, Failover)]
#[case(OneStatement, Another, Failover)]
#[case(EpochOfRead, Another, Failover)]
#[case(EpochOfRenewal, Another, Failover)]
#[case(EpochOfLookup, Another, Failover)]
#[case(EpochOfWait, Another, Failover)]
#[case(EpochOfRevoker, Another, Failover)]
#[case(EpochOfRevoker, Itself, Failover)]
#[case(WaitForLostRows, Another, LossyFailover)]
#[case(Rewind, Another, CrashInEpoch)]
#[case(RewindToRenewal, Another, CrashInEpoch)]
#[case(RenewOnOlderSession, Another, CrashInEpoch)]
#[case(ReportOnOlderSession, Another, CrashInEpoch)]
#[case(NewIdPerRegistration, Another, NoFailover)]
#[case(RemovalIsConditional, Another, NoFailover)]
#[case(LeaseEndsBeforeLeaving, Another, NoFailover)]
fn without_this_rule_a_revoked_token_is_accepted(
    #[case] rule: Rule,
    #[case] revoker: Revoker,
    #[case] fault: Fault,
) {
    assert_is_broken(Setup { revoker, fault, without: vec![rule] }, NEVER_VALID);
}

#[rstest]
#[case(LeaseToJoin)]
#[case(RowIsThere)]
#[case(Renewal)]
#[case(NewIdPerRegistration)]
#[case(RemovalIsConditional)]
#[case(RemoverIsRegistered)]
#[case(NotesEndWithRegistration)]
fn without_this_rule_a_revoked_token_is_accepted_with_sqlite(#[case] rule: Rule) {
    let without = SQLITE.into_iter().chain([rule]).collect();
    assert_is_broken(Setup { revoker: Another, fault: NoFailover, without }, NEVER_VALID);
}

/// Each of these rules is needed also for creations: without it, some interleaving denies that a new token exists.
#[rstest]
#[case(CreationWaits, Failover)]
#[case(WaitForLostRows, LossyFailover)]
#[case(LeaseToLookUp, Failover)]
#[case(RenewalFromBegin, Failover)]
#[case(Renewal, Failover)]
#[case(RenewAlone, Failover)]
#[case(EpochOfRenewal, Failover)]
#[case(EpochOfLookup, Failover)]
#[case(NewIdPerRegistration, Failover)]
#[case(RemovalIsConditional, Failover)]
fn without_this_rule_a_new_token_is_unknown(#[case] rule: Rule, #[case] fault: Fault) {
    assert_is_broken(Setup { revoker: Another, fault, without: vec![rule] }, NEVER_UNKNOWN);
}

fn assert_is_broken(setup: Setup, promise: &'static str) {
    let found = HasDiscoveries::AllOf([promise].into());
    let checker = setup.checker().finish_when(found).spawn_bfs().join();
    let path = checker.discovery(promise).expect("a counterexample");
    // Shown if asked for: the shortest way to break the promise.
    println!("{:#?}", path.into_actions());
}
