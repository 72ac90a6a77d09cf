//! Callers by a shared secret, for those that can do no better. The callers file has its hash.
//!
//! The hash is a plain SHA-256. It is made of at least 32 characters that a generator chose, so there is nothing to
//! guess and no need for a slow hash, which would let everyone who sends wrong secrets use up the service.

use std::{collections::HashMap, fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::{TryRng as _, rngs::SysRng};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{Caller, identity::ListedCaller, scheme::Outcome};

/// How a hash begins, so that another kind can be told apart.
const HASH_PREFIX: &str = "sha256:";
/// Characters that a secret has at least.
const MIN_SECRET: usize = 32;
/// How a secret that this program generates begins, so that scanners for leaked secrets find it.
const SECRET_PREFIX: &str = "lkc_";

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Hash([u8; 32]);

impl Hash {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

/// Not the hash: it stands in for the secret when callers are compared.
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash")
    }
}

/// The secret is too short to be a random one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secret has fewer than 32 characters; use one that was generated, such as `openssl rand -base64 32` prints"
)]
pub struct ShortSecret;

/// Returns what the callers file has instead of `secret`.
///
/// # Errors
///
/// [`ShortSecret`].
pub fn hash_secret(secret: &SecretString) -> Result<String, ShortSecret> {
    let secret = secret.expose_secret();
    if secret.chars().count() < MIN_SECRET {
        return Err(ShortSecret);
    }
    Ok(format!("{HASH_PREFIX}{}", STANDARD.encode(Hash::of(secret.as_bytes()).0)))
}

/// Returns a new random secret of 256 bits; `None` if the operating system gives no randomness.
pub fn generate_secret() -> Option<SecretString> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    SysRng.try_fill_bytes(&mut *bytes).ok()?;
    let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(*bytes);
    Some(SecretString::from(format!("{SECRET_PREFIX}{text}")))
}

/// The callers by the hashes of their secrets.
#[derive(Debug, Default)]
pub(super) struct SharedSecrets(HashMap<Hash, Arc<ListedCaller>>);

impl SharedSecrets {
    /// Adds a hash as [`hash_secret`] returns it.
    ///
    /// # Errors
    ///
    /// The text is no such hash, or is another caller's. The message does not repeat it: it may be the secret itself.
    pub(super) fn insert(&mut self, hash: &str, caller: &Arc<ListedCaller>) -> Result<(), String> {
        let digest = hash.strip_prefix(HASH_PREFIX).and_then(|text| STANDARD.decode(text).ok());
        let Some(digest) = digest.and_then(|digest| digest.try_into().ok()) else {
            return Err("must be a hash that `latchkey callers hash` prints".to_owned());
        };
        match self.0.insert(Hash(digest), Arc::clone(caller)) {
            Some(other) => Err(format!("the same hash already recognises {:?}", other.name)),
            None => Ok(()),
        }
    }

    /// `name` is the one that HTTP Basic credentials have beside the secret. Comparing hashes of secrets by a map does not
    /// leak the secret through its timing: who does not know it cannot choose its hash.
    pub(super) fn authenticate(&self, name: Option<&str>, secret: &[u8]) -> Outcome {
        match self.0.get(&Hash::of(secret)) {
            Some(caller) if name.is_none_or(|name| name == caller.name) => {
                Outcome::Authenticated(Caller::listed(caller))
            }
            Some(_) => Outcome::Failed("the secret is another caller's"),
            None => Outcome::Failed("no caller has this secret"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_recognises_its_caller_and_no_other() {
        let secret = generate_secret().unwrap();
        let hash = hash_secret(&secret).unwrap();
        assert!(!hash.contains(secret.expose_secret()));
        let caller =
            Arc::new(ListedCaller { name: "ci".into(), roles: Vec::new(), users: None, scopes: None });
        let mut secrets = SharedSecrets::default();
        secrets.insert(&hash, &caller).unwrap();
        let secret = secret.expose_secret();
        let is_ci = |name, secret: &str| matches!(secrets.authenticate(name, secret.as_bytes()), Outcome::Authenticated(caller) if caller.actor() == "caller:ci");
        assert!(is_ci(None, secret) && is_ci(Some("ci"), secret));
        assert!(
            !is_ci(Some("other"), secret)
                && !is_ci(None, &secret[1..])
                && !is_ci(None, &hash)
                && !is_ci(None, "")
        );
        assert!(!format!("{secrets:?}").contains(&hash[10..]));
        assert!(secrets.insert(&hash, &caller).unwrap_err().contains("already recognises"));
    }

    #[test]
    fn a_short_secret_and_what_is_no_hash_are_refused_without_repeating_them() {
        assert_eq!(hash_secret(&"x".repeat(31).into()), Err(ShortSecret));
        hash_secret(&"x".repeat(32).into()).unwrap();
        let caller =
            Arc::new(ListedCaller { name: "ci".into(), roles: Vec::new(), users: None, scopes: None });
        for bad in ["hunter2", "sha256:hunter2", "sha256:aGVsbG8=", ""] {
            let error = SharedSecrets::default().insert(bad, &caller).unwrap_err();
            assert!(error.contains("callers hash") && !error.contains("hunter2"), "{error}");
        }
    }
}
