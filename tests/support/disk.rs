//! A small disk that can be filled.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::{NamedTempFile, TempDir};

use super::tools;

const EXT4_BYTES: u64 = 20 * 1024 * 1024;

/// A file system that is mounted until it is dropped. Mounting needs root.
pub struct Disk {
    folder: TempDir,
    image: Option<NamedTempFile>,
}

impl Disk {
    /// Mounts a file system in memory (tmpfs) of this size, owned by `uid`.
    pub fn mount(size: &str, uid: Option<u32>) -> Self {
        let disk = Self { folder: tempfile::tempdir().unwrap(), image: None };
        let options = format!("size={size},mode=0700");
        run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", disk.name()]);
        chown(disk.path(), uid, uid).unwrap();
        disk
    }

    /// Mounts an ext4 file system, which becomes read-only at its first error.
    pub fn mount_ext4() -> Self {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(EXT4_BYTES).unwrap();
        run("mkfs.ext4", &["-q", "-O", "^has_journal", image.path().to_str().unwrap()]);
        let disk = Self { folder: tempfile::tempdir().unwrap(), image: Some(image) };
        disk.mount_image();
        disk
    }

    fn mount_image(&self) {
        let image = self.image.as_ref().unwrap().path().to_str().unwrap();
        run("mount", &["-o", "loop,errors=remount-ro", image, self.name()]);
    }

    /// Makes the kernel remount an ext4 disk read-only, also for files that are open.
    pub fn turn_read_only(&self) {
        let script = r#"echo 1 >"/sys/fs/ext4/$(basename "$(findmnt -no SOURCE "$0")")/trigger_fs_error""#;
        run("sh", &["-c", script, self.name()]);
    }

    /// Mounts an ext4 disk again. No file on it may be open.
    pub fn repair(&self) {
        run("umount", &[self.name()]);
        self.mount_image();
    }

    fn name(&self) -> &str {
        self.path().to_str().unwrap()
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Uses up the free space.
    pub fn fill(&self) {
        let mut filler = fs::File::create(self.filler()).unwrap();
        // Large pieces first, then single bytes, until no byte fits.
        for size in [64 * 1024, 4 * 1024, 1] {
            while filler.write_all(&vec![0; size]).is_ok() {}
        }
    }

    /// Frees the space again.
    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazy: a server that is ending may still have files open.
        run("umount", &["--lazy", self.name()]);
    }
}

/// Runs a program as root.
fn run(program: &str, arguments: &[&str]) {
    let mut command = Command::new(if tools::is_root() { program } else { "sudo" });
    if !tools::is_root() {
        command.arg(program);
    }
    let done = command.args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        done.status.success(),
        "{program} needs root, or sudo: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}
