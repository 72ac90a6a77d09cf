//! The stored form of an argon2id hash.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Block, Params, PasswordHash, Version,
    password_hash::phc::{Output, ParamsString, Salt},
};

use crate::token::BearerToken;

/// An argon2id hash as a PHC string, which includes the salt and the parameters.
#[derive(Clone)]
pub struct SecretHash(String);

impl SecretHash {
    /// Hashes the secret of `bearer`, and writes the hash as a PHC string.
    pub(super) fn compute(
        argon2: &Argon2<'_>,
        bearer: &BearerToken,
        salt: &[u8],
        memory: &mut [Block],
    ) -> argon2::password_hash::Result<Self> {
        let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
        argon2.hash_password_into_with_memory(bearer.secret(), salt, &mut output, memory)?;
        let hash = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: ParamsString::try_from(argon2.params())?,
            salt: Some(Salt::new(salt)?),
            hash: Some(Output::new(&output)?),
        };
        Ok(Self(hash.to_string()))
    }

    /// Parses the hash into the algorithm with its parameters, the salt and the output. Returns `None` if argon2 does
    /// not understand it.
    pub(super) fn parse(&self) -> Option<(Argon2<'static>, Salt, Output)> {
        let hash = PasswordHash::new(&self.0).ok()?;
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map_or(Ok(Version::default()), Version::try_from).ok()?;
        let params = Params::try_from(&hash).ok()?;
        Some((Argon2::new(algorithm, version, params), hash.salt?, hash.hash?))
    }

    /// Restores a hash from the database. It is parsed when a secret is verified against it.
    pub(crate) fn from_stored(phc: String) -> Self {
        Self(phc)
    }

    /// Returns the PHC string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
