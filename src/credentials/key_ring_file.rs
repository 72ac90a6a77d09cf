//! The key ring's file: made once, and changed whole or not at all.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown},
    path::{Path, PathBuf},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rand::{TryRng as _, rngs::SysRng};
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{KeyId, KeyRingError};

/// How long a key is, in bytes.
const KEY: usize = 32;

/// What the file says: keys by their ids, one of them primary. The keys are wiped.
pub(super) struct Keys {
    pub(super) primary: KeyId,
    pub(super) keys: BTreeMap<KeyId, Zeroizing<Vec<u8>>>,
}

/// The file as it is written. Its texts are keys, and wiped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    primary: String,
    keys: BTreeMap<String, Zeroizing<String>>,
}

impl Keys {
    pub(super) fn read(path: &Path) -> Result<Self, KeyRingError> {
        Self::parse(&Zeroizing::new(fs::read_to_string(path)?))
    }

    pub(super) fn parse(text: &str) -> Result<Self, KeyRingError> {
        let written: Written = toml::from_str(text).map_err(|error| {
            // Of the fault only the place: its message may quote a key.
            let start = error.span().map_or(0, |span| span.start);
            KeyRingError::Form { line: 1 + text.bytes().take(start).filter(|byte| *byte == b'\n').count() }
        })?;
        let mut keys = BTreeMap::new();
        for (id, key) in written.keys {
            let id: KeyId = id.parse().map_err(|()| KeyRingError::KeyId)?;
            match BASE64_STANDARD.decode(key.as_bytes()).map(Zeroizing::new) {
                Ok(key) if key.len() == KEY => keys.insert(id, key),
                _ => return Err(KeyRingError::Key(id)),
            };
        }
        let primary = written.primary.parse().map_err(|()| KeyRingError::KeyId)?;
        if keys.contains_key(&primary) { Ok(Self { primary, keys }) } else { Err(KeyRingError::NoPrimary) }
    }

    fn to_text(&self) -> Zeroizing<String> {
        // Large enough at once: what a text leaves behind when it grows is not wiped.
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

/// A key of the operating system's randomness, with an id that no other has.
fn fresh_key() -> io::Result<(KeyId, Zeroizing<Vec<u8>>)> {
    let mut key = Zeroizing::new(vec![0; KEY]);
    SysRng.try_fill_bytes(key.as_mut_slice()).map_err(io::Error::other)?;
    Ok((KeyId::from_stored(Uuid::now_v7().simple().to_string()), key))
}

/// Makes a ring of one key, whole, where there is none: of two processes that do so at once, one finds the other's.
pub(super) fn create(path: &Path) -> io::Result<()> {
    let (primary, key) = fresh_key()?;
    let keys = Keys { primary: primary.clone(), keys: BTreeMap::from([(primary, key)]) };
    create_by(path, |fresh| write_private(fresh, &keys)?.sync_all())
}

/// Makes the file by writing it under another name first.
fn create_by(path: &Path, write: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let fresh = beside(path);
    let made = write(&fresh).and_then(|()| fs::hard_link(&fresh, path));
    // Also of what was written in part: there is a key in it. Where nothing was, the first fault is the one to tell of.
    let removed = fs::remove_file(&fresh);
    made.and(removed)?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => fs::File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

/// A name in the same folder that nobody else uses.
fn beside(path: &Path) -> PathBuf {
    path.with_extension(format!("{}.new", Uuid::now_v7().simple()))
}

/// Writes a new file that its owner alone may read.
fn write_private(path: &Path, keys: &Keys) -> io::Result<fs::File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(keys.to_text().as_bytes())?;
    Ok(file)
}

/// Why a ring was not changed; the file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// There is no ring to change.
    #[error(transparent)]
    Ring(#[from] KeyRingError),
    /// Another process is changing it.
    #[error("is being changed by another process; try again")]
    Busy,
    /// The operating system gave no randomness.
    #[error("gets no new key: the operating system gave no randomness: {0}")]
    Randomness(io::Error),
    /// It cannot be written.
    #[error("cannot be written: {0}")]
    Write(io::Error),
    /// The ring has no such key.
    #[error("has no key {:?}; it has {known}", .id.as_str())]
    Unknown {
        /// The key that was asked for.
        id: KeyId,
        /// The keys that there are.
        known: String,
    },
    /// New tags are made under this key.
    #[error("keeps {:?}: it is the primary key; make another one primary first", .0.as_str())]
    Primary(KeyId),
}

/// A key ring's file that is to be changed. Nobody else can change it as long as this lives.
pub struct KeyRingFile {
    path: PathBuf,
    folder: fs::File,
    content: Keys,
}

impl fmt::Debug for KeyRingFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRingFile")
            .field("path", &self.path)
            .field("keys", &self.content.keys.keys())
            .finish()
    }
}

impl KeyRingFile {
    /// Makes a ring with a fresh key, readable by its owner alone, and opens it.
    ///
    /// # Errors
    ///
    /// [`RotationError::Write`], also where there is a file already.
    pub fn create(path: &Path) -> Result<Self, RotationError> {
        create(path).map_err(RotationError::Write)?;
        Self::open(path)
    }

    /// Opens the ring at `path`. Of a link, what it points to.
    ///
    /// # Errors
    ///
    /// [`RotationError::Ring`] or [`RotationError::Busy`].
    pub fn open(path: &Path) -> Result<Self, RotationError> {
        let path = fs::canonicalize(path).map_err(KeyRingError::Io)?;
        let folder = fs::File::open(path.parent().unwrap_or(&path)).map_err(KeyRingError::Io)?;
        // Of the folder, since the file is replaced.
        folder.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => RotationError::Busy,
            TryLockError::Error(error) => RotationError::Write(error),
        })?;
        let content = Keys::read(&path)?;
        Ok(Self { path, folder, content })
    }

    /// The key under which new tags are made.
    pub fn primary(&self) -> &KeyId {
        &self.content.primary
    }

    /// The ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.content.keys.keys()
    }

    /// Adds a fresh key, which is not primary yet, and gives its id.
    ///
    /// # Errors
    ///
    /// [`RotationError::Randomness`] or [`RotationError::Write`].
    pub fn add(&mut self) -> Result<KeyId, RotationError> {
        let (id, key) = fresh_key().map_err(RotationError::Randomness)?;
        self.content.keys.insert(id.clone(), key);
        self.save()?;
        Ok(id)
    }

    /// Makes a key primary.
    ///
    /// # Errors
    ///
    /// [`RotationError::Unknown`] or [`RotationError::Write`].
    pub fn promote(&mut self, id: &KeyId) -> Result<(), RotationError> {
        self.check_known(id)?;
        self.content.primary = id.clone();
        self.save()
    }

    /// Drops a key that is not primary.
    ///
    /// # Errors
    ///
    /// [`RotationError::Unknown`], [`RotationError::Primary`] or [`RotationError::Write`].
    pub fn retire(&mut self, id: &KeyId) -> Result<(), RotationError> {
        self.check_known(id)?;
        if *id == self.content.primary {
            return Err(RotationError::Primary(id.clone()));
        }
        self.content.keys.remove(id);
        self.save()
    }

    fn check_known(&self, id: &KeyId) -> Result<(), RotationError> {
        if self.content.keys.contains_key(id) {
            return Ok(());
        }
        let known: Vec<&str> = self.ids().map(KeyId::as_str).collect();
        Err(RotationError::Unknown { id: id.clone(), known: known.join(", ") })
    }

    /// Puts a new file in the place of the old one. Whoever reads the ring finds the one or the other, also after a
    /// power cut.
    fn save(&self) -> Result<(), RotationError> {
        let fresh = beside(&self.path);
        let replaced = self.replace_by(&fresh);
        if replaced.is_err() {
            // It may not be there; the fault above is the one to tell of.
            let _ = fs::remove_file(&fresh);
        }
        replaced.map_err(RotationError::Write)
    }

    fn replace_by(&self, fresh: &Path) -> io::Result<()> {
        let old = fs::metadata(&self.path)?;
        let file = write_private(fresh, &self.content)?;
        let new = file.metadata()?;
        // Whoever reads the ring today must be able to read it tomorrow, and nobody else.
        if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(old.permissions())?;
        file.sync_all()?;
        fs::rename(fresh, &self.path)?;
        self.folder.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use proptest::prelude::*;

    use super::*;
    use crate::{credentials::KeyRing, token::BearerToken};

    const A: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    fn id(text: &str) -> KeyId {
        text.parse().unwrap()
    }

    /// A folder with a ring of one key, `a`.
    fn ring() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring.toml");
        fs::write(&path, format!("primary = \"a\"\n[keys]\na = \"{A}\"\n")).unwrap();
        (folder, path)
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Add,
        Promote(usize),
        Retire(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            Just(Step::Add),
            (0..6usize).prop_map(Step::Promote),
            (0..6usize).prop_map(Step::Retire),
        ];
        prop::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn whatever_is_done_the_file_is_a_ring_and_what_it_keeps_stays_understood(steps in steps()) {
            let (_folder, path) = ring();
            let secret = BearerToken::generate().unwrap();
            let mut tags = vec![KeyRing::open(&path).unwrap().tag(&secret).unwrap()];
            for step in steps {
                let mut file = KeyRingFile::open(&path).unwrap();
                let ids: Vec<KeyId> = file.ids().cloned().collect();
                let primary = file.primary().clone();
                let (keys, primary) = match step {
                    Step::Add => {
                        file.add().unwrap();
                        (ids.len() + 1, primary)
                    }
                    Step::Promote(n) => {
                        let id = &ids[n % ids.len()];
                        file.promote(id).unwrap();
                        (ids.len(), id.clone())
                    }
                    Step::Retire(n) => {
                        let id = &ids[n % ids.len()];
                        let retired = file.retire(id);
                        prop_assert_eq!(retired.is_err(), *id == primary);
                        (ids.len() - usize::from(retired.is_ok()), primary)
                    }
                };
                drop(file);
                let (ring, file) = (KeyRing::open(&path).unwrap(), KeyRingFile::open(&path).unwrap());
                prop_assert_eq!(file.ids().count(), keys);
                prop_assert_eq!(file.primary(), &primary);
                for tag in &tags {
                    let kept = file.ids().any(|id| id == tag.key_id());
                    prop_assert_eq!(ring.check(&secret, tag), kept.then_some(true));
                }
                let tag = ring.tag(&secret).unwrap();
                prop_assert_eq!(tag.key_id(), &primary);
                tags.push(tag);
            }
        }
    }

    #[test]
    fn who_may_read_it_stays_and_nothing_is_left_lying_about() {
        let (folder, path) = ring();
        for mode in [0o600, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            KeyRingFile::open(&path).unwrap().add().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_ring_that_cannot_be_made_leaves_no_key_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ring.toml");
        let full = create_by(&path, |fresh| {
            fs::write(fresh, A)?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(full.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

        fs::write(&path, "another's").unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        let nowhere = create(&folder.path().join("none/ring.toml")).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_stays_a_link() {
        let (folder, path) = ring();
        let link = folder.path().join("link.toml");
        symlink("ring.toml", &link).unwrap();
        let added = KeyRingFile::open(&link).unwrap().add().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(KeyRingFile::open(&path).unwrap().ids().any(|id| *id == added));
    }

    #[test]
    fn of_two_that_change_it_at_once_neither_is_lost() {
        let (_folder, path) = ring();
        let mut first = KeyRingFile::open(&path).unwrap();
        assert!(matches!(KeyRingFile::open(&path), Err(RotationError::Busy)));
        first.add().unwrap();
        drop(first);
        KeyRingFile::open(&path).unwrap().add().unwrap();
        assert_eq!(KeyRingFile::open(&path).unwrap().ids().count(), 3);
    }

    #[test]
    fn what_cannot_be_done_leaves_the_file_as_it_was() {
        let (folder, path) = ring();
        let before = fs::read(&path).unwrap();
        let mut file = KeyRingFile::open(&path).unwrap();
        let said = file.promote(&id("b")).unwrap_err().to_string();
        assert_eq!(said, "has no key \"b\"; it has a");
        assert!(matches!(file.retire(&id("b")), Err(RotationError::Unknown { .. })));
        assert!(file.retire(&id("a")).unwrap_err().to_string().contains("primary"));
        assert_eq!(fs::read(&path).unwrap(), before);
        drop(file);

        fs::write(&path, "primary = \"a\"\n[keys]\na = \"c2hvcnQ=\"\n").unwrap();
        let said = KeyRingFile::open(&path).unwrap_err().to_string();
        assert!(said.contains("not 32 bytes in base64"), "{said}");
        let gone = KeyRingFile::open(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(gone.contains("cannot be opened"), "{gone}");
    }

    #[test]
    fn its_debug_shows_no_key() {
        let (_folder, path) = ring();
        assert!(!format!("{:?}", KeyRingFile::open(&path).unwrap()).contains("AAAA"));
    }
}
