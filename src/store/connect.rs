//! Opens a database.
//!
//! The pools are made here and not by sea-orm's `Database::connect`, which would put the URL, password included, into
//! a trace span.

use std::{
    fmt,
    fs::{DirBuilder, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, Instant},
};

use sea_orm::{
    SqlxPostgresConnector, SqlxSqliteConnector,
    sqlx::{
        self, ConnectOptions as _, Pool, Sqlite,
        pool::PoolOptions,
        postgres::PgConnectOptions,
        sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
    },
};

use tokio::sync::Semaphore;

use super::{
    Store, StoreError, error::is_sqlite_busy, lookup_pool::LookupPool, pool, reachability::Reachability,
};

/// Where the database is.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// `sqlite://path`: a file, made when it is missing.
    Sqlite(Box<SqliteConnectOptions>),
    /// `postgres://user:password@host:port/database`.
    Postgres(Box<PgConnectOptions>),
}

/// Why a text is no URL of a database; says nothing of the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseUrlError {
    /// It is none at all.
    #[error("must be sqlite://PATH or postgres://USER:PASSWORD@HOST:PORT/DATABASE")]
    Form,
    /// It names several servers.
    #[error(
        "names several hosts; give one address that leads to the primary, such as that of a proxy (HAProxy with Patroni) or \
         a service of Kubernetes"
    )]
    SeveralHosts,
    /// It asks for a standby.
    #[error(
        "target_session_attrs: only the primary is used; leave it out, or set it to read-write, primary or any"
    )]
    Standby,
}

impl FromStr for DatabaseUrl {
    type Err = DatabaseUrlError;

    fn from_str(url: &str) -> Result<Self, DatabaseUrlError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            if path.contains(":memory:") || path.contains("mode=memory") || path.trim_matches('/').is_empty()
            {
                return Err(DatabaseUrlError::Form);
            }
            url.parse().map(Box::new).map(Self::Sqlite).map_err(|_| DatabaseUrlError::Form)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            check_libpq(url)?;
            url.parse().map(Box::new).map(Self::Postgres).map_err(|_| DatabaseUrlError::Form)
        } else {
            Err(DatabaseUrlError::Form)
        }
    }
}

/// Refuses what libpq allows in a URL and sqlx would misread or ignore.
fn check_libpq(url: &str) -> Result<(), DatabaseUrlError> {
    let (address, query) = url.split_once('?').unwrap_or((url, ""));
    let hosts = address.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default();
    // The password ends at the last @; it may have commas.
    if hosts.rsplit('@').next().is_some_and(|hosts| hosts.contains(',')) {
        return Err(DatabaseUrlError::SeveralHosts);
    }
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        match (&*key, &*value) {
            ("host" | "hostaddr" | "port", value) if value.contains(',') => {
                return Err(DatabaseUrlError::SeveralHosts);
            }
            ("target_session_attrs", "any" | "read-write" | "primary") => {}
            ("target_session_attrs", _) => return Err(DatabaseUrlError::Standby),
            _ => {}
        }
    }
    Ok(())
}

/// As people may see it: the file, or host, port and name of the database.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(options) => write!(f, "{}", options.get_filename().display()),
            Self::Postgres(options) => {
                // PostgreSQL's own default is the database named as the user.
                let database = options.get_database().unwrap_or(options.get_username());
                write!(f, "{}:{}/{database}", options.get_host(), options.get_port())
            }
        }
    }
}

/// As [`fmt::Display`]: the options hold the password.
impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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

impl PoolLimits {
    /// The same for a single connection.
    fn single(self) -> Self {
        Self { connections: 1, ..self }
    }
}

/// How long the answer to a ping is waited for: one connection that hangs must not cost a call all its time.
pub(super) const PING_TIMEOUT: Duration = Duration::from_millis(500);

impl Store {
    /// Opens the database at `url`; SQLite's file is made when it is missing. PostgreSQL is not contacted yet: see
    /// [`Store::prepare`].
    ///
    /// # Errors
    ///
    /// SQLite's file cannot be made or opened.
    pub async fn open(url: &DatabaseUrl, limits: PoolLimits) -> Result<Self, StoreError> {
        match url {
            DatabaseUrl::Sqlite(options) => open_sqlite(options, limits).await,
            DatabaseUrl::Postgres(options) => Ok(open_postgres(options, limits)),
        }
    }
}

async fn open_sqlite(options: &SqliteConnectOptions, limits: PoolLimits) -> Result<Store, StoreError> {
    create_private(options.get_filename()).map_err(StoreError::file)?;
    let options = options
        .clone()
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(limits.timeout)
        .disable_statement_logging();
    let single = pool::sqlite(limits.single());
    let writes = connect_when_free(&single, &options, limits.timeout).await?;
    let reads = connect_when_free(&pool::sqlite_reads(limits), &options, limits.timeout).await?;
    let connection = |pool| SqlxSqliteConnector::from_sqlx_sqlite_pool(pool);
    Ok(Store {
        lookups: LookupPool::Sqlite(reads.clone()),
        half_of_lookups: half(limits.connections),
        reads: connection(reads),
        writes: connection(writes),
        log: connection(single.clone().connect_lazy_with(options.clone())),
        health: connection(single.connect_lazy_with(options.clone())),
        url: DatabaseUrl::Sqlite(Box::new(options)),
        reachability: Arc::new(Reachability::new()),
        writers: Arc::new(Semaphore::new(1)),
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
            Err(error) if is_sqlite_busy(&error) && began.elapsed() < bound => {
                tokio::time::sleep(pause).await
            }
            done => return done,
        }
        pause *= 2;
    }
}

/// Listening for other replicas, listing them or ending stuck backends, and a spare. sqlx pings a connection on its way back
/// to the pool without a bound; one that begins to hang at that very moment is lost to the pool until TCP gives up on it.
const LOG_CONNECTIONS: u32 = 3;

fn open_postgres(options: &PgConnectOptions, limits: PoolLimits) -> Store {
    let bound = limits.timeout.as_millis().to_string();
    let options = options
        .clone()
        .application_name("latchkey")
        .options([
            ("statement_timeout", bound.as_str()),
            ("idle_in_transaction_session_timeout", bound.as_str()),
            // Whatever the role or the database have: what is acknowledged must survive.
            ("synchronous_commit", "on"),
        ])
        .disable_statement_logging();
    let reachability = Arc::new(Reachability::new());
    let pool = |connections| {
        let limits = PoolLimits { connections, ..limits };
        let pool = pool::postgres(limits, PING_TIMEOUT, Arc::clone(&reachability));
        SqlxPostgresConnector::from_sqlx_postgres_pool(pool.connect_lazy_with(options.clone()))
    };
    // Lookups have half of the connections, and writes and lists the other half.
    let lookups = PoolLimits { connections: limits.connections.div_ceil(2), ..limits };
    let main_connections = (limits.connections / 2).max(1);
    let main = pool(main_connections);
    Store {
        lookups: LookupPool::Postgres(
            pool::postgres_lookups(lookups, PING_TIMEOUT, Arc::clone(&reachability))
                .connect_lazy_with(options.clone()),
        ),
        half_of_lookups: half(lookups.connections),
        writes: main.clone(),
        reads: main.clone(),
        log: pool(LOG_CONNECTIONS),
        health: main,
        url: DatabaseUrl::Postgres(Box::new(options)),
        reachability,
        writers: Arc::new(Semaphore::new(main_connections as usize)),
        timeout: limits.timeout,
    }
}

/// A permit for each connection of the half that [`Share::Half`](super::Share::Half) may use.
fn half(connections: u32) -> Arc<Semaphore> {
    Arc::new(Semaphore::new((connections / 2).max(1) as usize))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_hosts_and_standbys_are_refused_by_name() {
        for (url, expected) in [
            ("postgres://u:p@one:1,two:2/d", Err(DatabaseUrlError::SeveralHosts)),
            ("postgres://one,two/d", Err(DatabaseUrlError::SeveralHosts)),
            ("postgres:///d?host=one,two", Err(DatabaseUrlError::SeveralHosts)),
            ("postgres://u@h/d?target_session_attrs=standby", Err(DatabaseUrlError::Standby)),
            ("postgres://u@h/d?target_session_attrs=prefer-standby", Err(DatabaseUrlError::Standby)),
            ("postgres://u@h/d?target_session_attrs=read-write", Ok(())),
            ("postgres://u:p%2Cq@h/d?target_session_attrs=primary&sslmode=require", Ok(())),
            ("postgres://u:p,q@h/d", Ok(())),
            ("mysql://u@h/d", Err(DatabaseUrlError::Form)),
        ] {
            assert_eq!(url.parse::<DatabaseUrl>().map(drop), expected, "{url}");
        }
        for error in [DatabaseUrlError::SeveralHosts, DatabaseUrlError::Standby] {
            assert!(error.to_string().contains("primary"), "{error}");
        }
    }
}
