//! The databases that Latchkey runs on, and the SQL that they write differently.

use std::path::Path;

use sea_orm::{ConnectOptions, DatabaseConnection};
use tempfile::TempDir;

use super::postgres::Postgres;

/// Connects to the database at `url` apart from the service.
pub async fn connect(url: impl Into<String>) -> DatabaseConnection {
    let mut options = ConnectOptions::new(url);
    options.sqlx_logging(false);
    // sqlx's task that closes old connections can loop forever: src/store/pool.rs says why.
    options.idle_timeout(None).max_lifetime(None);
    // One, so that a transaction can be held open.
    sea_orm::Database::connect(options.max_connections(1).to_owned()).await.unwrap()
}

/// The database that a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

impl Database {
    /// The database that `url` belongs to.
    pub fn of(url: &str) -> Self {
        if url.starts_with("sqlite:") { Self::Sqlite } else { Self::Postgres }
    }

    /// Returns the URL of a new database and a new folder; the database file of SQLite will be in it.
    pub async fn create(self) -> (String, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let url = match self {
            Self::Sqlite => format!("sqlite://{}", sqlite_file(folder.path()).display()),
            Self::Postgres => Postgres::shared().create_database().await,
        };
        (url, folder)
    }

    /// A table expression whose column `n` counts from 1 to `last`.
    pub fn series(self, last: usize) -> String {
        match self {
            Self::Sqlite => format!(
                "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {last}) SELECT n FROM s)"
            ),
            Self::Postgres => format!("(SELECT generate_series(1, {last}) AS n)"),
        }
    }

    /// An expression for a new id in each row.
    pub fn random_id(self) -> &'static str {
        match self {
            Self::Sqlite => "randomblob(16)",
            Self::Postgres => "gen_random_uuid()",
        }
    }

    /// Statements that insert `count` rows of each kind that a purge deletes: events, and tokens that were revoked or have
    /// expired, or whose account was deleted; those are ten per account.
    pub fn old_rows(self, count: usize) -> Vec<String> {
        let (id, series, accounts) = (self.random_id(), self.series(count), count / 10);
        let tokens = |user: &str, name: &str, column: &str, time: &str| {
            format!(
                "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at, {column}) \
                 SELECT {id}, {user}, '{name} ' || n, 'x', '', {SOME_TIME}, {time} FROM {series} AS s"
            )
        };
        vec![
            "INSERT INTO users (user_id) VALUES ('old')".to_owned(),
            format!(
                "INSERT INTO users (user_id, deleted_at) SELECT 'deleted ' || n, {SOME_TIME} FROM {} AS s",
                self.series(accounts)
            ),
            tokens("'old'", "revoked", "revoked_at", SOME_TIME),
            tokens("'old'", "expired", "expires_at", SOME_TIME),
            tokens(&format!("'deleted ' || (n % {accounts} + 1)"), "kept", "expires_at", "NULL"),
            format!(
                "INSERT INTO token_events (at, kind, user_id, actor) \
                 SELECT {SOME_TIME}, 'token_issued', 'old', 'old' FROM {series} AS s"
            ),
        ]
    }

    /// The id of a token as a literal.
    pub fn id(self, id: &str) -> String {
        match self {
            Self::Sqlite => format!("x'{}'", id.replace('-', "")),
            Self::Postgres => format!("'{id}'"),
        }
    }
}

/// The database file of a test in its folder.
pub fn sqlite_file(folder: &Path) -> std::path::PathBuf {
    folder.join("test.db")
}

/// A time literal for rows whose time does not matter, in the form in which the service stores times on SQLite.
pub const SOME_TIME: &str = "'2026-01-01T00:00:00+00:00'";
