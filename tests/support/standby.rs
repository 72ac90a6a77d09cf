//! A standby of a PostgreSQL cluster.

use std::{os::unix::process::CommandExt as _, process::Command};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;

use super::{
    database,
    postgres::{self, Postgres},
    tools, until,
};

/// A server that follows a primary by streaming replication until it is promoted.
pub struct Standby {
    server: Postgres,
    pub port: u16,
}

impl Standby {
    /// Copies the primary and starts the copy as its standby.
    pub fn of(primary: &Postgres) -> Self {
        Self::start(copy_of(primary), primary.settings().to_vec())
    }

    /// Copies the primary and starts the copy as its standby under this name. From then on, each commit of the primary waits
    /// for it. The standby itself has no standby to wait for, also once it is promoted.
    pub async fn synchronous(primary: &Postgres, name: &str) -> Self {
        // Before the primary has the setting, so that the copy does not have it.
        let folder = tokio::task::block_in_place(|| copy_of(primary));
        primary.wait_for_standby(name).await;
        commits_wait(primary).await;
        // The name under which it connects to the primary.
        let settings = [primary.settings(), &[format!("cluster_name={name}")]].concat();
        let standby = tokio::task::block_in_place(|| Self::start(folder, settings));
        let admin = database::connect(primary.url("postgres")).await;
        until("the synchronous standby", || async {
            let standbys =
                "SELECT FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
            let rows = admin.query_all_raw(Statement::from_string(DbBackend::Postgres, standbys)).await;
            (!rows.unwrap().is_empty()).then_some(())
        })
        .await;
        standby
    }

    fn start(folder: TempDir, settings: Vec<String>) -> Self {
        let server = Postgres::start_standby(folder, settings);
        let port = server.port();
        Self { server, port }
    }

    /// The URL of the database that `url` names on the primary.
    pub fn url(&self, url: &str) -> String {
        let name = url.rsplit('/').next().unwrap();
        self.server.url(name)
    }

    /// Sends a signal to every process of the server.
    pub fn signal_all(&self, signal: &str) {
        self.server.signal_all(signal);
    }

    /// Ends the replication: the standby lacks what the primary commits from now on.
    pub async fn cut_off(&self) {
        let admin = self.admin().await;
        admin.execute_unprepared("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
        admin.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
        until("the end of replication", || async {
            let receivers = Statement::from_string(DbBackend::Postgres, "SELECT FROM pg_stat_wal_receiver");
            admin.query_all_raw(receivers).await.unwrap().is_empty().then_some(())
        })
        .await;
    }

    /// Makes it a primary, and returns when it is one.
    pub async fn promote(&self) {
        self.admin().await.execute_unprepared("SELECT pg_promote()").await.unwrap();
    }

    /// Makes it a primary, and returns that.
    pub async fn into_primary(self) -> Postgres {
        self.promote().await;
        self.server
    }

    async fn admin(&self) -> DatabaseConnection {
        database::connect(self.url("/postgres")).await
    }
}

/// Copies the files of the primary into `data` in a new folder, to be started as its standby.
fn copy_of(primary: &Postgres) -> TempDir {
    let folder = tempfile::Builder::new().prefix("latchkey-standby-").tempdir().unwrap();
    let user = postgres::user();
    std::os::unix::fs::chown(folder.path(), user, user).unwrap();
    let mut backup = Command::new(tools::find_postgres("pg_basebackup"));
    backup.args(["--host=127.0.0.1", "--username=postgres", "--write-recovery-conf", "--checkpoint=fast"]);
    backup.args(["--no-sync", "--wal-method=stream"]).arg(format!("--port={}", primary.port()));
    backup.arg("--pgdata").arg(folder.path().join("data")).current_dir("/");
    if let Some(user) = user {
        backup.uid(user).gid(user);
    }
    let copied = backup.output().unwrap();
    assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
    folder
}

/// Commits until a commit waits for the standby, which is not there yet: the setting takes effect some time after it is shown.
async fn commits_wait(primary: &Postgres) {
    let committer = database::connect(primary.url("postgres")).await;
    let commits = tokio::spawn(async move {
        loop {
            committer.execute_unprepared("SELECT pg_logical_emit_message(true, 'test', '')").await.unwrap();
        }
    });
    let admin = database::connect(primary.url("postgres")).await;
    until("a commit to wait", || async {
        let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let rows = admin.query_all_raw(Statement::from_string(DbBackend::Postgres, waiting)).await;
        (!rows.unwrap().is_empty()).then_some(())
    })
    .await;
    commits.abort();
}
