//! Real clients record a history of calls while faults happen, and a checker looks for an answer that must not be.
//!
//! `HISTORY_SECONDS` sets how long it runs, and `HISTORY_SEED` repeats the faults of a run.

mod checker;
mod site;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use latchkey::proto::latchkey::DeleteTokenRequest;
use rand::{
    RngExt as _, SeedableRng as _,
    rngs::StdRng,
    seq::{IndexedRandom as _, SliceRandom as _},
};
use tokio::{task::JoinSet, time::timeout};

use self::{
    checker::{Checker, TokenHistory, Validation},
    site::{Fault, REPLICAS, Site},
};

/// How long the test runs unless `HISTORY_SECONDS` says otherwise.
const SECONDS: u64 = 60;
/// Callers that validate, and callers that create and revoke.
const VALIDATORS: usize = 6;
const MANAGERS: usize = 3;
/// Tokens that are in use at once.
const TOKENS: usize = 60;
/// How long a caller waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);
const LONG_PATIENCE: Duration = Duration::from_secs(6);
/// The shortest and the longest fault, and the longest pause between two, in milliseconds.
const FAULT_MILLIS: std::ops::Range<u64> = 100..2_500;
const PAUSE_MILLIS: std::ops::Range<u64> = 50..1_200;
/// How often a revocation is tried, and how long a caller waits that gives up early.
const ATTEMPTS: usize = 4;
const IMPATIENCE: Duration = Duration::from_millis(150);

struct World {
    site: Site,
    checker: Checker,
    tokens: Mutex<Vec<Arc<TokenHistory>>>,
    valid: AtomicU64,
    invalid: AtomicU64,
    unknown: AtomicU64,
    revoked: AtomicU64,
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
        revoked: AtomicU64::default(),
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
        callers.spawn(validate(Arc::clone(&world), StdRng::from_rng(&mut seeds)));
    }
    for n in 0..MANAGERS {
        callers.spawn(manage(Arc::clone(&world), n, StdRng::from_rng(&mut seeds)));
    }
    faults.join_all().await;
    world.site.recovers().await;
    // Calls in flight have ended, and what is acknowledged holds everywhere.
    tokio::time::sleep(LONG_PATIENCE).await;
    callers.abort_all();
    while let Some(ended) = callers.join_next().await {
        assert!(ended.is_err_and(|error| error.is_cancelled()), "a caller has failed");
    }
    world.check_all().await;
    world.report(seed, duration);
}

/// Draws faults and makes them happen.
async fn fail(world: Arc<World>, mut random: StdRng, duration: Duration) {
    let mut kinds = Vec::new();
    while world.checker.now() < duration && !world.checker.has_failed() {
        if kinds.is_empty() {
            kinds = Fault::ALL.to_vec();
            kinds.shuffle(&mut random);
        }
        let fault = kinds.pop().unwrap();
        let replica = random.random_range(0..REPLICAS);
        let length = Duration::from_millis(random.random_range(FAULT_MILLIS));
        let pause = Duration::from_millis(random.random_range(PAUSE_MILLIS));
        world.checker.note(format!("{fault:?} of {replica} for {length:?} begins"));
        world.site.suffer(fault, replica, length).await;
        world.checker.note(format!("{fault:?} of {replica} ends"));
        *world.faults.lock().unwrap().entry(format!("{fault:?}")).or_default() += 1;
        tokio::time::sleep(pause).await;
    }
}

/// Validates tokens, live and revoked ones, again and again.
async fn validate(world: Arc<World>, mut random: StdRng) {
    loop {
        let token = world.tokens.lock().unwrap().choose(&mut random).cloned();
        let Some(token) = token else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        world.validate(&token, random.random_range(0..REPLICAS)).await;
        // Leaves the replicas time on the processor.
        tokio::time::sleep(Duration::from_millis(random.random_range(0..4))).await;
    }
}

impl World {
    /// Returns whether there was an answer.
    async fn validate(&self, token: &TokenHistory, replica: usize) -> bool {
        let client = self.site.client(replica);
        let invoked = self.checker.now();
        let answer = timeout(PATIENCE, client.try_validate(&token.secret, &[])).await;
        let Ok(Ok(verdict)) = answer else {
            self.unknown.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        let verdict = verdict.map(drop);
        let counter = if verdict.is_ok() { &self.valid } else { &self.invalid };
        counter.fetch_add(1, Ordering::Relaxed);
        let returned = self.checker.now();
        self.checker.check(token, &Validation { replica, invoked, returned, verdict });
        true
    }

    /// Validates a token on every replica, so that it is in memory, or right after its revocation.
    async fn validate_everywhere(&self, token: &TokenHistory) {
        for replica in 0..REPLICAS {
            self.validate(token, replica).await;
        }
    }

    /// Validates every token once more on every replica.
    async fn check_all(&self) {
        let tokens = self.tokens.lock().unwrap().clone();
        for token in tokens.iter().filter(|token| token.is_live() || token.is_revoked()) {
            for replica in 0..REPLICAS {
                assert!(self.validate(token, replica).await, "replica {replica} does not answer");
            }
        }
    }

    fn report(&self, seed: u64, duration: Duration) {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (valid, invalid) = (count(&self.valid), count(&self.invalid));
        let (unknown, revoked) = (count(&self.unknown), count(&self.revoked));
        let faults = self.faults.lock().unwrap();
        let total: u64 = faults.values().sum();
        println!(
            "seed {seed}: {total} faults {faults:?}; {valid} valid, {invalid} invalid, {unknown} unknown, \
             {revoked} acknowledged revocations"
        );
        let violations = self.checker.violations();
        assert!(violations.is_empty(), "HISTORY_SEED={seed}: {}", violations.join("\n"));
        // A history in which nothing happens proves nothing.
        let seconds = duration.as_secs();
        assert!(valid > 10 * seconds && invalid > seconds && revoked * 2 > seconds, "too little happened");
        assert!(seconds < SECONDS || faults.len() == Fault::ALL.len(), "{faults:?}");
    }
}

/// Creates tokens, and takes their access away, one by one or with their account.
async fn manage(world: Arc<World>, manager: usize, mut random: StdRng) {
    for round in 0.. {
        let user = format!("user {manager} {round}");
        let mine = world.create(&user, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
        for token in &mine {
            world.validate_everywhere(token).await;
        }
        if random.random_range(0..3) == 0 {
            world.delete_user(&user, &mine, &mut random).await;
        } else {
            for token in &mine {
                world.delete(token, &mut random).await;
            }
        }
        for token in &mine {
            world.validate_everywhere(token).await;
        }
    }
}

/// How long a caller waits for an answer to a revocation: some give up early, and repeat the call elsewhere.
fn patience(random: &mut StdRng) -> Duration {
    if random.random_range(0..4) == 0 { IMPATIENCE } else { LONG_PATIENCE }
}

impl World {
    async fn create(&self, user: &str, random: &mut StdRng) -> Vec<Arc<TokenHistory>> {
        let mut created = Vec::new();
        for name in ["one", "two"] {
            let client = self.site.client(random.random_range(0..REPLICAS));
            let Ok(Ok((id, secret))) = timeout(PATIENCE, client.try_issue(user, name)).await else {
                continue;
            };
            let token = Arc::new(TokenHistory::new(user.to_owned(), id, secret));
            created.push(Arc::clone(&token));
            let mut tokens = self.tokens.lock().unwrap();
            if tokens.len() < TOKENS {
                tokens.push(token);
            } else {
                let index = random.random_range(0..TOKENS);
                tokens[index] = token;
            }
        }
        created
    }

    async fn delete(&self, token: &TokenHistory, random: &mut StdRng) {
        token.revocation_begins();
        for attempt in 0..ATTEMPTS {
            let replica = random.random_range(0..REPLICAS);
            let (user_id, token_id) = (token.user.clone(), token.id.clone());
            let request = DeleteTokenRequest { user_id, token_id, allow_missing: attempt > 0 };
            let mut client = self.site.client(replica).tokens();
            if let Ok(Ok(_)) = timeout(patience(random), client.delete_token(request)).await {
                token.is_acknowledged(self.checker.now());
                self.revoked.fetch_add(1, Ordering::Relaxed);
                self.checker.note(format!("deletion of {} acknowledged by {replica}", token.id));
                return;
            }
        }
    }

    async fn delete_user(&self, user: &str, tokens: &[Arc<TokenHistory>], random: &mut StdRng) {
        tokens.iter().for_each(|token| token.revocation_begins());
        for _ in 0..ATTEMPTS {
            let replica = random.random_range(0..REPLICAS);
            let client = self.site.client(replica);
            if let Ok(Some(202)) = timeout(patience(random), client.post_deletion(user)).await {
                let now = self.checker.now();
                tokens.iter().for_each(|token| token.is_acknowledged(now));
                self.revoked.fetch_add(1, Ordering::Relaxed);
                self.checker.note(format!("deletion of {user} acknowledged by {replica}"));
                return;
            }
        }
    }
}
