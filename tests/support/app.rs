//! A service in this process.

use std::{ops::Deref, path::PathBuf};

use chrono::DateTime;
use latchkey::{clock::Clock, config::Config, server::Server};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, QueryResult, Statement};
use tempfile::TempDir;

use super::{Client, Database, certificates, database, soon};

/// Makes a hash cost next to nothing: the tests are about what is hashed and when, not about how strongly.
pub const CHEAP_ARGON2: [&str; 4] = ["--argon2-memory-kib", "8", "--argon2-iterations", "1"];

/// Listens on free ports.
pub const FREE_PORTS: [&str; 6] =
    ["--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"];

/// A running service with a client, which is also what it dereferences to.
pub struct App {
    pub server: Server,
    pub client: Client,
    pub url: String,
    pub folder: TempDir,
    pub clock: Clock,
}

impl Deref for App {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// The time at which the clock of [`manual_clock`] starts, in seconds since the Unix epoch: in 2033.
pub const START_SECONDS: i64 = 2_000_000_000;

/// A clock that stands still until the test advances it.
pub fn manual_clock() -> Clock {
    Clock::manual(DateTime::from_timestamp(START_SECONDS, 0).unwrap())
}

impl App {
    /// Starts a service on a new database.
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, &[]).await
    }

    /// Starts a service on a new database, with further settings.
    pub async fn start_with(database: Database, settings: &[&str]) -> Self {
        Self::start_with_clock_and(database, Clock::system(), settings).await
    }

    /// Starts a service on a new database, with another clock.
    pub async fn start_with_clock(database: Database, clock: Clock) -> Self {
        Self::start_with_clock_and(database, clock, &[]).await
    }

    /// Starts a service on a new database, with another clock and further settings.
    pub async fn start_with_clock_and(database: Database, clock: Clock, settings: &[&str]) -> Self {
        let (url, folder) = database.create().await;
        Self::start_at(url, folder, settings, clock).await
    }

    /// Starts a service on the database at `url`.
    pub async fn start_on(url: String, folder: TempDir, settings: &[&str]) -> Self {
        Self::start_at(url, folder, settings, Clock::system()).await
    }

    async fn start_at(url: String, folder: TempDir, settings: &[&str], clock: Clock) -> Self {
        let data = folder.path().join("data");
        let mut arguments = vec!["serve", "--database-url", &url, "--data-dir", data.to_str().unwrap()];
        arguments.extend(FREE_PORTS.chunks(2).filter(|port| !settings.contains(&port[0])).flatten());
        if !settings.contains(&CHEAP_ARGON2[0]) {
            arguments.extend(CHEAP_ARGON2);
        }
        arguments.extend(settings);
        let config = Config::parse_from(arguments).unwrap();
        let server = Server::start(&config, clock.clone()).await.unwrap();
        let client = Client::connect([server.grpc_addr(), server.http_addr(), server.admin_addr()]).await;
        Self { server, client, url, folder, clock }
    }

    /// Starts another service on the same database, with the same key ring.
    pub async fn replica(&self) -> Self {
        self.replica_with(&[]).await
    }

    /// Starts another service as [`App::replica`] does, with further settings.
    pub async fn replica_with(&self, settings: &[&str]) -> Self {
        let keys = self.folder.path().join("data/keyring.toml");
        let keys = if keys.exists() { vec!["--key-ring", keys.to_str().unwrap()] } else { Vec::new() };
        let settings = [&keys, settings].concat();
        Self::start_at(self.url.clone(), tempfile::tempdir().unwrap(), &settings, self.clock.clone()).await
    }

    /// Stops the service and starts it again with these settings and the same clock.
    pub async fn restart(self, settings: &[&str]) -> Self {
        let clock = self.clock.clone();
        self.restart_at(settings, clock).await
    }

    /// Stops the service and starts it again with this clock.
    pub async fn restart_with_clock(self, clock: Clock) -> Self {
        self.restart_at(&[], clock).await
    }

    async fn restart_at(self, settings: &[&str], clock: Clock) -> Self {
        self.server.stopper().cancel();
        drop(self.client);
        soon("stop", self.server.ended()).await.unwrap();
        Self::start_at(self.url, self.folder, settings, clock).await
    }

    /// The runs of argon2id since the start.
    pub fn argon2_runs(&self) -> u64 {
        self.server.registry().argon2_runs()
    }

    /// Writes a file into the test's folder, which only its owner may read.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        certificates::private_file(self.folder.path(), name, text)
    }

    /// Connects to the database apart from the service, once, so that a transaction can be held open.
    pub async fn database(&self) -> DatabaseConnection {
        database::connect(&self.url).await
    }

    /// Runs a statement on the database.
    pub async fn sql(&self, sql: &str) {
        self.database().await.execute_unprepared(sql).await.unwrap();
    }

    /// Queries the database.
    pub async fn query(&self, sql: &str) -> Vec<QueryResult> {
        let database = self.database().await;
        let statement = Statement::from_string(database.get_database_backend(), sql);
        database.query_all_raw(statement).await.unwrap()
    }

    /// Counts rows.
    pub async fn count(&self, from_where: &str) -> i64 {
        let rows = self.query(&format!("SELECT count(*) AS n FROM {from_where}")).await;
        rows[0].try_get("", "n").unwrap()
    }

    /// Inserts the row of `user` if there is none, and locks it (on SQLite: the database) until the lock is released.
    pub async fn lock_user(&self, user: &str) -> Lock {
        self.sql(&format!("INSERT INTO users (user_id) VALUES ('{user}') ON CONFLICT DO NOTHING")).await;
        let connection = self.database().await;
        match Database::of(&self.url) {
            Database::Sqlite => {
                connection.execute_unprepared("BEGIN IMMEDIATE").await.unwrap();
            }
            Database::Postgres => {
                connection.execute_unprepared("BEGIN").await.unwrap();
                // Row locks are granted in the order in which they were requested.
                let lock = format!("SELECT FROM users WHERE user_id = '{user}' FOR UPDATE");
                connection.execute_unprepared(&lock).await.unwrap();
            }
        }
        Lock(connection)
    }
}

/// A lock held by a test.
pub struct Lock(DatabaseConnection);

impl Lock {
    /// Ends the transaction without a change.
    pub async fn release(self) {
        self.0.execute_unprepared("ROLLBACK").await.unwrap();
        self.0.close().await.unwrap();
    }
}
