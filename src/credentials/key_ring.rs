//! The fast check of a secret: a keyed tag, HMAC-SHA-256 (RFC 2104), under a key of a ring that can be rotated.
//!
//! The keys also vouch for the ids of new tokens, each with a key that is derived from it ([`KeyRing::vouches_for`]).
//!
//! The ring is a TOML file. New tags are made under the primary key. Tags under the other keys still verify. To rotate,
//! add a key, and make it primary once every replica has it (`latchkey keys`). A key id is never reused: tags under the
//! earlier key would be taken for wrong.
//!
//! ```toml
//! primary = "k2"
//! [keys]
//! k1 = "…"    # 32 bytes in base64
//! k2 = "…"
//! ```

use std::{collections::BTreeMap, fmt, fs, io, os::unix::fs::PermissionsExt as _, path::Path, str::FromStr};

use hmac::{Hmac, KeyInit as _, Mac as _, digest::InvalidLength};
use rand::rngs::SysError;
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{id_key::IdKey, key_ring_file, key_ring_format::Keys};
use crate::token::BearerToken;

/// The id of a key: `[a-z0-9][a-z0-9._-]{0,31}`. Stored with each tag.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId(String);

impl KeyId {
    /// Restores an id that was checked before it was stored.
    pub(crate) fn from_stored(id: String) -> Self {
        Self(id)
    }

    /// Returns the id as text.
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
    /// Returns the id of the key that the tag was made under.
    pub fn key_id(&self) -> &KeyId {
        &self.key_id
    }

    /// Returns the HMAC: 32 bytes.
    pub fn mac(&self) -> &[u8] {
        &self.mac
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tag").field("key_id", &self.key_id).field("mac", &"[redacted]").finish()
    }
}

/// The keys for tags. One of them is primary, unless there are none.
#[derive(Default)]
pub struct KeyRing {
    primary: Option<KeyId>,
    keys: BTreeMap<KeyId, RingKey>,
}

/// What a key of the ring is used for, with a key of its own for each.
struct RingKey {
    tags: Hmac<Sha256>,
    ids: IdKey,
}

impl RingKey {
    fn new(key: &[u8]) -> Result<Self, InvalidLength> {
        let tags = Hmac::new_from_slice(key)?;
        Ok(Self { ids: IdKey::derive(&tags)?, tags })
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("primary", &self.primary).field("keys", &self.keys.keys()).finish()
    }
}

/// Why a key ring cannot be used. Never contains a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// The file cannot be read or created.
    #[error("cannot be opened: {0}")]
    Io(#[from] io::Error),
    /// Every user of the machine may read or change the file.
    #[error("can be read or changed by every user (mode {mode:o}); run chmod o-rwx on it")]
    Exposed {
        /// Its permissions.
        mode: u32,
    },
    /// The file is not TOML, or has other fields than `primary` and `keys`.
    #[error("is not a TOML file with `primary` and `[keys]`: error near line {line}")]
    Form {
        /// The line of the error, from 1.
        line: usize,
    },
    /// The id of a key is malformed.
    #[error(
        "has a key whose id is not 1 to 32 characters of a-z, 0-9, '.', '_' and '-', a letter or digit first"
    )]
    KeyId,
    /// A key is not 32 bytes in base64.
    #[error(
        "has the key {:?}, which is not 32 bytes in base64 (`openssl rand -base64 32` prints one)",
        .0.as_str()
    )]
    Key(KeyId),
    /// The primary key is not among the keys of the file.
    #[error("names a primary key that is not among its keys")]
    NoPrimary,
}

impl KeyRing {
    /// Creates a ring without keys. Nothing is tagged, and argon2id verifies every secret.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads the ring at `path`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, can be read by every user, or is not a key ring.
    pub fn open(path: &Path) -> Result<Self, KeyRingError> {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o007 != 0 {
            return Err(KeyRingError::Exposed { mode: mode & 0o777 });
        }
        Self::from_keys(Keys::read(path)?)
    }

    /// Reads the ring at `path`. If there is no file, creates one with a new key, which only its owner can read.
    ///
    /// # Errors
    ///
    /// The file cannot be created or read, or is not a key ring.
    pub fn open_or_create(path: &Path) -> Result<Self, KeyRingError> {
        if !path.try_exists()? {
            match key_ring_file::create(path) {
                // Another process created it first.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                created => created?,
            }
        }
        Self::open(path)
    }

    pub(super) fn from_keys(file: Keys) -> Result<Self, KeyRingError> {
        let mut keys = BTreeMap::new();
        for (id, key) in file.keys {
            let key = RingKey::new(&key).map_err(|_| KeyRingError::Key(id.clone()))?;
            keys.insert(id, key);
        }
        Ok(Self { primary: Some(file.primary), keys })
    }

    /// Returns whether the ring has no keys.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Generates a token for whose id the primary key vouches, if there is one.
    ///
    /// # Errors
    ///
    /// The operating system provided no randomness.
    pub fn generate(&self) -> Result<BearerToken, SysError> {
        let bearer = BearerToken::generate()?;
        let primary = self.primary.as_ref().and_then(|primary| self.keys.get(primary));
        let id = primary.map(|key| key.ids.vouch(bearer.id()));
        Ok(match id {
            Some(id) => bearer.with_id(id),
            None => bearer,
        })
    }

    /// Returns whether any key of the ring vouches for `id`: the token was issued while that key was primary.
    pub fn vouches_for(&self, id: Uuid) -> bool {
        self.keys.values().any(|key| key.ids.vouches_for(id))
    }

    /// Returns the tag of the secret of `bearer` under the primary key, or `None` if there is none.
    pub fn tag(&self, bearer: &BearerToken) -> Option<Tag> {
        let key_id = self.primary.clone()?;
        let mac = mac(&self.keys.get(&key_id)?.tags, bearer).to_vec();
        Some(Tag { key_id, mac })
    }

    /// Returns whether `tag` is of the secret of `bearer`, compared in constant time, or `None` if the tag's key is not
    /// in the ring.
    pub fn check(&self, bearer: &BearerToken, tag: &Tag) -> Option<bool> {
        let key = self.keys.get(&tag.key_id)?;
        Some(mac(&key.tags, bearer).ct_eq(&tag.mac).into())
    }

    /// Returns whether `tag` need not be replaced: it is under the primary key, or there is no primary key.
    pub fn is_current(&self, tag: Option<&Tag>) -> bool {
        tag.map(|tag| &tag.key_id) == self.primary.as_ref() || self.primary.is_none()
    }
}

fn mac(key: &Hmac<Sha256>, bearer: &BearerToken) -> [u8; 32] {
    key.clone().chain_update(bearer.secret()).finalize().into_bytes().into()
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
    fn a_tag_verifies_under_its_own_key_and_secret_only() {
        let (bearer, other) = (BearerToken::generate().unwrap(), BearerToken::generate().unwrap());
        let (old, both, new) =
            (ring("a", &[("a", A)]), ring("b", &[("a", A), ("b", B)]), ring("b", &[("b", B)]));
        let tag = old.tag(&bearer).unwrap();
        assert_eq!(tag.key_id.as_str(), "a");
        assert_eq!(old.check(&bearer, &tag), Some(true));
        assert_eq!(old.check(&other, &tag), Some(false));
        assert_eq!(both.check(&bearer, &tag), Some(true));
        assert_eq!(new.check(&bearer, &tag), None);
        assert_eq!(both.tag(&bearer).unwrap().key_id.as_str(), "b");
        assert!(old.is_current(Some(&tag)) && !both.is_current(Some(&tag)) && !both.is_current(None));
        assert!(KeyRing::empty().tag(&bearer).is_none());
        assert!(KeyRing::empty().is_current(None) && KeyRing::empty().is_current(Some(&tag)));
    }

    #[test]
    fn a_ring_is_created_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring.toml");
        let rings: Vec<KeyRing> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| KeyRing::open_or_create(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        let bearer = BearerToken::generate().unwrap();
        let tag = rings[0].tag(&bearer).unwrap();
        assert!(rings.iter().all(|ring| ring.check(&bearer, &tag) == Some(true)));
    }

    #[test]
    fn a_bad_ring_is_refused_and_the_error_shows_no_key() {
        let short = "c2hvcnQ=";
        for (text, expected) in [
            (
                format!("primary = \"a\"\n[keys]\na = \"{short}\""),
                "has the key \"a\", which is not 32 bytes in base64",
            ),
            (format!("primary = \"a\"\n[keys]\na = {short}"), "error near line 3"),
            (format!("primary = \"a\"\nkeys = \"{A}\""), "error near line 2"),
            (format!("primary = \"b\"\n[keys]\na = \"{A}\""), "primary key that is not among its keys"),
            (format!("primary = \"a\"\n[keys]\n\"A b\" = \"{A}\""), "a key whose id is not"),
            (format!("primary = \"a\"\nsecondary = \"{A}\"\n[keys]\na = \"{A}\""), "error near line 2"),
            (String::new(), "error near line 1"),
        ] {
            let error = parse(&text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!error.contains(short) && !error.contains(A), "{error}");
        }
        assert!(!format!("{:?}", ring("a", &[("a", A)])).contains(A));
    }
}
