//! Transactions that write.

use std::time::Duration;

use sea_orm::{
    DatabaseTransaction, DbBackend, DbErr, IsolationLevel, SqliteTransactionMode, TransactionOptions,
    TransactionTrait as _,
};
use tracing::Instrument as _;

use super::{Store, StoreError};

/// A transaction that writes; dropped without [`WriteTransaction::commit`] it changes nothing.
#[derive(Debug)]
pub struct WriteTransaction {
    pub(super) inner: DatabaseTransaction,
    bound: Duration,
}

/// How much longer than the database itself this side waits for an answer, so that the database's own error comes first.
const GRACE: Duration = Duration::from_millis(500);

impl Store {
    /// Runs `work`, which writes, to its end even if the caller stops waiting: a COMMIT that is under way cannot be
    /// taken back, so what follows it (evicting from memory, logging) must follow it always.
    ///
    /// At most as many run at once as there are connections that write; a caller that gives up while it waits for its
    /// turn leaves nothing behind.
    ///
    /// # Errors
    ///
    /// Those of `work`; [`StoreError::Away`], or [`StoreError::Timeout`] when its turn does not come in time.
    pub async fn run_to_completion<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.reachability.check()?;
        let turn = tokio::time::timeout(self.timeout, self.writers.clone().acquire_owned()).await;
        let Ok(Ok(permit)) = turn else { return Err(StoreError::Timeout.into()) };
        let work = async move {
            let _permit = permit;
            work.await
        };
        // The task is never aborted: it fails only if `work` panics.
        tokio::spawn(work.in_current_span()).await.map_err(|_| StoreError::Interrupted)?
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
    pub async fn commit(self) -> Result<(), StoreError> {
        within(self.bound, self.inner.commit()).await
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
