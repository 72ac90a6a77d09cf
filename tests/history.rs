//! Real clients record a history of calls while faults happen, and a checker looks for an answer that must not be.
//!
//! `HISTORY_SECONDS` sets how long it runs, and `HISTORY_SEED` repeats the faults of a run.

mod account_messages;
mod callers;
mod checker;
mod cluster;
mod fault;
mod replica;
mod revocation;
mod shuffled;
mod site;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::task::JoinSet;

use self::{
    checker::{Checker, TokenHistory},
    fault::Fault,
    revocation::Acknowledgement,
    shuffled::Shuffled,
    site::{REPLICAS, Site},
};

/// How long the test runs unless `HISTORY_SECONDS` says otherwise.
const SECONDS: u64 = 60;
/// Callers that validate, that create, and that create and revoke.
const VALIDATORS: usize = 6;
const CREATORS: usize = 2;
const MANAGERS: usize = 5;
/// The longest pause between two faults, in milliseconds.
const PAUSE_MILLIS: std::ops::Range<u64> = 50..1_200;

struct World {
    site: Site,
    checker: Checker,
    tokens: Mutex<Vec<Arc<TokenHistory>>>,
    valid: AtomicU64,
    invalid: AtomicU64,
    unknown: AtomicU64,
    created: AtomicU64,
    /// By whether nobody had asked for the revocation of the token before.
    acknowledgements: Mutex<BTreeMap<(Acknowledgement, bool), u64>>,
    faults: Mutex<HashMap<String, u64>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_validation_that_begins_after_an_acknowledged_revocation_accepts_the_token() {
    let setting = |name, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let seed = setting("HISTORY_SEED", std::process::id().into());
    let duration = Duration::from_secs(setting("HISTORY_SECONDS", SECONDS));
    println!("HISTORY_SEED={seed} HISTORY_SECONDS={}", duration.as_secs());
    let world = Arc::new(World {
        site: Site::start().await,
        checker: Checker::new(),
        tokens: Mutex::default(),
        valid: AtomicU64::default(),
        invalid: AtomicU64::default(),
        unknown: AtomicU64::default(),
        created: AtomicU64::default(),
        acknowledgements: Mutex::default(),
        faults: Mutex::default(),
    });

    let mut seeds = StdRng::seed_from_u64(seed);
    // Two at once: faults meet.
    let mut faults = JoinSet::new();
    for _ in 0..2 {
        faults.spawn(fail(Arc::clone(&world), StdRng::from_rng(&mut seeds), duration));
    }
    let mut callers = JoinSet::new();
    for _ in 0..VALIDATORS {
        callers.spawn(callers::validate(Arc::clone(&world), StdRng::from_rng(&mut seeds)));
    }
    for n in 0..CREATORS {
        callers.spawn(callers::create(Arc::clone(&world), n, StdRng::from_rng(&mut seeds)));
    }
    for n in 0..MANAGERS {
        callers.spawn(callers::manage(Arc::clone(&world), n, StdRng::from_rng(&mut seeds)));
    }
    faults.join_all().await;
    world.site.recovers().await;
    // Calls in flight have ended, and what is acknowledged holds everywhere.
    tokio::time::sleep(callers::REVOCATION_PATIENCE).await;
    callers.abort_all();
    while let Some(ended) = callers.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "a caller has failed");
    }
    world.check_all().await;
    world.report(seed, duration);
}

/// Draws faults and makes them happen.
async fn fail(world: Arc<World>, mut random: StdRng, duration: Duration) {
    let mut kinds = Shuffled::of(&Fault::ALL);
    while world.checker.now() < duration && !world.checker.has_failed() {
        let fault = kinds.draw(&mut random);
        let replica = random.random_range(0..REPLICAS);
        let pause = Duration::from_millis(random.random_range(PAUSE_MILLIS));
        world.checker.note_fault(format!("{fault:?} of {replica} begins"));
        world.site.suffer(fault, replica, &mut random).await;
        world.checker.note_fault(format!("{fault:?} of {replica} ends"));
        *world.faults.lock().unwrap().entry(format!("{fault:?}")).or_default() += 1;
        tokio::time::sleep(pause).await;
    }
}

impl World {
    fn report(&self, seed: u64, duration: Duration) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (valid, invalid) = (count(&self.valid), count(&self.invalid));
        let (unknown, created) = (count(&self.unknown), count(&self.created));
        let faults = self.faults.lock().unwrap();
        let acknowledgements = self.acknowledgements.lock().unwrap();
        let acknowledged = |kind, is_first| acknowledgements.get(&(kind, is_first)).copied().unwrap_or(0);
        let total: u64 = faults.values().sum();
        println!("seed {seed}: {total} faults {faults:?}");
        println!("{valid} valid, {invalid} invalid, {unknown} unknown, {created} created");
        for kind in Acknowledgement::ALL {
            println!("{kind:?}: {} first, {} repeated", acknowledged(kind, true), acknowledged(kind, false));
        }
        let violations = self.checker.violations();
        assert!(violations.is_empty(), "HISTORY_SEED={seed}: {}", violations.join("\n"));
        // A history in which nothing happens proves nothing.
        let seconds = duration.as_secs();
        let revoked: u64 = acknowledgements.values().sum();
        assert!(valid > 10 * seconds && invalid > seconds && revoked * 2 > seconds, "too little happened");
        if seconds < SECONDS {
            return;
        }
        assert!(faults.len() == Fault::ALL.len(), "{faults:?}");
        for kind in Acknowledgement::ALL {
            // Nothing is missing at first, and repeated calls find little to delete.
            assert!(
                acknowledged(kind, true) > 0 || kind == Acknowledgement::NotFound,
                "{kind:?} never came first"
            );
            assert!(
                acknowledged(kind, false) > 0 || kind == Acknowledgement::Deleted,
                "{kind:?} was never repeated"
            );
        }
    }
}
