//! Changes to a key ring's file, one at a time.

use std::{
    fmt,
    fs::{self, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    KeyId, KeyRingError, atomic_file,
    key_ring_format::{Keys, generate_key},
};

/// Why a key ring was not changed. Its file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The ring cannot be read.
    #[error(transparent)]
    Ring(#[from] KeyRingError),
    /// Another process has opened the ring to change it.
    #[error("is being changed by another process; try again")]
    Busy,
    /// The operating system provided no randomness for a key.
    #[error("gets no new key: the operating system provided no randomness: {0}")]
    Randomness(io::Error),
    /// The file cannot be written, or it exists and was to be created.
    #[error("cannot be written: {0}")]
    Write(io::Error),
    /// The ring has no such key.
    #[error("has no key {:?}; it has {known}", .id.as_str())]
    #[allow(missing_docs)]
    Unknown { id: KeyId, known: String },
    /// The key is primary and cannot be removed.
    #[error("keeps {:?}: it is the primary key; make another one primary first", .0.as_str())]
    Primary(KeyId),
}

/// A key ring's file, opened to be changed. No other process can change it while this value lives.
pub struct KeyRingFile {
    path: PathBuf,
    /// The folder that holds the file. It carries the lock, because the file is replaced by each change.
    _lock: fs::File,
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

/// Creates a ring of one key, which only the owner of the file can read. When two processes do so at once, one of them
/// gets [`io::ErrorKind::AlreadyExists`].
pub(super) fn create(path: &Path) -> io::Result<()> {
    let keys = Keys::generate()?;
    atomic_file::create(path, |file| file.write_all(keys.to_text().as_bytes()))
}

impl KeyRingFile {
    /// Creates a ring of one key, which only the owner of the file can read, and opens it.
    ///
    /// # Errors
    ///
    /// [`RotationError::Write`], also if there is a file already.
    pub fn create(path: &Path) -> Result<Self, RotationError> {
        create(path).map_err(RotationError::Write)?;
        Self::open(path)
    }

    /// Opens the ring at `path`. If `path` is a symbolic link, opens its target.
    ///
    /// # Errors
    ///
    /// [`RotationError::Ring`] or [`RotationError::Busy`].
    pub fn open(path: &Path) -> Result<Self, RotationError> {
        let path = fs::canonicalize(path).map_err(KeyRingError::Io)?;
        let folder = fs::File::open(path.parent().unwrap_or(&path)).map_err(KeyRingError::Io)?;
        folder.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => RotationError::Busy,
            TryLockError::Error(error) => RotationError::Write(error),
        })?;
        let content = Keys::read(&path)?;
        Ok(Self { path, _lock: folder, content })
    }

    /// Returns the id of the primary key: new tags are made under it.
    pub fn primary(&self) -> &KeyId {
        &self.content.primary
    }

    /// Returns the ids of all keys.
    pub fn ids(&self) -> impl Iterator<Item = &KeyId> {
        self.content.keys.keys()
    }

    /// Adds a new key, which is not primary yet, and returns its id.
    ///
    /// # Errors
    ///
    /// [`RotationError::Randomness`] or [`RotationError::Write`].
    pub fn add(&mut self) -> Result<KeyId, RotationError> {
        let (id, key) = generate_key().map_err(RotationError::Randomness)?;
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

    /// Removes a key that is not primary.
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

    fn save(&self) -> Result<(), RotationError> {
        atomic_file::replace(&self.path, |file| file.write_all(self.content.to_text().as_bytes()))
            .map_err(RotationError::Write)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

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
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
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
        fn after_any_steps_the_file_is_a_ring_and_tags_of_its_keys_verify(steps in steps()) {
            let (_folder, path) = ring();
            let bearer = BearerToken::generate().unwrap();
            let mut tags = vec![KeyRing::open(&path).unwrap().tag(&bearer).unwrap()];
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
                    prop_assert_eq!(ring.check(&bearer, tag), kept.then_some(true));
                }
                let tag = ring.tag(&bearer).unwrap();
                prop_assert_eq!(tag.key_id(), &primary);
                tags.push(tag);
            }
        }
    }

    #[test]
    fn a_change_keeps_the_mode_and_leaves_nothing_behind() {
        let (folder, path) = ring();
        for mode in [0o600, 0o640] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            KeyRingFile::open(&path).unwrap().add().unwrap();
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, mode);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn create_never_replaces_a_ring_and_leaves_nothing_behind() {
        let (folder, path) = ring();
        let before = fs::read(&path).unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(matches!(KeyRingFile::create(&path), Err(RotationError::Write(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_symbolic_link_stays_a_link() {
        let (folder, path) = ring();
        let link = folder.path().join("link.toml");
        symlink("ring.toml", &link).unwrap();
        let added = KeyRingFile::open(&link).unwrap().add().unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert!(KeyRingFile::open(&path).unwrap().ids().any(|id| *id == added));
    }

    #[test]
    fn two_changes_at_once_are_refused_so_that_none_is_lost() {
        let (_folder, path) = ring();
        let mut first = KeyRingFile::open(&path).unwrap();
        assert!(matches!(KeyRingFile::open(&path), Err(RotationError::Busy)));
        first.add().unwrap();
        drop(first);
        KeyRingFile::open(&path).unwrap().add().unwrap();
        assert_eq!(KeyRingFile::open(&path).unwrap().ids().count(), 3);
    }

    #[test]
    fn a_refused_change_leaves_the_file_as_it_was() {
        let (folder, path) = ring();
        let before = fs::read(&path).unwrap();
        let mut file = KeyRingFile::open(&path).unwrap();
        let message = file.promote(&id("b")).unwrap_err().to_string();
        assert_eq!(message, "has no key \"b\"; it has a");
        assert!(matches!(file.retire(&id("b")), Err(RotationError::Unknown { .. })));
        assert!(file.retire(&id("a")).unwrap_err().to_string().contains("primary"));
        assert_eq!(fs::read(&path).unwrap(), before);
        drop(file);

        fs::write(&path, "primary = \"a\"\n[keys]\na = \"c2hvcnQ=\"\n").unwrap();
        let message = KeyRingFile::open(&path).unwrap_err().to_string();
        assert!(message.contains("not 32 bytes in base64"), "{message}");
        let gone = KeyRingFile::open(&folder.path().join("none.toml")).unwrap_err().to_string();
        assert!(gone.contains("cannot be opened"), "{gone}");
    }

    #[test]
    fn debug_shows_no_key() {
        let (_folder, path) = ring();
        assert!(!format!("{:?}", KeyRingFile::open(&path).unwrap()).contains("AAAA"));
    }
}
