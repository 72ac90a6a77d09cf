//! Databases with many tokens, inserted by SQL: creating a million through the service would take an hour.

use std::{path::PathBuf, sync::Arc, time::Duration};

use latchkey::{
    credentials::{HashLimits, Hasher, KeyRing, SecretVerifier},
    store::{PoolLimits, Store},
    token::{BearerToken, Prefix},
};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement, Value};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::support::{bearer_token::forge, postgres::Postgres};

const TOKENS_PER_USER: usize = 50;
/// Rows per INSERT.
const BATCH: usize = 1_000;

pub struct Database {
    pub url: String,
    folder: TempDir,
    /// Some of the tokens, evenly spread.
    pub bearers: Arc<[String]>,
    pub users: usize,
}

impl Database {
    pub async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("latchkey.db").display());
        Self::migrated(url, folder).await
    }

    pub async fn postgres(server: &Postgres) -> Self {
        Self::migrated(server.create_database().await, tempfile::tempdir().unwrap()).await
    }

    async fn migrated(url: String, folder: TempDir) -> Self {
        let limits = PoolLimits { connections: 1, timeout: Duration::from_secs(30) };
        let store = Store::open(&url.parse().unwrap(), limits).await.unwrap();
        store.prepare().await.unwrap();
        store.close().await.unwrap();
        let database = Self { url, folder, bearers: Arc::default(), users: 0 };
        KeyRing::open_or_create(&database.key_ring()).unwrap();
        database
    }

    /// Connects to the database apart from the service.
    pub async fn connect(&self) -> DatabaseConnection {
        super::support::database::connect(&self.url).await
    }

    /// Inserts a user with so many tokens, which nobody can use.
    pub async fn add_tokens_of(&self, user: &str, tokens: usize) {
        let database = self.connect().await;
        let (id, series) = match database.get_database_backend() {
            sea_orm::DbBackend::Sqlite => (
                "randomblob(16)",
                format!(
                    "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {tokens}) \
                     SELECT n FROM s)"
                ),
            ),
            _ => ("gen_random_uuid()", format!("(SELECT generate_series(1, {tokens}) AS n)")),
        };
        for sql in [
            format!("INSERT INTO users (user_id) VALUES ('{user}')"),
            format!(
                "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
                 SELECT {id}, '{user}', 'token ' || n, '', '', '2026-01-01 00:00:00+00:00' FROM {series} AS s"
            ),
        ] {
            database.execute_unprepared(&sql).await.unwrap();
        }
        if database.get_database_backend() == sea_orm::DbBackend::Sqlite {
            // Otherwise the next commit would pay for moving these rows into the database file.
            database.execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        }
        database.close().await.unwrap();
    }

    pub fn key_ring(&self) -> PathBuf {
        self.folder.path().join("keyring.toml")
    }

    /// Inserts `tokens` tokens, and keeps `kept` of them in `bearers`.
    pub async fn fill(&mut self, tokens: usize, kept: usize) {
        let keys = KeyRing::open(&self.key_ring()).unwrap();
        let prefix: Prefix = "pat".parse().unwrap();
        let mut bearers = Vec::with_capacity(kept);
        self.users = tokens.div_ceil(TOKENS_PER_USER);
        let filler = Filler::new(self.connect().await).await;
        filler.users(self.users).await;
        for first in (0..tokens).step_by(BATCH) {
            let batch: Vec<BearerToken> =
                (first..tokens.min(first + BATCH)).map(|_| keys.generate().unwrap()).collect();
            filler.tokens(first, &batch, &keys).await;
            let every = tokens / kept;
            let kept = batch.iter().enumerate().filter(|(n, _)| (first + n) % every == 0);
            bearers.extend(kept.map(|(_, bearer)| bearer.reveal(&prefix).expose_secret().to_owned()));
        }
        filler.finish().await;
        self.bearers = bearers.into();
    }
}

struct Filler {
    database: DatabaseConnection,
    /// A hash of some other secret: tokens with a tag are never verified by their hash.
    hash: String,
}

impl Filler {
    async fn new(database: DatabaseConnection) -> Self {
        let cheap = HashLimits { memory_kib: 8, iterations: 1, parallelism: 1, concurrency: 1, queue: 1 };
        let verifier = SecretVerifier::new(Hasher::new(cheap).unwrap(), KeyRing::empty());
        let (hash, _) = verifier.make(&BearerToken::generate().unwrap()).await.unwrap();
        Self { database, hash: hash.as_str().to_owned() }
    }

    async fn users(&self, count: usize) {
        for first in (0..count).step_by(BATCH) {
            let rows: Vec<String> =
                (first..count.min(first + BATCH)).map(|n| format!("('user {n}')")).collect();
            let sql = format!("INSERT INTO users (user_id) VALUES {}", rows.join(", "));
            self.database.execute_unprepared(&sql).await.unwrap();
        }
    }

    async fn tokens(&self, first: usize, bearers: &[BearerToken], keys: &KeyRing) {
        let key_id = keys.tag(&bearers[0]).unwrap().key_id().as_str().to_owned();
        let mut values: Vec<Value> =
            vec![self.hash.as_str().into(), key_id.into(), latchkey::clock::Clock::system().now().into()];
        let mut rows = Vec::with_capacity(bearers.len());
        for (n, bearer) in bearers.iter().enumerate() {
            let (user, n, parameters) = ((first + n) / TOKENS_PER_USER, first + n, values.len());
            rows.push(format!(
                "(${}, 'user {user}', 'token {n}', $1, $2, ${}, '', $3)",
                parameters + 1,
                parameters + 2
            ));
            values.push(bearer.id().into());
            values.push(keys.tag(bearer).unwrap().mac().to_vec().into());
        }
        let sql = format!(
            "INSERT INTO tokens (id, user_id, name, secret_hash, tag_key_id, tag, scopes, created_at) VALUES {}",
            rows.join(", ")
        );
        let backend = self.database.get_database_backend();
        self.database.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await.unwrap();
    }

    /// Runs the maintenance that a database would otherwise do in the background after so many rows.
    async fn finish(self) {
        let maintenance = match self.database.get_database_backend() {
            sea_orm::DbBackend::Sqlite => "PRAGMA wal_checkpoint(TRUNCATE)",
            _ => "VACUUM ANALYZE",
        };
        self.database.execute_unprepared(maintenance).await.unwrap();
        self.database.close().await.unwrap();
    }
}

/// Returns well-formed tokens that are not in the database.
pub fn unknown_ids(count: usize) -> Arc<[String]> {
    let prefix: Prefix = "pat".parse().unwrap();
    let bearer = |_| BearerToken::generate().unwrap().reveal(&prefix).expose_secret().to_owned();
    (0..count).map(bearer).collect()
}

/// Returns a token with the same id and a wrong secret for each of `bearers`.
pub fn wrong_secrets(bearers: &[String]) -> Arc<[String]> {
    let next = bearers.iter().cycle().skip(1);
    bearers.iter().zip(next).map(|(bearer, other)| forge(bearer, other)).collect()
}
