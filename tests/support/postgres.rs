//! A real PostgreSQL in a temporary folder, on a free port.

use std::{
    os::unix::fs::{MetadataExt as _, chown},
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sea_orm::{ConnectionTrait as _, Database};
use tempfile::TempDir;

use super::{guarded_process::GuardedProcess, tools};

const HOW_TO_INSTALL: &str = "install PostgreSQL: apt-get install postgresql";

/// A cluster of the test's own.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder: the server stops, then its files go.
    running: Option<GuardedProcess>,
    folder: TempDir,
    port: u16,
    uid: Option<u32>,
}

static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// The cluster that the tests share, each with a database of its own.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Makes a cluster and starts it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("latchkey-postgres-").tempdir().unwrap();
        // PostgreSQL refuses to run as root.
        let root = std::fs::metadata(folder.path()).unwrap().uid() == 0;
        let uid = root.then(|| tools::user_id(&["postgres", "nobody"]));
        chown(folder.path(), uid, uid).unwrap();
        let mut initdb = Command::new(tools::find("initdb", HOW_TO_INSTALL));
        initdb.arg("--pgdata").arg(folder.path().join("data")).current_dir("/");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        if let Some(uid) = uid {
            initdb.uid(uid).gid(uid);
        }
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let mut postgres = Self { running: None, folder, port: tools::free_port(), uid };
        postgres.resume();
        postgres
    }

    /// Stops the server at once, as a crash would.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Starts the server again, on the same port.
    pub fn resume(&mut self) {
        let port = self.port.to_string();
        let data = self.folder.path().join("data");
        let arguments = [
            "-D",
            data.to_str().unwrap(),
            "-p",
            &port,
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "unix_socket_directories=",
            "-c",
            "fsync=off",
            "-c",
            "max_connections=400",
            "-c",
            "shared_preload_libraries=pg_stat_statements",
        ];
        self.running = Some(GuardedProcess::start(
            &tools::find("postgres", HOW_TO_INSTALL),
            arguments,
            self.uid,
            "QUIT",
            "ready to accept connections",
        ));
    }

    /// The URL of a new, empty database.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let admin = Database::connect(self.url("postgres")).await.unwrap();
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        admin.close().await.unwrap();
        self.url(&name)
    }

    /// The URL of the database `name`.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}
