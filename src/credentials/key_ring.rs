//! The fast proof: a keyed tag of the secret, HMAC-SHA-256 (RFC 2104) under a key of a ring that can be rotated.
//!
//! The ring is a TOML file. New tags are made under the primary key; tags of every other key in the ring are still
//! understood. To rotate, add a key, and make it primary once every replica has it (`latchkey keys`).
//! An id names one key for ever: under another key of the same id, tags that are good would be taken for wrong.
//!
//! ```toml
//! primary = "k2"
//! [keys]
//! k1 = "…"    # 32 bytes in base64
//! k2 = "…"
//! ```

use std::{collections::BTreeMap, fmt, io, path::Path, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use super::key_ring_file::{self, Keys};
use crate::token::BearerToken;

/// The name of a key: `[a-z0-9][a-z0-9._-]{0,31}`. It stands beside each tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    pub(crate) fn from_stored(id: String) -> Self {
        Self(id)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let fits = text.len() <= 32
            && text.bytes().next().is_some_and(letter_or_digit)
            && text.bytes().all(|byte| letter_or_digit(byte) || b"._-".contains(&byte));
        fits.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// A keyed tag of a secret, with the id of its key.
#[derive(Clone)]
pub struct Tag {
    pub(crate) key_id: KeyId,
    pub(crate) mac: Vec<u8>,
}

impl Tag {
    /// The key that it was made under.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// The HMAC, 32 bytes.
    pub fn mac(&self) -> &[u8] {
        &self.mac
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tag").field("key_id", &self.key_id).field("mac", &"[redacted]").finish()
    }
}

/// Keys for tags; at most one of them is primary.
#[derive(Default)]
pub struct KeyRing {
    primary: Option<KeyId>,
    keys: BTreeMap<KeyId, Hmac<Sha256>>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("primary", &self.primary).field("keys", &self.keys.keys()).finish()
    }
}

/// Why there is no key ring. Never carries a part of the file.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The file cannot be read or made.
    #[error("cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// Not TOML, or other fields than `primary` and `keys`.
    #[error("is not a TOML file with `primary` and `[keys]`: error near line {line}")]
    Form {
        /// The line of the fault, from 1.
        line: usize,
    },
    /// A key's id is not of the form.
    #[error(
        "has a key whose id is not 1 to 32 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first"
    )]
    KeyId,
    /// A key is not 32 bytes in base64.
    #[error("has the key {id:?}, which is not 32 bytes in base64 (`openssl rand -base64 32` makes one)", id = .0.as_str())]
    Key(KeyId),
    /// The primary key is not among the keys.
    #[error("names a primary key that is not among its keys")]
    NoPrimary,
}

impl KeyRing {
    /// A ring without keys: nothing is tagged, every proof is left to argon2id.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads the ring at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read or is no key ring.
    pub fn open(path: &Path) -> Result<Self, KeyRingError> {
        Self::from_keys(Keys::read(path)?)
    }

    /// Reads the ring at `path`; where there is none, makes one with a fresh key, readable by its owner alone.
    ///
    /// # Errors
    ///
    /// The file cannot be made or read, or is no key ring.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyRingError> {
        if !path.try_exists()? {
            match key_ring_file::create(path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
        }
        Self::open(path)
    }

    fn from_keys(file: Keys) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        for (id, key) in file.keys {
            let mac = Hmac::new_from_slice(&key).map_err(|_| KeyRingError::Key(id.clone()))?;
            keys.insert(id, mac);
        }
        Ok(Self { primary: Some(file.primary), keys })
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The tag of `secret` under the primary key; none without one.
    pub fn tag(&self, secret: &BearerToken) -> Option<Tag> {
        let key_id = self.primary.clone()?;
        let mac = mac(self.keys.get(&key_id)?, secret).to_vec();
        Some(Tag { key_id, mac })
    }

    /// Whether `tag` is of `secret`, compared in constant time; `None` when its key is not in the ring.
    pub fn check(&self, secret: &BearerToken, tag: &Tag) -> Option<bool> {
        let key = self.keys.get(&tag.key_id)?;
        Some(mac(key, secret).ct_eq(&tag.mac).into())
    }

    /// Whether `tag` is as a new one would be: under the primary key, or under none if there is none.
    pub fn is_current(&self, tag: Option<&Tag>) -> bool {
        tag.map(|tag| &tag.key_id) == self.primary.as_ref() || self.primary.is_none()
    }
}

fn mac(key: &Hmac<Sha256>, secret: &BearerToken) -> [u8; 32] {
    key.clone().chain_update(secret.bits()).finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    const B: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn parse(text: &str) -> Result<KeyRing, KeyRingError> {
        KeyRing::from_keys(Keys::parse(text)?)
    }

    fn ring(primary: &str, keys: &[(&str, &str)]) -> KeyRing {
        let keys: String = keys.iter().map(|(id, key)| format!("{id} = \"{key}\"\n")).collect();
        parse(&format!("primary = \"{primary}\"\n[keys]\n{keys}")).unwrap()
    }

    #[test]
    fn a_tag_is_of_its_secret_and_key_alone() {
        let (secret, other) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
        let (old, both, new) =
            (ring("a", &[("a", A)]), ring("b", &[("a", A), ("b", B)]), ring("b", &[("b", B)]));
        let tag = old.tag(&secret).unwrap();
        assert_eq!(tag.key_id.as_str(), "a");
        assert_eq!(old.check(&secret, &tag), Some(true));
        assert_eq!(old.check(&other, &tag), Some(false));
        assert_eq!(both.check(&secret, &tag), Some(true));
        assert_eq!(new.check(&secret, &tag), None);
        assert_eq!(both.tag(&secret).unwrap().key_id.as_str(), "b");
        assert!(old.is_current(Some(&tag)) && !both.is_current(Some(&tag)) && !both.is_current(None));
        assert!(KeyRing::empty().tag(&secret).is_none());
        assert!(KeyRing::empty().is_current(None) && KeyRing::empty().is_current(Some(&tag)));
    }

    #[test]
    fn a_ring_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring.toml");
        let rings: Vec<KeyRing> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| KeyRing::open_or_create(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left lying about");
        let secret = BearerToken::generate().unwrap();
        let tag = rings[0].tag(&secret).unwrap();
        assert!(rings.iter().all(|ring| ring.check(&secret, &tag) == Some(true)));
    }

    #[test]
    fn a_bad_ring_is_refused_without_a_word_of_its_keys() {
        let short = "c2hvcnQ=";
        for (text, said) in [
            (
                format!("primary = \"a\"\n[keys]\na = \"{short}\""),
                "has the key \"a\", which is not 32 bytes in base64",
            ),
            (format!("primary = \"a\"\n[keys]\na = {short}"), "fault near line 3"),
            (format!("primary = \"a\"\nkeys = \"{A}\""), "fault near line 2"),
            (format!("primary = \"b\"\n[keys]\na = \"{A}\""), "primary key that is not among its keys"),
            (format!("primary = \"a\"\n[keys]\n\"A b\" = \"{A}\""), "a key whose id is not"),
            (format!("primary = \"a\"\nsecondary = \"{A}\"\n[keys]\na = \"{A}\""), "fault near line 2"),
            (String::new(), "fault near line 1"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
            assert!(!error.contains(short) && !error.contains(A), "{error}");
        }
        assert!(!format!("{:?}", ring("a", &[("a", A)])).contains(A));
    }
}
