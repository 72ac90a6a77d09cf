//! A real PostgreSQL in a temporary folder, on a free port.

use std::{
    os::unix::fs::chown,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tempfile::TempDir;

use super::{database, guarded_process::GuardedProcess, tools};

/// More than all tests that run at once use.
const CONNECTIONS: u32 = 400;

/// A PostgreSQL cluster.
#[derive(Debug)]
pub struct Postgres {
    // Before the folder: the server stops, then its files are removed.
    running: Option<GuardedProcess>,
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
}

/// How a cluster differs from the default one.
#[derive(Debug, Default)]
pub struct Options<'a> {
    /// The folder in which the cluster's folder is created.
    pub parent: Option<&'a Path>,
    /// Further arguments of initdb.
    pub initdb: &'a [&'a str],
    /// Further settings of the server, as `name=value`.
    pub settings: &'a [&'a str],
}

static SHARED: LazyLock<Postgres> = LazyLock::new(Postgres::start);
static DATABASES: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// The cluster that the tests share, each with a database of its own.
    pub fn shared() -> &'static Self {
        &SHARED
    }

    /// Creates a cluster and starts it.
    pub fn start() -> Self {
        Self::start_with(&Options::default())
    }

    /// Creates a cluster with these options and starts it.
    pub fn start_with(options: &Options<'_>) -> Self {
        let mut folder = tempfile::Builder::new();
        folder.prefix("latchkey-postgres-");
        let folder = match options.parent {
            Some(parent) => folder.tempdir_in(parent),
            None => folder.tempdir(),
        };
        let folder = folder.unwrap();
        chown(folder.path(), user(), user()).unwrap();
        let mut initdb = Command::new(tools::find_postgres("initdb"));
        initdb.arg("--pgdata").arg(folder.path().join("data")).current_dir("/");
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]);
        initdb.args(options.initdb);
        if let Some(uid) = user() {
            initdb.uid(uid).gid(uid);
        }
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = options.settings.iter().map(|&setting| setting.to_owned()).collect();
        let mut postgres = Self { running: None, folder, port: tools::free_port(), settings };
        postgres.resume();
        postgres
    }

    /// Starts a standby whose files are in `data` in this folder.
    pub(super) fn start_standby(folder: TempDir, settings: Vec<String>) -> Self {
        let mut standby = Self { running: None, folder, port: tools::free_port(), settings };
        // "read only" in PostgreSQL 13, "read-only" since.
        standby.run_until("ready to accept read");
        standby
    }

    /// The server's log since its last start.
    pub fn log(&self) -> String {
        self.running.as_ref().map(GuardedProcess::output).unwrap_or_default()
    }

    /// Stops the server at once, as a crash would.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Sends a signal to every process of the server.
    pub fn signal_all(&self, signal: &str) {
        let file = self.folder.path().join("data/postmaster.pid");
        let process = std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned();
        // Without an error if one has just ended.
        let _ = Command::new("kill").args(["-s", signal, &process]).status();
        let _ = Command::new("pkill").args(["--signal", signal, "--parent", &process]).status();
    }

    /// Starts the server again, on the same port.
    pub fn resume(&mut self) {
        self.run_until("ready to accept connections");
    }

    /// Starts the server, and returns when it has logged `ready`.
    fn run_until(&mut self, ready: &str) {
        let port = self.port.to_string();
        let connections = format!("max_connections={CONNECTIONS}");
        let data = self.folder.path().join("data");
        let mut arguments = vec!["-D", data.to_str().unwrap(), "-p", &port];
        let defaults = [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            &connections,
            "shared_preload_libraries=pg_stat_statements",
        ];
        for setting in defaults.into_iter().chain(self.settings.iter().map(String::as_str)) {
            arguments.extend(["-c", setting]);
        }
        self.running = Some(GuardedProcess::start(
            &tools::find_postgres("postgres"),
            arguments,
            user(),
            "QUIT",
            Some(self.folder.path()),
            ready,
        ));
    }

    /// The URL of a new, empty database.
    pub async fn create_database(&self) -> String {
        let name = format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let admin = database::connect(self.url("postgres")).await;
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
        admin.close().await.unwrap();
        self.url(&name)
    }

    /// Makes commits wait for this standby; without a name, for none.
    pub async fn wait_for_standby(&self, name: &str) {
        let admin = database::connect(self.url("postgres")).await;
        for sql in [
            "SET synchronous_commit = local".to_owned(),
            format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"),
            "SELECT pg_reload_conf()".to_owned(),
        ] {
            admin.execute_unprepared(&sql).await.unwrap();
        }
        super::until("the setting", || async {
            let shown = Statement::from_string(DbBackend::Postgres, "SHOW synchronous_standby_names");
            let row = admin.query_one_raw(shown).await.unwrap().unwrap();
            (row.try_get_by_index::<String>(0).unwrap() == name).then_some(())
        })
        .await;
    }

    /// The settings that it was created with.
    pub(super) fn settings(&self) -> &[String] {
        &self.settings
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the database `name`.
    pub fn url(&self, name: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }
}

/// The user that runs the server: PostgreSQL refuses to run as root. `None` is the user of the tests.
pub fn user() -> Option<u32> {
    tools::is_root().then(|| tools::user_id(&["postgres", "nobody"]))
}
