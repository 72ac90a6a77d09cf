//! Runs the service until it is asked to stop, and shuts down in order, each step within a bound.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{ServeError, purge::purge_at_intervals, readiness::DatabaseWatch};
use crate::{config::Config, registry::TokenRegistry, store::Store, validation::RevocationTail};

pub(super) struct Service {
    pub(super) registry: Arc<TokenRegistry>,
    pub(super) store: Store,
    pub(super) watch: DatabaseWatch,
    pub(super) stop: CancellationToken,
}

impl Service {
    /// Runs until the transports have ended: when told to stop, or when one of them failed. Then writes what is left and
    /// closes the database.
    pub(super) async fn run(
        self,
        mut transports: JoinSet<Result<(), ServeError>>,
        tail: RevocationTail,
        config: Config,
    ) -> Result<(), ServeError> {
        let watch = tokio::spawn(self.watch.run(self.stop.clone()));
        let registry = Arc::clone(&self.registry);
        let revocations =
            tokio::spawn(async move { registry.follow_revocations(tail, config.revocation_poll).await });
        let last_uses = tokio::spawn(write_last_uses(Arc::clone(&self.registry), config.last_used_interval));
        let purger = self.registry.purger(config.retention.retention());
        let purges =
            tokio::spawn(purge_at_intervals(purger, config.retention.purge_interval, self.stop.clone()));
        let mut ended = end(&mut transports, &self.stop, config.shutdown_grace).await;
        // Each step also after one that failed: whatever ends the service, the others must not wait for this replica.
        for task in [watch, purges] {
            ended = ended.and(task.await.map_err(ServeError::from));
        }
        last_uses.abort();
        // After the last call, so that its use is written.
        let bound = config.database.database_timeout;
        bounded(bound, "last uses were not written", self.registry.flush_last_used()).await;
        self.registry.close();
        revocations.abort();
        // Its end, so that it does not register anew.
        if let Err(error) = revocations.await
            && error.is_panic()
        {
            ended = ended.and(Err(error.into()));
        }
        bounded(bound, "other replicas wait for the lease of this one", self.registry.deregister()).await;
        bounded(bound, "the database was not closed in order", self.store.close()).await;
        ended
    }
}

/// Returns when all transports have ended, which they do when told to stop, once their calls are done; or when the grace
/// period is over. A transport that fails stops the others.
async fn end(
    transports: &mut JoinSet<Result<(), ServeError>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<(), ServeError> {
    let mut first_failure = Ok(());
    let ending = async {
        while let Some(ended) = transports.join_next().await {
            let ended = ended.map_err(ServeError::from).flatten();
            if ended.is_err() {
                stop.cancel();
            }
            if first_failure.is_ok() {
                first_failure = ended;
            }
        }
    };
    let grace_over = async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    };
    tokio::select! {
        () = ending => {}
        () = grace_over => {
            tracing::warn!(?grace, "calls were cut off: they took longer than the grace period");
        }
    }
    transports.shutdown().await;
    first_failure
}

/// Awaits what must not hold up the shutdown for longer than `bound`; warns if it fails.
async fn bounded<E: std::fmt::Display>(
    bound: Duration,
    warning: &str,
    work: impl Future<Output = Result<(), E>>,
) {
    match tokio::time::timeout(bound, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{warning}"),
        Err(_) => tracing::warn!(?bound, "{warning}: it took too long"),
    }
}

/// Writes when tokens were last used, at this interval, for ever.
async fn write_last_uses(registry: Arc<TokenRegistry>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = registry.flush_last_used().await {
            tracing::warn!(%error, "last uses are not written yet");
        }
    }
}
