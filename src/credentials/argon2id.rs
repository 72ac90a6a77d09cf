//! The slow proof: an argon2id hash of the secret, which needs no key.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Output, ParamsString, Salt},
};
use rand::{TryRng as _, rngs::SysRng};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;
use tracing::Instrument as _;
use zeroize::Zeroizing;

use super::argon2_memory::HashMemory;
use crate::token::BearerToken;

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
    memory: Arc<HashMemory>,
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
            memory: Arc::new(HashMemory::new(params.block_count())),
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
    pub async fn hash(&self, secret: &BearerToken) -> Result<SecretHash, HashError> {
        let mut salt = [0; argon2::RECOMMENDED_SALT_LEN];
        SysRng.try_fill_bytes(&mut salt).map_err(|_| HashError::Failed)?;
        let (argon2, secret) = (self.argon2.clone(), secret.clone());
        let hashed =
            self.run(argon2.params().block_count(), move |memory| phc(&argon2, &secret, &salt, memory));
        hashed.await?.map_err(|_| HashError::Failed)
    }

    /// Whether `hash` is of `secret`, compared in constant time. The parameters are those of the hash.
    ///
    /// # Errors
    ///
    /// [`HashError::Busy`] at once when the queue is full, [`HashError::Corrupt`], [`HashError::Failed`].
    pub async fn verify(&self, secret: &BearerToken, hash: &SecretHash) -> Result<bool, HashError> {
        let (argon2, salt, expected) = parse_phc(hash).ok_or(HashError::Corrupt)?;
        let (blocks, secret) = (argon2.params().block_count(), secret.clone());
        let verify = move |memory: &mut [Block]| {
            let mut output = Zeroizing::new([0; Output::MAX_LENGTH]);
            let output = &mut output[..expected.len()];
            argon2.hash_password_into_with_memory(secret.bits(), &salt, output, memory)?;
            Ok(output.ct_eq(expected.as_bytes()).into())
        };
        self.run(blocks, verify).await?.map_err(|_: argon2::Error| HashError::Corrupt)
    }

    /// Runs `work` with `blocks` blocks of memory.
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
            // The permits are held by the work, not by its caller: argon2 runs on when the caller hangs up. The buffer
            // is dropped before them, so that there are never more buffers than runs at once.
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

/// Hashes `secret`, and writes the hash as a PHC string.
fn phc(
    argon2: &Argon2<'_>,
    secret: &BearerToken,
    salt: &[u8],
    memory: &mut [Block],
) -> argon2::password_hash::Result<SecretHash> {
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    argon2.hash_password_into_with_memory(secret.bits(), salt, &mut output, memory)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(argon2.params())?,
        salt: Some(Salt::new(salt)?),
        hash: Some(Output::new(&output)?),
    };
    Ok(SecretHash(hash.to_string()))
}

/// The algorithm with its parameters, the salt and the output of a hash.
fn parse_phc(hash: &SecretHash) -> Option<(Argon2<'static>, Salt, Output)> {
    let hash = PasswordHash::new(hash.as_str()).ok()?;
    let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
    let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
    let params = Params::try_from(&hash).ok()?;
    Some((Argon2::new(algorithm, version, params), hash.salt?, hash.hash?))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use argon2::PasswordHasher as _;

    use super::*;

    fn hasher(concurrency: usize, queue: usize) -> Hasher {
        Hasher::new(HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency, queue }).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_of_its_secret_alone_and_states_its_parameters() {
        let hasher = hasher(1, 0);
        let secret = BearerToken::generate().unwrap();
        let hash = hasher.hash(&secret).await.unwrap();
        assert!(hash.as_str().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert_eq!(hasher.verify(&secret, &hash).await, Ok(true));
        assert_eq!(hasher.verify(&BearerToken::generate().unwrap(), &hash).await, Ok(false));
        assert_ne!(hasher.hash(&secret).await.unwrap().as_str(), hash.as_str(), "a salt is used once");
        assert_eq!(hasher.verify(&secret, &SecretHash("x".into())).await, Err(HashError::Corrupt));
        assert_eq!(hasher.runs(), 4);
        assert_eq!(format!("{hash:?}"), "[redacted]");
    }

    /// The stored form is that of the argon2 crate, whose own functions allocate their memory.
    #[tokio::test]
    async fn hashes_are_those_of_the_argon2_crate() {
        let hasher = hasher(1, 0);
        let secret = BearerToken::generate().unwrap();
        let hash = hasher.hash(&secret).await.unwrap();
        let salt = PasswordHash::new(hash.as_str()).unwrap().salt.unwrap();
        let of_the_crate = hasher.argon2.hash_password_with_salt(secret.bits(), &salt).unwrap();
        assert_eq!(hash.as_str(), of_the_crate.to_string());
    }

    #[tokio::test]
    async fn hashes_with_other_parameters_verify() {
        let hasher = hasher(1, 0);
        let (secret, other) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
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
                argon2.hash_password_with_salt(secret.bits(), b"a salt of its own").unwrap().to_string();
            let hash = SecretHash(hash);
            assert_eq!(hasher.verify(&secret, &hash).await, Ok(true), "{}", hash.as_str());
            assert_eq!(hasher.verify(&other, &hash).await, Ok(false), "{}", hash.as_str());
        }
    }

    #[tokio::test]
    async fn an_incomplete_or_unknown_hash_is_corrupt() {
        let hasher = hasher(1, 0);
        let secret = BearerToken::generate().unwrap();
        let good = hasher.hash(&secret).await.unwrap();
        for bad in [
            good.as_str().rsplit_once('$').unwrap().0.to_owned(),
            good.as_str().replace("argon2id", "scrypt"),
            good.as_str().replace("v=19", "v=18"),
            good.as_str().replace("m=8", "m=7"),
            good.as_str().replace("t=1", "t=0"),
        ] {
            assert_eq!(
                hasher.verify(&secret, &SecretHash(bad.clone())).await,
                Err(HashError::Corrupt),
                "{bad}"
            );
        }
        assert_eq!(hasher.runs(), 1);
    }

    /// Two run, one waits, the fourth is told so at once; nobody who hangs up makes room.
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
