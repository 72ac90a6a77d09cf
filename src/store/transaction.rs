//! Transactions that write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU8, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    ConnectionTrait as _, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, SqliteTransactionMode,
    Statement, TransactionOptions, TransactionTrait as _,
};
use tokio::task::AbortHandle;
use tracing::Instrument as _;
use uuid::Uuid;

use super::{Store, StoreError, epoch, session::END_STUCK};

/// A transaction that writes; dropped without [`WriteTransaction::commit`] it changes nothing.
#[derive(Debug)]
pub struct WriteTransaction {
    pub(super) inner: DatabaseTransaction,
    bound: Duration,
    store: Store,
    /// The process of its backend on PostgreSQL, once it is known; or 0.
    process: AtomicI32,
}

/// The server that a transaction runs on.
#[derive(Clone, Copy, Debug)]
pub struct Server {
    /// Its epoch; see [`LogHead::epoch`](super::LogHead::epoch).
    pub epoch: Option<Uuid>,
    /// Whether there are rows of replicas that may have a lease of an earlier epoch.
    pub has_earlier_replicas: bool,
}

impl Server {
    /// Expressions for what [`WriteTransaction::server`] reads.
    pub(super) fn columns(backend: DbBackend) -> String {
        let present = epoch::present(backend);
        match backend {
            DbBackend::Sqlite => format!("{present}, FALSE, 0"),
            _ => format!(
                "{present}, EXISTS (SELECT 1 FROM replicas WHERE epoch IS DISTINCT FROM {present}), pg_backend_pid()"
            ),
        }
    }
}

/// How much longer than the database itself this side waits for an answer, so that the database's own error comes first.
const GRACE: Duration = Duration::from_millis(500);

/// How long ending a backend may take, which the caller waits for.
const STUCK_BOUND: Duration = Duration::from_secs(1);

/// A condition that is true, and lets the commit of its transaction wait neither for the disk nor for a standby: for
/// changes that are not acknowledged to anybody.
pub(super) fn without_waiting(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "TRUE",
        _ => "set_config('synchronous_commit', 'off', true) = 'off'",
    }
}

/// What a write and its caller agree by: either the caller stops waiting before the COMMIT, and nothing happens, or the
/// COMMIT begins first, and everything that follows it happens.
#[derive(Clone, Debug, Default)]
pub struct CommitGate(Arc<AtomicU8>);

const OPEN: u8 = 0;
const COMMITTING: u8 = 1;
const CANCELLED: u8 = 2;

impl CommitGate {
    /// Whether the COMMIT may begin; from then on the write cannot be cancelled.
    fn pass(&self) -> bool {
        self.leave_open_for(COMMITTING)
    }

    /// Whether the write is cancelled: its COMMIT has not begun, and will not.
    fn cancel(&self) -> bool {
        self.leave_open_for(CANCELLED)
    }

    fn leave_open_for(&self, state: u8) -> bool {
        self.0.compare_exchange(OPEN, state, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Cancels a write when its caller stops waiting.
struct CancelOnDrop(CommitGate, AbortHandle);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if self.0.cancel() {
            self.1.abort();
        }
    }
}

impl Store {
    /// Runs `work`, a transaction, and what follows its COMMIT (evicting from memory, logging), in a task. If the caller
    /// stops waiting before the COMMIT, the transaction is rolled back; after that, `work` runs to its end without the
    /// caller, because a COMMIT cannot be taken back.
    ///
    /// At most as many run at once as there are connections that write.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`StoreError::Away`], or [`StoreError::Timeout`] when its turn does not come in time.
    pub async fn write<T, E, W>(&self, work: impl FnOnce(CommitGate) -> W) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
        W: Future<Output = Result<T, E>> + Send + 'static,
    {
        self.reachability.check()?;
        let turn = tokio::time::timeout(self.timeout, self.writers.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(StoreError::Timeout.into()) };
        let gate = CommitGate::default();
        let work = work(gate.clone());
        let task = tokio::spawn(
            async move {
                let _permit = permit;
                work.await
            }
            .in_current_span(),
        );
        let _cancel = CancelOnDrop(gate, task.abort_handle());
        // Aborted only when this future is dropped, so it fails only if `work` panics.
        task.await.map_err(|_| StoreError::Interrupted)?
    }

    /// Begins a transaction that writes.
    ///
    /// # Errors
    ///
    /// The database cannot be reached, or no connection came free in time.
    pub async fn begin(&self) -> Result<WriteTransaction, StoreError> {
        self.begin_bounded(self.timeout).await
    }

    /// Begins a transaction each of whose statements may take `bound`.
    pub(super) async fn begin_bounded(&self, bound: Duration) -> Result<WriteTransaction, StoreError> {
        let sqlite = self.writes.get_database_backend() == DbBackend::Sqlite;
        let options = TransactionOptions {
            // Independent of the server's default: what another transaction committed while this one waited for its
            // lock must be visible.
            isolation_level: (!sqlite).then_some(IsolationLevel::ReadCommitted),
            access_mode: None,
            sqlite_transaction_mode: sqlite.then_some(SqliteTransactionMode::Immediate),
        };
        // Acquiring a connection has the same bound, and comes first.
        let begin = self.writes.begin_with_options(options);
        let inner = within(self.timeout * 2 + GRACE, begin).await?;
        Ok(WriteTransaction { inner, bound: bound + GRACE, store: self.clone(), process: AtomicI32::new(0) })
    }
}

impl Store {
    /// Ends a backend that still waits in its COMMIT for a standby: the next commit would open another one, until the
    /// server has no connections left for anybody.
    async fn end_stuck(&self, process: i32) {
        let end = Statement::from_sql_and_values(DbBackend::Postgres, END_STUCK, [process.into()]);
        if let Err(error) = within(STUCK_BOUND, self.log.execute_raw(end)).await {
            tracing::warn!(process, %error, "a backend that waits for a standby in its COMMIT could not be ended");
        }
    }
}

impl WriteTransaction {
    /// Makes the changes permanent.
    ///
    /// # Errors
    ///
    /// It is not known whether they are permanent.
    pub async fn commit(self, gate: &CommitGate) -> Result<(), StoreError> {
        if gate.pass() { self.commit_at_once().await } else { Err(StoreError::Interrupted) }
    }

    /// The same for a transaction that nobody can cancel.
    pub(super) async fn commit_at_once(self) -> Result<(), StoreError> {
        let committed = within(self.bound, self.inner.commit()).await;
        let process = self.process.into_inner();
        if process != 0 && matches!(committed, Err(StoreError::Timeout)) {
            self.store.end_stuck(process).await;
        }
        committed
    }

    /// The server that this transaction runs on, for a call that finds nothing to change; [`WriteTransaction::record`]
    /// returns it for the others.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn server_of_this(&self) -> Result<Server, StoreError> {
        let backend = self.inner.get_database_backend();
        self.server(Statement::from_string(backend, format!("SELECT {}", Server::columns(backend)))).await
    }

    /// Runs a statement that returns [`Server::columns`].
    pub(super) async fn server(&self, statement: Statement) -> Result<Server, StoreError> {
        let row = self.run(self.inner.query_one_raw(statement)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the server".to_owned()))?;
        self.process.store(row.try_get_by_index(2)?, Ordering::Relaxed);
        Ok(Server { epoch: row.try_get_by_index(0)?, has_earlier_replicas: row.try_get_by_index(1)? })
    }

    /// Awaits a statement of this transaction, within its bound.
    pub(super) async fn run<T>(
        &self,
        statement: impl Future<Output = Result<T, DbErr>>,
    ) -> Result<T, StoreError> {
        within(self.bound, statement).await
    }
}

/// The database's own timeouts do not help when the network swallows what is sent.
async fn within<T>(bound: Duration, answer: impl Future<Output = Result<T, DbErr>>) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(bound, answer).await.map_err(|_| StoreError::Timeout)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_cancelled_or_committed_and_never_both() {
        let committed = CommitGate::default();
        assert!(committed.pass() && !committed.cancel());
        let cancelled = CommitGate::default();
        assert!(cancelled.cancel() && !cancelled.pass());
    }
}
