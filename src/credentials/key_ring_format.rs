//! The format of a key ring's file: TOML with `primary` and `[keys]`.

use std::{collections::BTreeMap, fs, io, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rand::{TryRng as _, rngs::SysRng};
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{KeyId, KeyRingError};

const KEY_BYTES: usize = 32;

/// The content of the file: keys by id, one of them primary. Keys are wiped from memory on drop.
pub(super) struct Keys {
    pub(super) primary: KeyId,
    pub(super) keys: BTreeMap<KeyId, Zeroizing<Vec<u8>>>,
}

/// The file before its ids and keys are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    primary: String,
    keys: BTreeMap<String, Zeroizing<String>>,
}

impl Keys {
    /// Generates one key, the primary one.
    ///
    /// # Errors
    ///
    /// The operating system provided no randomness.
    pub(super) fn generate() -> io::Result<Self> {
        let (primary, key) = generate_key()?;
        Ok(Self { primary: primary.clone(), keys: BTreeMap::from([(primary, key)]) })
    }

    pub(super) fn read(path: &Path) -> Result<Self, KeyRingError> {
        Self::parse(&Zeroizing::new(fs::read_to_string(path)?))
    }

    pub(super) fn parse(text: &str) -> Result<Self, KeyRingError> {
        let unchecked: Unchecked = toml::from_str(text).map_err(|error| {
            // Only the line: the message of the error may quote a key.
            let start = error.span().map_or(0, |span| span.start);
            KeyRingError::Form { line: 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count() }
        })?;
        let mut keys = BTreeMap::new();
        for (id, key) in unchecked.keys {
            let id: KeyId = id.parse().map_err(|()| KeyRingError::KeyId)?;
            match BASE64_STANDARD.decode(key.as_bytes()).map(Zeroizing::new) {
                Ok(key) if key.len() == KEY_BYTES => keys.insert(id, key),
                _ => return Err(KeyRingError::Key(id)),
            };
        }
        let primary = unchecked.primary.parse().map_err(|()| KeyRingError::KeyId)?;
        if keys.contains_key(&primary) { Ok(Self { primary, keys }) } else { Err(KeyRingError::NoPrimary) }
    }

    pub(super) fn to_text(&self) -> Zeroizing<String> {
        // Never reallocated: a buffer that a growing string leaves behind would not be wiped.
        let mut text = Zeroizing::new(String::with_capacity(128 * (self.keys.len() + 1)));
        text.push_str("primary = \"");
        text.push_str(self.primary.as_str());
        text.push_str("\"\n\n[keys]\n");
        for (id, key) in &self.keys {
            text.push('"');
            text.push_str(id.as_str());
            text.push_str("\" = \"");
            BASE64_STANDARD.encode_string(key.as_slice(), &mut text);
            text.push_str("\"\n");
        }
        text
    }
}

/// Generates a key and a unique id for it.
pub(super) fn generate_key() -> io::Result<(KeyId, Zeroizing<Vec<u8>>)> {
    let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
    SysRng.try_fill_bytes(key.as_mut_slice()).map_err(io::Error::other)?;
    Ok((KeyId::from_stored(Uuid::now_v7().simple().to_string()), key))
}
