//! The slow proof: an argon2id hash of the secret, which needs no key.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash,
};
use rand::{TryRng as _, rngs::SysRng};
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use super::Secret;

/// An argon2id hash in PHC string format, salt and parameters included.
#[derive(Clone)]
pub struct SecretHash(String);

impl SecretHash {
    pub(crate) fn from_stored(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// What a hash costs and how many may be under way.
#[derive(Clone, Copy, Debug)]
pub struct HashLimits {
    /// Memory of one run, in KiB: argon2's `m`.
    pub memory_kib: u32,
    /// Passes over that memory: argon2's `t`.
    pub iterations: u32,
    /// Lanes: argon2's `p`.
    pub parallelism: u32,
    /// How many run at once.
    pub concurrency: usize,
    /// How many more may wait for their turn.
    pub queue: usize,
}

/// Why there is no hash or no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Too many are waiting already.
    #[error("too many secrets are waiting to be hashed")]
    Busy,
    /// The stored hash is no PHC string that argon2 understands.
    #[error("the stored hash of a secret cannot be read")]
    Corrupt,
    /// The operating system gave no randomness, or not the memory.
    #[error("a secret could not be hashed")]
    Failed,
}

/// Runs argon2id off the async threads, a bounded number at once; the queue before it is bounded too.
#[derive(Debug)]
pub struct Hasher {
    argon2: Argon2<'static>,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    runs: AtomicU64,
    limits: HashLimits,
}

impl Hasher {
    /// A hasher within `limits`.
    ///
    /// # Errors
    ///
    /// The parameters are outside what argon2 permits.
    pub fn new(limits: HashLimits) -> Result<Self, argon2::Error> {
        let params = Params::new(limits.memory_kib, limits.iterations, limits.parallelism, None)?;
        Ok(Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            admitted: Arc::new(Semaphore::new(limits.concurrency.saturating_add(limits.queue))),
            running: Arc::new(Semaphore::new(limits.concurrency)),
            runs: AtomicU64::new(0),
            limits,
        })
    }

    /// How often argon2 has run since the start.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// How many wait for argon2 now.
    pub fn waiting(&self) -> usize {
        let HashLimits { concurrency, queue, .. } = self.limits;
        let admitted = concurrency.saturating_add(queue).saturating_sub(self.admitted.available_permits());
        let running = concurrency.saturating_sub(self.running.available_permits());
        admitted.saturating_sub(running)
    }

    /// Hashes `secret` with a fresh salt of 128 bits.
    ///
    /// # Errors
    ///
    /// [`HashError::Busy`] at once when the queue is full, [`HashError::Failed`].
    pub async fn hash(&self, secret: &Secret) -> Result<SecretHash, HashError> {
        let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
        SysRng.try_fill_bytes(&mut salt).map_err(|_| HashError::Failed)?;
        let secret = secret.clone();
        let hashed = self.run(move |argon2| argon2.hash_password_with_salt(secret.bits(), &salt)).await?;
        hashed.map(|hash| SecretHash(hash.to_string())).map_err(|_| HashError::Failed)
    }

    /// Whether `hash` is of `secret`, compared in constant time. The parameters are those of the hash.
    ///
    /// # Errors
    ///
    /// [`HashError::Busy`] at once when the queue is full, [`HashError::Corrupt`], [`HashError::Failed`].
    pub async fn verify(&self, secret: &Secret, hash: &SecretHash) -> Result<bool, HashError> {
        let hash = PasswordHash::new(hash.as_str()).map_err(|_| HashError::Corrupt)?;
        let secret = secret.clone();
        match self.run(move |argon2| argon2.verify_password(secret.bits(), &hash)).await? {
            Ok(()) => Ok(true),
            Err(password_hash::Error::PasswordInvalid) => Ok(false),
            Err(_) => Err(HashError::Corrupt),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Argon2<'static>) -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| HashError::Busy)?;
        let run = async {
            let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| HashError::Failed)?;
            self.runs.fetch_add(1, Ordering::Relaxed);
            let argon2 = self.argon2.clone();
            // The permits go with the work, not with the caller: a caller that hangs up does not make room.
            let work = move || {
                let _held = (admitted, running);
                work(&argon2)
            };
            tokio::task::spawn_blocking(work).await.map_err(|_| HashError::Failed)
        };
        run.instrument(tracing::info_span!("argon2id")).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn hasher(concurrency: usize, queue: usize) -> Hasher {
        Hasher::new(HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency, queue }).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_of_its_secret_alone_and_states_its_parameters() {
        let hasher = hasher(1, 0);
        let secret = Secret::generate().unwrap();
        let hash = hasher.hash(&secret).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert_eq!(hasher.verify(&secret, &hash).await, Ok(true));
        assert_eq!(hasher.verify(&Secret::generate().unwrap(), &hash).await, Ok(false));
        assert_ne!(hasher.hash(&secret).await.unwrap().as_str(), hash.as_str(), "a salt is used once");
        assert_eq!(hasher.verify(&secret, &SecretHash("x".into())).await, Err(HashError::Corrupt));
        assert_eq!(hasher.runs(), 4);
        assert_eq!(format!("{hash:?}"), "[redacted]");
    }

    /// Two run, one waits, the fourth is told so at once; nobody who hangs up makes room.
    #[tokio::test]
    async fn a_bounded_number_runs_and_waits() {
        let hasher = Arc::new(hasher(2, 1));
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
        let start = || {
            let (hasher, gate, started) = (Arc::clone(&hasher), Arc::clone(&gate), started.clone());
            tokio::spawn(async move {
                hasher
                    .run(move |_| {
                        started.send(()).unwrap();
                        gate.lock().unwrap().recv().unwrap();
                    })
                    .await
            })
        };
        let callers = [start(), start()];
        starts.recv().await.unwrap();
        starts.recv().await.unwrap();
        assert_eq!(hasher.waiting(), 0);
        let third = start();
        while hasher.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hasher.run(|_| ()).await, Err(HashError::Busy));
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(hasher.run(|_| ()).await, Err(HashError::Busy));
        assert_eq!(hasher.runs(), 2);
        for _ in 0..3 {
            open.send(()).unwrap();
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), third).await.unwrap().unwrap(), Ok(()));
        assert_eq!(hasher.runs(), 3);
    }
}
