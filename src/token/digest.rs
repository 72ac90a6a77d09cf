//! What a proven secret is recognised by in memory.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::BearerToken;

/// SHA-256 of a secret's random bits. They are 256: no dictionary finds them again, so it needs no salt and no cost.
#[derive(Clone, Copy, Eq)]
pub struct Digest([u8; 32]);

impl BearerToken {
    /// The digest of the secret.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.bits()).into())
    }
}

/// In constant time.
impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
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
    fn it_is_of_its_secret_alone_and_shows_nothing() {
        let (one, two) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
        assert!(one.digest() == one.clone().digest() && one.digest() != two.digest());
        assert_eq!(format!("{:?}", one.digest()), "[redacted]");
    }
}
