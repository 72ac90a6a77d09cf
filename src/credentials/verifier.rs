//! How a secret is proven: by its tag where the tag's key is at hand, by argon2id where it is not.

use super::{HashError, Hasher, KeyRing, SecretHash, Tag};
use crate::token::BearerToken;

/// Makes and checks the proofs that are kept of a secret.
#[derive(Debug)]
pub struct SecretVerifier {
    hasher: Hasher,
    keys: KeyRing,
}

/// What a check of a secret found.
#[derive(Debug)]
pub enum Verification {
    /// It is not the secret.
    Wrong,
    /// It is, and the proofs at rest are as they should be.
    Right,
    /// It is, and this tag should replace the one at rest: it is under the primary key, as new ones are.
    RightWithNewTag(Tag),
}

impl SecretVerifier {
    /// A verifier that hashes with `hasher` and tags with the keys of `keys`.
    pub fn new(hasher: Hasher, keys: KeyRing) -> Self {
        Self { hasher, keys }
    }

    /// How often argon2 has run since the start.
    pub fn argon2_runs(&self) -> u64 {
        self.hasher.runs()
    }

    /// How many wait for argon2 now.
    pub fn argon2_waiting(&self) -> usize {
        self.hasher.waiting()
    }

    /// The proofs to keep of `secret`.
    ///
    /// # Errors
    ///
    /// See [`Hasher::hash`].
    pub async fn make(&self, secret: &BearerToken) -> Result<(SecretHash, Option<Tag>), HashError> {
        Ok((self.hasher.hash(secret).await?, self.keys.tag(secret)))
    }

    /// Checks `secret` against the proofs kept of it.
    ///
    /// # Errors
    ///
    /// See [`Hasher::verify`].
    pub async fn check(
        &self,
        secret: &BearerToken,
        hash: &SecretHash,
        tag: Option<&Tag>,
    ) -> Result<Verification, HashError> {
        let by_tag = tag.and_then(|tag| self.keys.check(secret, tag));
        let right = match by_tag {
            Some(right) => right,
            None => self.hasher.verify(secret, hash).await?,
        };
        if !right {
            return Ok(Verification::Wrong);
        }
        if self.keys.is_current(tag) {
            return Ok(Verification::Right);
        }
        Ok(self.keys.tag(secret).map_or(Verification::Right, Verification::RightWithNewTag))
    }
}
