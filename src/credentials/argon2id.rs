//! The slow check of a secret: argon2id, which needs no key.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use argon2::{Algorithm, Argon2, Block, Params, Version, password_hash::phc::Output};
use rand::{TryRng as _, rngs::SysRng};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use super::{SecretHash, argon2_memory::HashMemory};
use crate::token::BearerToken;

/// The cost of a hash, and how many hashes may run and wait.
#[derive(Clone, Copy, Debug)]
pub struct HashLimits {
    /// Memory of one run, in KiB: argon2's `m`.
    pub memory_kib: u32,
    /// Passes over that memory: argon2's `t`.
    pub iterations: u32,
    /// Lanes: argon2's `p`.
    pub parallelism: u32,
    /// Maximum number of runs at once.
    pub concurrency: usize,
    /// Maximum number of runs that wait.
    pub queue: usize,
}

/// Why a secret was not hashed or not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// The queue is full.
    #[error("too many secrets are waiting to be hashed")]
    Busy,
    /// The stored hash is not a PHC string that argon2 understands.
    #[error("the stored hash of a secret cannot be read")]
    Corrupt,
    /// The operating system provided no randomness or not enough memory.
    #[error("a secret could not be hashed")]
    Failed,
}

/// Runs argon2id on blocking threads. Both the number of runs at once and the queue are bounded.
#[derive(Debug)]
pub struct Hasher {
    argon2: Argon2<'static>,
    memory: Arc<HashMemory>,
    admitted: Arc<Semaphore>,
    running: Arc<Semaphore>,
    runs: AtomicU64,
    limits: HashLimits,
}

impl Hasher {
    /// Creates a hasher.
    ///
    /// # Errors
    ///
    /// The memory, iterations or parallelism are out of argon2's range.
    pub fn new(limits: HashLimits) -> Result<Self, argon2::Error> {
        let params = Params::new(limits.memory_kib, limits.iterations, limits.parallelism, None)?;
        Ok(Self {
            memory: Arc::new(HashMemory::new(params.block_count())),
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            admitted: Arc::new(Semaphore::new(limits.concurrency.saturating_add(limits.queue))),
            running: Arc::new(Semaphore::new(limits.concurrency)),
            runs: AtomicU64::new(0),
            limits,
        })
    }

    /// Returns how often argon2 has run since the start.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Returns how many runs wait in the queue.
    pub fn waiting(&self) -> usize {
        let HashLimits { concurrency, queue, .. } = self.limits;
        let admitted = concurrency.saturating_add(queue).saturating_sub(self.admitted.available_permits());
        let running = concurrency.saturating_sub(self.running.available_permits());
        admitted.saturating_sub(running)
    }

    /// Hashes the secret of `bearer` with a new salt of 128 bits.
    ///
    /// # Errors
    ///
    /// [`HashError::Busy`] at once if the queue is full, or [`HashError::Failed`].
    pub async fn hash(&self, bearer: &BearerToken) -> Result<SecretHash, HashError> {
        let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
        SysRng.try_fill_bytes(&mut salt).map_err(|_| HashError::Failed)?;
        let (argon2, bearer) = (self.argon2.clone(), bearer.clone());
        let blocks = argon2.params().block_count();
        let compute = move |memory: &mut [Block]| SecretHash::compute(&argon2, &bearer, &salt, memory);
        self.run(blocks, compute).await?.map_err(|_| HashError::Failed)
    }

    /// Returns whether `hash` is of the secret of `bearer`, compared in constant time. Uses the parameters in the hash,
    /// not those of this hasher.
    ///
    /// # Errors
    ///
    /// [`HashError::Busy`] at once if the queue is full, [`HashError::Corrupt`], or [`HashError::Failed`].
    pub async fn verify(&self, bearer: &BearerToken, hash: &SecretHash) -> Result<bool, HashError> {
        let (argon2, salt, expected) = hash.parse().ok_or(HashError::Corrupt)?;
        let (blocks, bearer) = (argon2.params().block_count(), bearer.clone());
        let verify = move |memory: &mut [Block]| {
            let mut output = Zeroizing::new([0; Output::MAX_LENGTH]);
            let output = &mut output[..expected.len()];
            argon2.hash_password_into_with_memory(bearer.secret(), &salt, output, memory)?;
            Ok(output.ct_eq(expected.as_bytes()).into())
        };
        self.run(blocks, verify).await?.map_err(|_: argon2::Error| HashError::Corrupt)
    }

    /// Runs `work` on a blocking thread with `blocks` blocks of memory, as soon as fewer than `concurrency` runs are in
    /// flight.
    async fn run<T: Send + 'static>(
        &self,
        blocks: usize,
        work: impl FnOnce(&mut [Block]) -> T + Send + 'static,
    ) -> Result<T, HashError> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| HashError::Busy)?;
        let run = async {
            let running = Arc::clone(&self.running).acquire_owned().await.map_err(|_| HashError::Failed)?;
            self.runs.fetch_add(1, Ordering::Relaxed);
            let memory = Arc::clone(&self.memory);
            // The work holds the permits, not the caller: argon2 runs to its end even if the caller disconnects. The
            // buffer is dropped before the permits, so that there are never more buffers than permitted runs.
            let work = move || {
                let _permits = (admitted, running);
                let mut buffer = memory.buffer(blocks).map_err(|_| HashError::Failed)?;
                Ok(work(&mut buffer))
            };
            tokio::task::spawn_blocking(work).await.map_err(|_| HashError::Failed)?
        };
        run.instrument(tracing::info_span!("argon2id")).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argon2::{PasswordHash, PasswordHasher as _};

    use super::*;

    fn hasher(concurrency: usize, queue: usize) -> Hasher {
        Hasher::new(HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency, queue }).unwrap()
    }

    #[tokio::test]
    async fn a_hash_verifies_its_own_secret_only_and_contains_its_parameters() {
        let hasher = hasher(1, 0);
        let bearer = BearerToken::generate().unwrap();
        let hash = hasher.hash(&bearer).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert_eq!(hasher.verify(&bearer, &hash).await, Ok(true));
        assert_eq!(hasher.verify(&BearerToken::generate().unwrap(), &hash).await, Ok(false));
        assert_ne!(hasher.hash(&bearer).await.unwrap().as_str(), hash.as_str(), "each hash has a new salt");
        assert_eq!(
            hasher.verify(&bearer, &SecretHash::from_stored("x".into())).await,
            Err(HashError::Corrupt)
        );
        assert_eq!(hasher.runs(), 4);
        assert_eq!(format!("{hash:?}"), "[redacted]");
    }

    /// The functions of the argon2 crate that write a PHC string allocate their own memory, so [`SecretHash`] writes
    /// it.
    #[tokio::test]
    async fn hashes_equal_those_of_the_argon2_crate() {
        let hasher = hasher(1, 0);
        let bearer = BearerToken::generate().unwrap();
        let hash = hasher.hash(&bearer).await.unwrap();
        let salt = PasswordHash::new(hash.as_str()).unwrap().salt.unwrap();
        let by_the_crate = hasher.argon2.hash_password_with_salt(bearer.secret(), &salt).unwrap();
        assert_eq!(hash.as_str(), by_the_crate.to_string());
    }

    #[tokio::test]
    async fn hashes_with_other_parameters_verify() {
        let hasher = hasher(1, 0);
        let (bearer, other) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
        let (id, i, new, old) = (Algorithm::Argon2id, Algorithm::Argon2i, Version::V0x13, Version::V0x10);
        for (algorithm, version, [memory_kib, iterations, lanes, length]) in [
            (id, new, [8, 3, 1, 32]),
            (id, new, [64, 1, 1, 32]),
            (id, new, [64, 1, 4, 32]),
            (id, new, [40 * 1_024, 1, 1, 32]),
            (id, new, [8, 1, 1, 16]),
            (id, new, [8, 1, 1, 64]),
            (i, old, [16, 1, 2, 32]),
        ] {
            let params = Params::new(memory_kib, iterations, lanes, Some(length as usize)).unwrap();
            let argon2 = Argon2::new(algorithm, version, params);
            let hash =
                argon2.hash_password_with_salt(bearer.secret(), b"some other salt").unwrap().to_string();
            let hash = SecretHash::from_stored(hash);
            assert_eq!(hasher.verify(&bearer, &hash).await, Ok(true), "{}", hash.as_str());
            assert_eq!(hasher.verify(&other, &hash).await, Ok(false), "{}", hash.as_str());
        }
    }

    #[tokio::test]
    async fn an_incomplete_or_unknown_hash_is_corrupt() {
        let hasher = hasher(1, 0);
        let bearer = BearerToken::generate().unwrap();
        let good = hasher.hash(&bearer).await.unwrap();
        for bad in [
            good.as_str().rsplit_once('$').unwrap().0.to_owned(),
            good.as_str().replace("argon2id", "scrypt"),
            good.as_str().replace("v=19", "v=18"),
            good.as_str().replace("m=8", "m=7"),
            good.as_str().replace("t=1", "t=0"),
        ] {
            assert_eq!(
                hasher.verify(&bearer, &SecretHash::from_stored(bad.clone())).await,
                Err(HashError::Corrupt),
                "{bad}"
            );
        }
        assert_eq!(hasher.runs(), 1);
    }

    /// Two run, one waits, and the fourth is refused at once. A caller that disconnects does not free its permits.
    #[tokio::test]
    async fn a_bounded_number_runs_and_waits() {
        let hasher = Arc::new(hasher(2, 1));
        let (open, gate) = std::sync::mpsc::sync_channel::<()>(3);
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let (started, mut starts) = tokio::sync::mpsc::channel(4);
        let start = || {
            let (hasher, gate, started) = (Arc::clone(&hasher), Arc::clone(&gate), started.clone());
            tokio::spawn(async move {
                hasher
                    .run(8, move |_| {
                        started.try_send(()).unwrap();
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
        assert_eq!(hasher.run(8, |_| ()).await, Err(HashError::Busy));
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(hasher.run(8, |_| ()).await, Err(HashError::Busy));
        assert_eq!(hasher.runs(), 2);
        for _ in 0..3 {
            open.send(()).unwrap();
        }
        assert_eq!(tokio::time::timeout(Duration::from_secs(10), third).await.unwrap().unwrap(), Ok(()));
        assert_eq!(hasher.runs(), 3);
    }
}
