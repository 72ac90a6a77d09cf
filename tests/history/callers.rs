//! Callers that create, validate and revoke tokens, and record what they are told.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use rand::{RngExt as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::time::{sleep, timeout};

use super::{
    World,
    checker::{TokenHistory, Validation},
    revocation::Revocation,
    shuffled::Shuffled,
    site::REPLICAS,
};

/// Tokens that are in use at once.
const TOKENS: usize = 60;
/// How long a caller waits for an answer. Where it matters what a replica says after a pause, it waits longer than that.
const PATIENCE: Duration = Duration::from_millis(1_500);
const LONG_PATIENCE: Duration = Duration::from_secs(3);
/// How long a caller waits for a revocation: longer than a service does.
pub const REVOCATION_PATIENCE: Duration = Duration::from_secs(6);
/// How long a caller waits that gives up early, in milliseconds: most calls commit in that time, and few have been seen by all.
const IMPATIENCE_MILLIS: Range<u64> = 20..300;
/// How often a revocation is asked for.
const ATTEMPTS: usize = 4;

fn millis(random: &mut StdRng, range: Range<u64>) -> Duration {
    Duration::from_millis(random.random_range(range))
}

/// Validates tokens, live and revoked ones, again and again.
pub async fn validate(world: Arc<World>, mut random: StdRng) {
    loop {
        let token = world.tokens.lock().unwrap().choose(&mut random).cloned();
        let Some(token) = token else {
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        world.validate(&token, random.random_range(0..REPLICAS), PATIENCE).await;
        // Leaves the replicas time on the processor.
        sleep(millis(&mut random, 0..4)).await;
    }
}

/// Creates tokens that nobody revokes.
pub async fn create(world: Arc<World>, creator: usize, mut random: StdRng) {
    for round in 0.. {
        world.create(&format!("owner {creator} {round}"), "one", &mut random).await;
        sleep(millis(&mut random, 0..100)).await;
    }
}

/// Creates tokens, and takes their access away, one by one or with their account.
pub async fn manage(world: Arc<World>, manager: usize, mut random: StdRng) {
    let mut first = Shuffled::of(&Revocation::ALL);
    let mut repeats = Shuffled::of(&Revocation::ALL);
    for round in 0.. {
        let user = format!("user {manager} {round}");
        let mut mine = Vec::new();
        for name in ["one", "two"] {
            mine.extend(world.create(&user, name, &mut random).await);
        }
        sleep(millis(&mut random, 0..200)).await;
        for token in &mine {
            // Into memory.
            world.validate_everywhere(token, PATIENCE).await;
            world.revoke(token, &mine, [&mut first, &mut repeats], &mut random).await;
        }
    }
}

impl World {
    /// Creates a token and validates it at once on every replica.
    async fn create(&self, user: &str, name: &str, random: &mut StdRng) -> Option<Arc<TokenHistory>> {
        let replica = random.random_range(0..REPLICAS);
        let client = self.site.client(replica);
        let (id, secret) = timeout(LONG_PATIENCE, client.try_issue(user, name)).await.ok()?.ok()?;
        let token = Arc::new(TokenHistory::new(user.to_owned(), id, secret));
        self.checker.note(user, format!("{} created by {replica}", token.id));
        self.created.fetch_add(1, Ordering::Relaxed);
        {
            let mut tokens = self.tokens.lock().unwrap();
            if tokens.len() < TOKENS {
                tokens.push(Arc::clone(&token));
            } else {
                let index = random.random_range(0..TOKENS);
                tokens[index] = Arc::clone(&token);
            }
        }
        self.validate_everywhere(&token, PATIENCE).await;
        Some(token)
    }

    /// Asks for the revocation of a token, perhaps of `all` tokens of its user, until it is acknowledged, and sometimes once
    /// more. Each call is made to another replica than the one before, and most are of another kind.
    async fn revoke(
        &self,
        token: &Arc<TokenHistory>,
        all: &[Arc<TokenHistory>],
        [first, repeats]: [&mut Shuffled<Revocation>; 2],
        random: &mut StdRng,
    ) {
        let mut replica = random.random_range(0..REPLICAS);
        for attempt in 0..ATTEMPTS {
            replica = (replica + random.random_range(1..REPLICAS)) % REPLICAS;
            let is_first = token.is_live();
            let revocation = if is_first { &mut *first } else { &mut *repeats }.draw(random);
            let revoked = if revocation.is_of_the_account() { all } else { std::slice::from_ref(token) };
            revoked.iter().for_each(|token| token.revocation_begins());
            let is_impatient = attempt == 0 && random.random_range(0..2) == 0;
            let patience = if is_impatient { millis(random, IMPATIENCE_MILLIS) } else { REVOCATION_PATIENCE };
            self.checker.note(&token.user, format!("{revocation:?} of {} asked of {replica}", token.id));
            let answer = timeout(patience, revocation.ask(&self.site, replica, token)).await;
            let Ok(Some(acknowledgement)) = answer else {
                self.checker.note(&token.user, format!("{revocation:?} of {} not acknowledged", token.id));
                continue;
            };
            let now = self.checker.now();
            revoked.iter().for_each(|token| token.is_acknowledged(now));
            self.checker.note(&token.user, format!("{acknowledgement:?} of {} answered", token.id));
            *self.acknowledgements.lock().unwrap().entry((acknowledgement, is_first)).or_default() += 1;
            join_all(revoked.iter().map(|token| self.validate_everywhere(token, LONG_PATIENCE))).await;
            if random.random_range(0..3) > 0 {
                return;
            }
        }
    }

    /// Validates a token on every replica at once.
    async fn validate_everywhere(&self, token: &TokenHistory, patience: Duration) {
        join_all((0..REPLICAS).map(|replica| self.validate(token, replica, patience))).await;
    }

    /// Validates a token, and returns whether there was an answer.
    async fn validate(&self, token: &TokenHistory, replica: usize, patience: Duration) -> bool {
        let client = self.site.client(replica);
        let invoked = self.checker.now();
        let answer = timeout(patience, client.try_validate(&token.secret, &[])).await;
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

    /// Validates every token once more on every replica.
    pub async fn check_all(&self) {
        let tokens = self.tokens.lock().unwrap().clone();
        for token in tokens.iter().filter(|token| token.is_live() || token.is_revoked()) {
            for replica in 0..REPLICAS {
                let is_answered = self.validate(token, replica, PATIENCE).await;
                assert!(is_answered, "replica {replica} does not answer");
            }
        }
    }
}
