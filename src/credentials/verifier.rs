//! Verifies a secret by its tag, if the key ring has the tag's key, and by argon2id otherwise.

use rand::rngs::SysError;
use uuid::Uuid;

use super::{HashError, Hasher, KeyRing, SecretHash, Tag};
use crate::token::BearerToken;

/// Computes what is stored of a secret, a hash and a tag, and verifies secrets against them.
#[derive(Debug)]
pub struct SecretVerifier {
    hasher: Hasher,
    keys: KeyRing,
}

/// The result of verifying a secret.
#[derive(Debug)]
pub enum Verification {
    /// The secret is wrong.
    Wrong,
    /// The secret is right, and the stored tag is up to date.
    Right,
    /// The secret is right, and this tag, under the primary key, should replace the stored one.
    RightWithNewTag(Tag),
}

impl SecretVerifier {
    /// Creates a verifier.
    pub fn new(hasher: Hasher, keys: KeyRing) -> Self {
        Self { hasher, keys }
    }

    /// Returns how often argon2 has run since the start.
    pub fn argon2_runs(&self) -> u64 {
        self.hasher.runs()
    }

    /// Returns how many argon2 runs wait in the queue.
    pub fn argon2_waiting(&self) -> usize {
        self.hasher.waiting()
    }

    /// Generates a token, whose id is vouched for if there is a key ring; see [`KeyRing::generate`].
    ///
    /// # Errors
    ///
    /// The operating system provided no randomness.
    pub fn generate(&self) -> Result<BearerToken, SysError> {
        self.keys.generate()
    }

    /// Returns whether any id can be vouched for: there is a key ring.
    pub fn can_vouch(&self) -> bool {
        !self.keys.is_empty()
    }

    /// Returns whether the key ring vouches for `id`; see [`KeyRing::vouches_for`].
    pub fn vouches_for(&self, id: Uuid) -> bool {
        self.keys.vouches_for(id)
    }

    /// Returns the hash to store for `bearer`, and the tag if there is a primary key.
    ///
    /// # Errors
    ///
    /// See [`Hasher::hash`].
    pub async fn make(&self, bearer: &BearerToken) -> Result<(SecretHash, Option<Tag>), HashError> {
        Ok((self.hasher.hash(bearer).await?, self.keys.tag(bearer)))
    }

    /// Verifies `bearer` against its stored hash and tag.
    ///
    /// # Errors
    ///
    /// See [`Hasher::verify`].
    pub async fn check(
        &self,
        bearer: &BearerToken,
        hash: &SecretHash,
        tag: Option<&Tag>,
    ) -> Result<Verification, HashError> {
        let by_tag = tag.and_then(|tag| self.keys.check(bearer, tag));
        let right = match by_tag {
            Some(right) => right,
            None => self.hasher.verify(bearer, hash).await?,
        };
        if !right {
            return Ok(Verification::Wrong);
        }
        if self.keys.is_current(tag) {
            return Ok(Verification::Right);
        }
        Ok(self.keys.tag(bearer).map_or(Verification::Right, Verification::RightWithNewTag))
    }
}
