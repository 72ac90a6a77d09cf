//! A connection to PostgreSQL apart from the pools, for one task that sends one statement after another.
//!
//! Unlike a pool it never replaces the connection unnoticed, needs no statement to check it, and ends the backend of a
//! statement that took too long: a COMMIT that waits for a synchronous standby would otherwise go on for as long as the
//! standby is away.

use std::time::Duration;

use sea_orm::sqlx::{
    self, ConnectOptions as _, Executor as _, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgConnection, PgDatabaseError, PgRow, PgSeverity},
    query::Query,
};
use uuid::Uuid;

use super::StoreError;
use crate::clock::Moment;

/// A statement with its values.
pub(super) type PgQuery<'q> = Query<'q, Postgres, PgArguments>;

/// A connection that is opened when it is needed.
#[derive(Debug)]
pub(super) struct Session {
    options: Box<PgConnectOptions>,
    open: Option<Backend>,
    /// The process of a backend that may still wait in its COMMIT.
    stuck: Option<i32>,
}

#[derive(Debug)]
struct Backend {
    connection: PgConnection,
    name: String,
    process: i32,
    opened_at: Moment,
}

/// A condition that the statement runs in the session with the name in this parameter. A pooler may have given the connection
/// another session.
pub(super) fn is_session(parameter: u32) -> String {
    format!("current_setting('latchkey.session', true) = ${parameter}")
}

/// How long opening another connection in place of one that hangs may take.
const REPLACE_BOUND: Duration = Duration::from_millis(500);

/// The process id may belong to another connection by now; only one that waits for a standby is ended.
pub(super) const END_STUCK: &str =
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep'";

impl Session {
    pub(super) fn new(options: Box<PgConnectOptions>) -> Self {
        Self { options, open: None, stuck: None }
    }

    /// Returns since when the connection has been open, if it is.
    pub(super) fn opened_at(&self) -> Option<Moment> {
        self.open.as_ref().map(|open| open.opened_at)
    }

    /// Returns the name that PostgreSQL knows the session by, if it is open.
    pub(super) fn name(&self) -> Option<String> {
        self.open.as_ref().map(|open| open.name.clone())
    }

    /// Closes the connection.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Opens the connection unless it is open, and returns since when it has been.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub(super) async fn open(&mut self, bound: Duration) -> Result<Moment, StoreError> {
        if let Some(open) = &self.open {
            return Ok(open.opened_at);
        }
        let connecting = tokio::time::timeout(bound, self.connect());
        let open = connecting.await.map_err(|_| StoreError::Timeout)??;
        Ok(self.open.insert(open).opened_at)
    }

    /// Returns the rows of a statement, which may take `bound`. A connection that has to be opened first has the same
    /// bound.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]. After any error but one that the server has answered, the connection is closed.
    pub(super) async fn fetch(
        &mut self,
        query: PgQuery<'_>,
        bound: Duration,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut backend = self.take(bound).await?;
        let answer = tokio::time::timeout(bound, backend.connection.fetch_all(query)).await;
        self.put_back(backend, answer.map_err(|_| StoreError::Timeout)?)
    }

    /// As [`Session::fetch`], but returns how many rows the statement changed. If it takes too long, its backend is ended: it
    /// may wait for a standby in its COMMIT.
    ///
    /// # Errors
    ///
    /// As [`Session::fetch`].
    pub(super) async fn execute(&mut self, query: PgQuery<'_>, bound: Duration) -> Result<u64, StoreError> {
        let mut backend = self.take(bound).await?;
        match tokio::time::timeout(bound, backend.connection.execute(query)).await {
            Ok(answer) => self.put_back(backend, answer).map(|done| done.rows_affected()),
            Err(_) => Err(self.replace(backend, bound).await),
        }
    }

    /// Takes the connection out while a statement runs, so that one that is cut off is not used again.
    async fn take(&mut self, bound: Duration) -> Result<Backend, StoreError> {
        self.open(bound).await?;
        let backend = self.open.take().ok_or(StoreError::Interrupted)?;
        self.stuck = Some(backend.process);
        Ok(backend)
    }

    fn put_back<T>(&mut self, backend: Backend, answer: Result<T, sqlx::Error>) -> Result<T, StoreError> {
        if answer.as_ref().err().is_none_or(is_answer) {
            self.stuck = None;
            self.open = Some(backend);
        }
        Ok(answer?)
    }

    /// Opens another connection in place of one that took too long, which ends the backend of that one.
    async fn replace(&mut self, _hangs: Backend, bound: Duration) -> StoreError {
        if let Err(error) = self.open(bound.min(REPLACE_BOUND)).await {
            tracing::debug!(%error, "another connection could not be opened in place of one that hangs");
        }
        StoreError::Timeout
    }

    async fn connect(&mut self) -> Result<Backend, StoreError> {
        let mut connection = self.options.connect().await?;
        let name = Uuid::now_v7().to_string();
        let begin = "SELECT pg_backend_pid() FROM set_config('latchkey.session', $1, false)";
        let process = sqlx::query_scalar(begin).bind(&name).fetch_one(&mut connection).await?;
        if let Some(stuck) = self.stuck {
            sqlx::query(END_STUCK).bind(stuck).execute(&mut connection).await?;
            self.stuck = None;
        }
        Ok(Backend { connection, name, process, opened_at: Moment::now() })
    }
}

/// Whether the server has answered the statement with this error, and goes on with the session.
fn is_answer(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let error = error.try_downcast_ref::<PgDatabaseError>();
    error.is_some_and(|error| error.severity() == PgSeverity::Error)
}
