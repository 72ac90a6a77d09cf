//! Databases with many tokens, made by SQL: through the service a million of them would take an hour.

use std::{path::PathBuf, sync::Arc, time::Duration};

use latchkey::{
    credentials::{HashLimits, Hasher, KeyRing, SecretVerifier},
    store::{PoolLimits, Store},
    token::{BearerToken, Prefix},
};
use sea_orm::{ConnectionTrait as _, DatabaseConnection, Statement, Value};
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

use super::support::{forge::forge, postgres::Postgres};

const TOKENS_OF_A_USER: usize = 50;
/// How many rows a statement writes.
const BATCH: usize = 1_000;

pub struct Database {
    pub url: String,
    folder: TempDir,
    /// Secrets of some of the tokens, evenly spread.
    pub secrets: Arc<[String]>,
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
        let database = Self { url, folder, secrets: Arc::default(), users: 0 };
        KeyRing::open_or_create(&database.key_ring()).unwrap();
        database
    }

    pub fn key_ring(&self) -> PathBuf {
        self.folder.path().join("keyring.toml")
    }

    /// Makes `tokens` tokens and keeps the secrets of `kept` of them.
    pub async fn fill(&mut self, tokens: usize, kept: usize) {
        let keys = KeyRing::open(&self.key_ring()).unwrap();
        let prefix: Prefix = "pat".parse().unwrap();
        let mut secrets = Vec::with_capacity(kept);
        self.users = tokens.div_ceil(TOKENS_OF_A_USER);
        let filler = Filler::new(&self.url).await;
        filler.users(self.users).await;
        for first in (0..tokens).step_by(BATCH) {
            let batch: Vec<BearerToken> =
                (first..tokens.min(first + BATCH)).map(|_| BearerToken::generate().unwrap()).collect();
            filler.tokens(first, &batch, &keys).await;
            let every = tokens / kept;
            let kept = batch.iter().enumerate().filter(|(n, _)| (first + n) % every == 0);
            secrets.extend(kept.map(|(_, secret)| secret.reveal(&prefix).expose_secret().to_owned()));
        }
        filler.finish().await;
        self.secrets = secrets.into();
    }
}

struct Filler {
    database: DatabaseConnection,
    /// A hash that is right for none of them: what has a tag is never proven by its hash.
    hash: String,
}

impl Filler {
    async fn new(url: &str) -> Self {
        let mut options = sea_orm::ConnectOptions::new(url);
        options.max_connections(1).sqlx_logging(false);
        let database = sea_orm::Database::connect(options).await.unwrap();
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

    async fn tokens(&self, first: usize, secrets: &[BearerToken], keys: &KeyRing) {
        let key_id = keys.tag(&secrets[0]).unwrap().key_id().as_str().to_owned();
        let mut values: Vec<Value> =
            vec![self.hash.as_str().into(), key_id.into(), latchkey::clock::Clock::system().now().into()];
        let mut rows = Vec::with_capacity(secrets.len());
        for (n, secret) in secrets.iter().enumerate() {
            let (user, n, place) = ((first + n) / TOKENS_OF_A_USER, first + n, values.len());
            rows.push(format!(
                "(${}, 'user {user}', 'token {n}', $1, $2, ${}, '', $3)",
                place + 1,
                place + 2
            ));
            values.push(secret.id().into());
            values.push(keys.tag(secret).unwrap().mac().to_vec().into());
        }
        let sql = format!(
            "INSERT INTO tokens (id, user_id, name, secret_hash, tag_key_id, tag, scopes, created_at) VALUES {}",
            rows.join(", ")
        );
        let backend = self.database.get_database_backend();
        self.database.execute_raw(Statement::from_sql_and_values(backend, sql, values)).await.unwrap();
    }

    /// What a database does in the background after so many rows, done now.
    async fn finish(self) {
        let tidy = match self.database.get_database_backend() {
            sea_orm::DbBackend::Sqlite => "PRAGMA wal_checkpoint(TRUNCATE)",
            _ => "VACUUM ANALYZE",
        };
        self.database.execute_unprepared(tidy).await.unwrap();
        self.database.close().await.unwrap();
    }
}

/// Secrets of no token.
pub fn unknown_ids(count: usize) -> Arc<[String]> {
    let prefix: Prefix = "pat".parse().unwrap();
    let secret = |_| BearerToken::generate().unwrap().reveal(&prefix).expose_secret().to_owned();
    (0..count).map(secret).collect()
}

/// For each of the secrets another one with its id.
pub fn wrong_secrets(secrets: &[String]) -> Arc<[String]> {
    let next = secrets.iter().cycle().skip(1);
    secrets.iter().zip(next).map(|(secret, other)| forge(secret, other)).collect()
}
