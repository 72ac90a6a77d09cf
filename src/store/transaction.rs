//! Transactions that write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
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

use super::{Store, StoreError, revocation_log::EPOCH};

/// A transaction that writes; dropped without [`WriteTransaction::commit`] it changes nothing.
#[derive(Debug)]
pub struct WriteTransaction {
    pub(super) inner: DatabaseTransaction,
    bound: Duration,
}

/// How much longer than the database itself this side waits for an answer, so that the database's own error comes first.
const GRACE: Duration = Duration::from_millis(500);

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
        Ok(WriteTransaction { inner, bound: bound + GRACE })
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
        within(self.bound, self.inner.commit()).await
    }

    /// The epoch of the server, for a call that finds nothing to change; [`WriteTransaction::record`] returns it for the
    /// others. See [`LogHead::epoch`](super::LogHead::epoch).
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn epoch(&self) -> Result<Option<Uuid>, StoreError> {
        let query = Statement::from_string(self.inner.get_database_backend(), format!("SELECT {EPOCH}"));
        let row = self.run(self.inner.query_one_raw(query)).await?;
        Ok(row.map(|row| row.try_get_by_index(0)).transpose()?.flatten())
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
