//! The protocol of docs/decisions/0014-ok-means-everywhere.md, checked over all interleavings of its steps.
//!
//! One replica validates one token, and another one or the same one revokes it. More replicas add nothing: a replica meets
//! the others only in their rows, and a revocation waits for each row by itself.

mod database;
mod model;
mod replica;
mod setup;
mod state;

use rstest::rstest;
use stateright::{Checker, Model as _};

use model::NEVER_VALID;
use setup::{
    Fault::{self, *},
    Revoker::{self, *},
    Rule::{self, *},
    Setup,
};

/// What is not needed with SQLite, where nobody can be fenced.
const SQLITE: [Rule; 2] = [RenewAlone, LeaseToLookUp];

#[rstest]
#[case(Another, Failover)]
#[case(Another, LossyFailover)]
#[case(Another, Crash)]
#[case(Itself, Failover)]
fn no_interleaving_accepts_a_token_after_its_revocation(#[case] revoker: Revoker, #[case] fault: Fault) {
    Setup { revoker, fault, without: Vec::new() }.checker().spawn_bfs().join().assert_properties();
}

#[rstest]
#[case(Another)]
#[case(Itself)]
fn with_sqlite_a_single_replica_need_not_renew(#[case] revoker: Revoker) {
    let setup = Setup { revoker, fault: NoFailover, without: SQLITE.to_vec() };
    setup.checker().spawn_bfs().join().assert_no_discovery(NEVER_VALID);
}

/// Each rule is needed: without it, some interleaving accepts a token that was revoked.
#[rstest]
#[case(RegisterFirst, Another, NoFailover)]
#[case(TicketToCache, Another, NoFailover)]
#[case(TicketToJoin, Another, NoFailover)]
#[case(EvictLocally, Itself, NoFailover)]
#[case(Wait, Another, NoFailover)]
#[case(LeaseForMemory, Another, NoFailover)]
#[case(LeaseToLookUp, Another, Failover)]
#[case(LeaseToJoin, Another, NoFailover)]
#[case(ReadFromBegin, Another, NoFailover)]
#[case(RenewalFromBegin, Another, Failover)]
#[case(Renewal, Another, Failover)]
#[case(EvictBeforeSeen, Another, NoFailover)]
#[case(NoStandby, Another, Failover)]
#[case(OneConnection, Another, Failover)]
#[case(EpochOfRead, Another, Failover)]
#[case(EpochOfRenewal, Another, Failover)]
#[case(EpochOfLookup, Another, Failover)]
#[case(EpochOfWait, Another, Failover)]
#[case(EpochOfRevoker, Itself, Failover)]
#[case(EpochOfCrash, Another, Crash)]
#[case(WaitForLostRows, Another, LossyFailover)]
fn without_this_rule_a_revoked_token_is_accepted(
    #[case] rule: Rule,
    #[case] revoker: Revoker,
    #[case] fault: Fault,
) {
    assert_is_broken(Setup { revoker, fault, without: vec![rule] });
}

#[rstest]
#[case(LeaseToJoin)]
#[case(RowIsThere)]
#[case(Renewal)]
fn without_this_rule_a_revoked_token_is_accepted_with_sqlite(#[case] rule: Rule) {
    let without = SQLITE.into_iter().chain([rule]).collect();
    assert_is_broken(Setup { revoker: Another, fault: NoFailover, without });
}

fn assert_is_broken(setup: Setup) {
    let path = setup.checker().spawn_bfs().join().discovery(NEVER_VALID).expect("a counterexample");
    // Shown if asked for: the shortest way to break the promise.
    println!("{:#?}", path.into_actions());
}
