//! What can go wrong in the database, as its callers need to know it.

use std::{fmt, io, sync::Arc};

use sea_orm::{DbErr, RuntimeErr, SqlErr, sqlx};

/// Why the database did not do what was asked. Shows the database's message, never the values of a row.
#[derive(Clone, thiserror::Error)]
pub enum StoreError {
    /// Out of reach, overloaded or going down: a later try may succeed.
    #[error("the database is out of reach: {0}")]
    Unavailable(DbErr),
    /// The last health check found it out of reach, so it was not asked: a later try may succeed.
    #[error("the database is out of reach since the last health check")]
    Away,
    /// It is a standby, which may lack revocations: a later try may reach the primary.
    #[error("the database server is in recovery, and may lack the latest revocations")]
    InRecovery,
    /// A failover came in between, or the pool still has connections to the server that was replaced: a later try may
    /// succeed.
    #[error("the database server is of another epoch: it crashed, failed over or was restored")]
    EpochChanged,
    /// A pooler gave the connection another session of the server: a later try may succeed, but hardly ever will.
    #[error("the connection was given another session; a pooler must run in session mode")]
    SessionChanged,
    /// The database crashed, or another server has taken over, and the change may have been lost with the earlier one: do it again.
    #[error("the database failed over before every replica had seen the change, which may be lost")]
    FailedOver,
    /// This replica's lease has ended, so it may lack revocations: a later try may succeed.
    #[error("this replica could not renew its lease: the database cannot be read, or not be written to")]
    NoLease,
    /// It did not answer in time: a later try may succeed.
    #[error("the database did not answer in time")]
    Timeout,
    /// The task that ran the transaction ended early; it is not known whether the transaction was committed.
    #[error("the transaction was interrupted")]
    Interrupted,
    /// Its schema is that of an older version.
    #[error(
        "the database lacks migrations: run `latchkey migrate`, or start the service again, which does it too"
    )]
    SchemaOutdated,
    /// It cannot hold every text.
    #[error("the database's encoding is {0}; create it with ENCODING 'UTF8'")]
    Encoding(String),
    /// A text holds a character that the database cannot store.
    #[error("a text has a character that the database cannot store")]
    Text,
    /// A row with the same key exists.
    #[error("the row exists already")]
    Duplicate,
    /// The database's file cannot be made.
    #[error("the database's file cannot be made: {0}")]
    File(Arc<io::Error>),
    /// A row holds what this version cannot read, or a statement is wrong: a later try will not succeed.
    #[error("the database refused: {0}")]
    Refused(DbErr),
}

impl StoreError {
    /// Whether a later try may succeed because the database, or the way to it, is what failed.
    pub fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Unavailable(_) | Self::Away | Self::InRecovery | Self::EpochChanged | Self::Timeout
        )
    }

    pub(super) fn file(error: io::Error) -> Self {
        Self::File(Arc::new(error))
    }
}

/// As [`fmt::Display`]: the derived form would show the details that PostgreSQL sends, which may quote a whole row.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<DbErr> for StoreError {
    fn from(error: DbErr) -> Self {
        if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) {
            return Self::Duplicate;
        }
        let (DbErr::Conn(RuntimeErr::SqlxError(cause))
        | DbErr::Exec(RuntimeErr::SqlxError(cause))
        | DbErr::Query(RuntimeErr::SqlxError(cause))) = &error
        else {
            // sea-orm tells a connection that could not be had by this alone.
            let passing = matches!(error, DbErr::ConnectionAcquire(_) | DbErr::Conn(_));
            return if passing { Self::Unavailable(error) } else { Self::Refused(error) };
        };
        if is_in_recovery(cause) {
            Self::InRecovery
        } else if is_passing(cause) {
            Self::Unavailable(error)
        } else if is_unstorable_text(cause) {
            Self::Text
        } else {
            Self::Refused(error)
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        DbErr::Conn(RuntimeErr::SqlxError(error.into())).into()
    }
}

/// SQLSTATE character_not_in_repertoire and untranslatable_character.
fn is_unstorable_text(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("22021" | "22P05"))
}

/// SQLSTATE feature_not_supported: a standby does not have unlogged tables. No statement of ours meets it otherwise.
fn is_in_recovery(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).as_deref() == Some("0A000")
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::BeginFailed
        | sqlx::Error::InvalidSavePointStatement
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
                is_passing_sqlite(&code)
            } else {
                is_passing_postgres(&code)
            }
        }),
        _ => false,
    }
}

/// Classes of SQLSTATE (PostgreSQL manual, appendix A): connection, transaction state (read-only, aborted, ended for
/// being idle), rollback, resources, lock, operator, system.
fn is_passing_postgres(code: &str) -> bool {
    ["08", "25", "40", "53", "55", "57", "58"].iter().any(|class| code.starts_with(class))
}

/// Whether another connection of SQLite's is in the way.
pub(super) fn is_sqlite_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| primary_sqlite(&error.code()?));
    code == Some(SQLITE_BUSY)
}

const SQLITE_BUSY: u32 = 5;

/// Primary result codes of SQLite: busy, locked, read-only, I/O error, full, cannot open, protocol.
fn is_passing_sqlite(code: &str) -> bool {
    primary_sqlite(code).is_some_and(|code| [SQLITE_BUSY, 6, 8, 10, 13, 14, 15].contains(&code))
}

/// The result code of SQLite without what it is extended by.
fn primary_sqlite(code: &str) -> Option<u32> {
    code.parse::<u32>().ok().map(|code| code & 0xff)
}
