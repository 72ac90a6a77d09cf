//! Opens a database.
//!
//! The pools are made here and not by sea-orm's `Database::connect`, which would put the URL, password included, into
//! a trace span.

use std::{
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    str::FromStr,
    time::{Duration, Instant},
};

use sea_orm::{
    SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _, Connection as _, Pool, Postgres, Sqlite,
        pool::PoolOptions,
        postgres::{PgConnectOptions, PgConnection},
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

use super::{Store, StoreError, error::is_sqlite_busy};

/// Where the database is.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// `sqlite://path`: a file, made when it is missing.
    Sqlite(Box<SqliteConnectOptions>),
    /// `postgres://user:password@host:port/database`.
    Postgres(Box<PgConnectOptions>),
}

/// The text is no URL of a database; says nothing of the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
pub struct DatabaseUrlFault;

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlFault;

    fn from_str(url: &str) -> Result<Self, DatabaseUrlFault> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            if path.contains(":memory:") || path.contains("mode=memory") || path.trim_matches('/').is_empty()
            {
                return Err(DatabaseUrlFault);
            }
            url.parse().map(Box::new).map(Self::Sqlite).map_err(|_| DatabaseUrlFault)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            url.parse().map(Box::new).map(Self::Postgres).map_err(|_| DatabaseUrlFault)
        } else {
            Err(DatabaseUrlFault)
        }
    }
}

/// How much of the database is used at once, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct PoolLimits {
    /// Connections at most.
    pub connections: u32,
    /// How long a connection is waited for, and how long one statement or lock may take.
    pub timeout: Duration,
}

/// A connection that lay idle for longer is asked for a sign of life before it is used.
const TRUSTED_IDLE: Duration = Duration::from_secs(1);

/// How long the connection that reads the log of events is waited for, and its sign of life after each use. They are
/// short, so that a replica that was cut off is back within a second after the database is.
const LOG_TIMEOUT: Duration = Duration::from_millis(400);
const LOG_SIGN_OF_LIFE: Duration = Duration::from_millis(100);

/// How many statements, and waits for the next statement, each bounded by the timeout, may pass in a transaction from
/// the first event it writes to the end of its commit: three statements, two waits (see `TokenRegistry::revoke_user`);
/// and one to spare.
const STEPS_AFTER_FIRST_EVENT: u32 = 6;

impl Store {
    /// Opens the database at `url`. Its schema may still be old: see [`Store::migrate`].
    ///
    /// # Errors
    ///
    /// It cannot be reached, or its file cannot be made.
    pub async fn connect(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(options) => connect_sqlite(options, limits).await,
            DatabaseUrl::Postgres(options) => connect_postgres(options, limits).await,
        }
    }
}

async fn connect_sqlite(options: &SqliteConnectOptions, limits: PoolLimits) -> Result<Store, StoreError> {
    create_private(options.get_filename()).map_err(StoreError::file)?;
    let options = options
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(limits.timeout)
        .disable_statement_logging();
    let pool = |connections| {
        PoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(limits.timeout)
            .test_before_acquire(false)
            .max_lifetime(None)
            .idle_timeout(None)
    };
    let writes = connect_when_free(&pool(1), &options, limits.timeout).await?;
    let reads = connect_when_free(&pool(limits.connections), &options, limits.timeout).await?;
    let log = pool(1).connect_lazy_with(options);
    Ok(Store {
        reads: SqlxSqliteConnector::from_sqlx_sqlite_pool(reads),
        writes: SqlxSqliteConnector::from_sqlx_sqlite_pool(writes),
        log: SqlxSqliteConnector::from_sqlx_sqlite_pool(log),
        // One writer at a time: ids become visible in their order.
        longest_write: Duration::ZERO,
        timeout: limits.timeout,
    })
}

/// Of several that open a new file at once, one makes it one with a write-ahead log; another may then be told that it is
/// locked without SQLite having waited (about once in 2,000 openings by ten at once).
async fn connect_when_free(
    pool: &PoolOptions<Sqlite>,
    options: &SqliteConnectOptions,
    bound: Duration,
) -> Result<Pool<Sqlite>, sqlx::Error> {
    let began = Instant::now();
    let mut pause = Duration::from_millis(5);
    loop {
        match pool.clone().connect_with(options.clone()).await {
            Err(fault) if is_sqlite_busy(&fault) && began.elapsed() < bound => {
                tokio::time::sleep(pause).await
            }
            done => return done,
        }
        pause *= 2;
    }
}

async fn connect_postgres(options: &PgConnectOptions, limits: PoolLimits) -> Result<Store, StoreError> {
    let bound = limits.timeout.as_millis().to_string();
    let options = options
        .clone()
        .application_name("latchkey")
        .options([("statement_timeout", &bound), ("idle_in_transaction_session_timeout", &bound)])
        .disable_statement_logging();
    let reads = match postgres_pool(limits, limits.timeout).connect_with(options.clone()).await {
        Ok(reads) => reads,
        Err(fault) => return Err(cause(fault, &options, limits.timeout).await.into()),
    };
    let reads = SqlxPostgresConnector::from_sqlx_postgres_pool(reads);
    let log = PoolLimits { connections: 1, timeout: LOG_TIMEOUT.min(limits.timeout) };
    let log = postgres_pool(log, LOG_SIGN_OF_LIFE).connect_lazy_with(options);
    Ok(Store {
        writes: reads.clone(),
        reads,
        log: SqlxPostgresConnector::from_sqlx_postgres_pool(log),
        longest_write: limits.timeout * STEPS_AFTER_FIRST_EVENT,
        timeout: limits.timeout,
    })
}

/// Why there is no first connection: a pool that tried again and again tells only that it gave up.
async fn cause(fault: sqlx::Error, options: &PgConnectOptions, bound: Duration) -> sqlx::Error {
    if !matches!(fault, sqlx::Error::PoolTimedOut) {
        return fault;
    }
    match tokio::time::timeout(bound, options.connect()).await {
        Ok(Err(cause)) => cause,
        _ => fault,
    }
}

fn postgres_pool(limits: PoolLimits, sign_of_life_within: Duration) -> PoolOptions<Postgres> {
    PoolOptions::new()
        .max_connections(limits.connections)
        .acquire_timeout(limits.timeout)
        .test_before_acquire(false)
        .before_acquire(move |connection: &mut PgConnection, idle| {
            Box::pin(async move {
                if idle.idle_for > TRUSTED_IDLE {
                    sign_of_life(connection, sign_of_life_within).await?;
                }
                Ok(true)
            })
        })
        // sqlx asks too, but without a bound: a connection that hangs would keep its place in the pool for ever.
        .after_release(move |connection: &mut PgConnection, _| {
            Box::pin(async move {
                sign_of_life(connection, sign_of_life_within).await?;
                Ok(true)
            })
        })
}

async fn sign_of_life(connection: &mut PgConnection, bound: Duration) -> Result<(), sqlx::Error> {
    tokio::time::timeout(bound, connection.ping()).await.map_err(|_| sqlx::Error::PoolTimedOut)?
}

/// Makes the file, and the folder it lies in, for its owner alone. SQLite gives its log files the same permissions.
fn create_private(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        create_private_folder(folder)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    Ok(())
}

/// Makes a folder, where there is none, for its owner alone.
///
/// # Errors
///
/// It cannot be made.
pub fn create_private_folder(folder: &Path) -> io::Result<()> {
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
