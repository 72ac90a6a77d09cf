//! The digest by which the cache recognises a verified secret.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::BearerToken;

/// The SHA-256 digest of a secret. A secret is 256 random bits, which cannot be guessed, so neither a salt nor a slow
/// hash is needed.
#[derive(Clone, Copy, Eq)]
pub struct Digest([u8; 32]);

impl BearerToken {
    /// Returns the digest of the secret.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.secret()).into())
    }
}

impl Digest {
    /// `subtle` compares slices item by item, so larger items take fewer steps.
    fn words(&self) -> [u64; 4] {
        std::array::from_fn(|n| u64::from_ne_bytes(std::array::from_fn(|byte| self.0[8 * n + byte])))
    }
}

/// Compares in constant time.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.words().ct_eq(&other.words()).into()
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_secrets_have_equal_digests_and_debug_shows_nothing() {
        let (one, two) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
        assert!(one.digest() == one.clone().digest() && one.digest() != two.digest());
        assert_eq!(format!("{:?}", one.digest()), "[redacted]");
    }
}
