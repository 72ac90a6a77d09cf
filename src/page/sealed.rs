//! Cookies that only this service can read and write.

use argon2::Argon2;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::{TryRng as _, rngs::SysRng};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Encrypts values, all replicas alike.
pub(crate) struct Sealer(LessSafeKey);

impl Sealer {
    /// Derives a key from the client's secret, which all replicas have.
    ///
    /// Everybody can get a cookie, and try on it the secrets that a person might choose. argon2id makes each try slow: 19 MiB and 2
    /// iterations, the crate's default (OWASP Password Storage Cheat Sheet).
    pub(crate) fn new(secret: &SecretString) -> Option<Self> {
        let mut key = Zeroizing::new([0; 32]);
        let salt = b"latchkey: cookies of the page, 2";
        Argon2::default().hash_password_into(secret.expose_secret().as_bytes(), salt, &mut *key).ok()?;
        Some(Self(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).ok()?)))
    }

    /// Encrypts a value for a cookie of this name. `None`: the operating system gave no randomness.
    pub(super) fn seal(&self, name: &str, value: &impl Serialize) -> Option<String> {
        let mut nonce = [0; NONCE_LEN];
        SysRng.try_fill_bytes(&mut nonce).ok()?;
        let mut text = serde_json::to_vec(value).ok()?;
        let with = Aad::from(name.as_bytes());
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), with, &mut text).ok()?;
        Some(URL_SAFE_NO_PAD.encode([&nonce[..], &text].concat()))
    }

    /// Decrypts the value of a cookie of this name.
    pub(super) fn open<T: DeserializeOwned>(&self, name: &str, cookie: &str) -> Option<T> {
        let mut bytes = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self.0.open_in_place(nonce, Aad::from(name.as_bytes()), text).ok()?;
        serde_json::from_slice(text).ok()
    }
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_key_and_name_open_a_cookie() {
        let sealer = |secret: &str| Sealer::new(&SecretString::from(secret)).unwrap();
        let sealed = sealer("one").seal("session", &"alice").unwrap();
        assert!(!sealed.contains("alice"));
        assert_eq!(sealer("one").open::<String>("session", &sealed).as_deref(), Some("alice"));
        assert_eq!(sealer("two").open::<String>("session", &sealed), None);
        assert_eq!(sealer("one").open::<String>("login", &sealed), None);
        let mut changed = sealed.into_bytes();
        changed[20] ^= 1;
        assert_eq!(sealer("one").open::<String>("session", std::str::from_utf8(&changed).unwrap()), None);
        for text in ["", "AAAA", "!"] {
            assert_eq!(sealer("one").open::<String>("session", text), None, "{text}");
        }
    }
}
