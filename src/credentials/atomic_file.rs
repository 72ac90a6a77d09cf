//! Files that are created or replaced as a whole: a reader sees the old file or the new one, also after a power cut.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use tempfile::NamedTempFile;

/// Creates a file that only its owner can access. Never replaces an existing file.
///
/// # Errors
///
/// [`io::ErrorKind::AlreadyExists`], or the file cannot be written. Nothing is left behind.
pub(super) fn create(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let file = write_temporary(path, write)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(path)?;
    sync_folder(path)
}

/// Replaces an existing file. The new file keeps the owner, group and mode of the old one, so that the same users can
/// read it.
///
/// # Errors
///
/// The old file cannot be found, or the new one cannot be written. The old file stays as it was.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let old = fs::metadata(path)?;
    let file = write_temporary(path, write)?;
    let new = file.as_file().metadata()?;
    if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
        fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
    }
    file.as_file().set_permissions(old.permissions())?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    sync_folder(path)
}

/// Writes a temporary file in the folder of `path`. It is removed on drop, unless it is persisted.
fn write_temporary(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.suffix(".new").permissions(Permissions::from_mode(0o600));
    let mut file = builder.tempfile_in(folder(path))?;
    write(file.as_file_mut())?;
    Ok(file)
}

/// Makes a rename in the folder of `path` durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Writes a part of a file, and fails.
    fn fail(file: &mut File) -> io::Result<()> {
        file.write_all(b"half")?;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn files(folder: &tempfile::TempDir) -> usize {
        fs::read_dir(folder.path()).unwrap().count()
    }

    #[test]
    fn a_file_that_cannot_be_created_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        assert_eq!(create(&path, fail).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(files(&folder), 0);

        fs::write(&path, "another's").unwrap();
        let taken = create(&path, |file| file.write_all(b"mine")).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert_eq!(files(&folder), 1);

        let missing = create(&folder.path().join("none/file"), |_| Ok(())).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_stays_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let missing = replace(&path, |file| file.write_all(b"new")).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        assert_eq!(files(&folder), 0);

        fs::write(&path, "old").unwrap();
        assert_eq!(replace(&path, fail).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(files(&folder), 1);
    }

    #[test]
    fn a_created_file_is_private_and_a_replaced_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        create(&path, |file| file.write_all(b"1")).unwrap();
        assert_eq!(mode(), 0o600);
        for kept in [0o600, 0o640] {
            fs::set_permissions(&path, Permissions::from_mode(kept)).unwrap();
            replace(&path, |file| file.write_all(b"2")).unwrap();
            assert_eq!(mode(), kept);
        }
        assert_eq!(fs::read(&path).unwrap(), b"2");
        assert_eq!(files(&folder), 1);
    }

    #[test]
    fn a_replaced_file_keeps_its_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        create(&path, |_| Ok(())).unwrap();
        // Only root can change the owner; without it this test shows that the owner stays the current user.
        let _ = std::os::unix::fs::chown(&path, Some(1), Some(2));
        let owner = || fs::metadata(&path).map(|file| (file.uid(), file.gid())).unwrap();
        let before = owner();
        replace(&path, |file| file.write_all(b"new")).unwrap();
        assert_eq!(owner(), before);
    }
}
