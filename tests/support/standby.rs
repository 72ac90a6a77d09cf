//! A standby of a PostgreSQL cluster.

use std::{os::unix::process::CommandExt as _, process::Command};

use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};
use tempfile::TempDir;

use super::{database, guarded_process::GuardedProcess, postgres, tools, until};

/// A server that follows a primary by streaming replication until it is promoted.
pub struct Standby {
    // Before the folder: the server stops, then its files are removed.
    _running: GuardedProcess,
    _folder: TempDir,
    pub port: u16,
}

impl Standby {
    /// Copies the primary and starts the copy as its standby.
    pub fn of(primary: &postgres::Postgres) -> Self {
        let folder = tempfile::Builder::new().prefix("latchkey-standby-").tempdir().unwrap();
        let user = postgres::user();
        std::os::unix::fs::chown(folder.path(), user, user).unwrap();
        let data = folder.path().join("data");
        let mut backup = Command::new(tools::find_postgres("pg_basebackup"));
        backup.args([
            "--host=127.0.0.1",
            "--username=postgres",
            "--write-recovery-conf",
            "--checkpoint=fast",
        ]);
        backup.args(["--no-sync", "--wal-method=stream"]).arg(format!("--port={}", primary.port()));
        backup.arg("--pgdata").arg(&data).current_dir("/");
        if let Some(user) = user {
            backup.uid(user).gid(user);
        }
        let copied = backup.output().unwrap();
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        let port = tools::free_port();
        let settings = [
            format!("port={port}"),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
            "max_connections=400".to_owned(),
            "fsync=off".to_owned(),
        ];
        let mut arguments = vec!["-D", data.to_str().unwrap()];
        for setting in &settings {
            arguments.extend(["-c", setting]);
        }
        let running = GuardedProcess::start(
            &tools::find_postgres("postgres"),
            arguments,
            user,
            "QUIT",
            Some(folder.path()),
            // "read only" in PostgreSQL 13, "read-only" since.
            "ready to accept read",
        );
        Self { _running: running, _folder: folder, port }
    }

    /// The URL of the database that `url` names on the primary.
    pub fn url(&self, url: &str) -> String {
        let name = url.rsplit('/').next().unwrap();
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
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

    async fn admin(&self) -> DatabaseConnection {
        database::connect(self.url("/postgres")).await
    }
}
