//! Programs that the tests need and do not make themselves.

use std::path::PathBuf;

/// Where `program` is.
///
/// # Panics
///
/// It is not there; the message says how to get it.
pub fn find(program: &str, how_to_install: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    // Debian keeps servers out of PATH.
    let mut postgres: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    postgres.sort();
    folders.extend(postgres.into_iter().rev());
    folders.push("/usr/sbin".into());
    folders.into_iter().map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("{program} is not installed: run the tests with scripts/test, which installs it, or {how_to_install}")
    })
}

/// The id of the user of this name in /etc/passwd.
pub fn user_id(names: &[&str]) -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    names
        .iter()
        .find_map(|name| {
            let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
            line.split(':').nth(2)?.parse().ok()
        })
        .unwrap_or_else(|| panic!("none of the users {names:?} exists"))
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
