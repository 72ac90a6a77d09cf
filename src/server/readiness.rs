//! Whether this replica can answer, as health and readiness tell it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{
    grpc::{LIVENESS, TOKEN_SERVICE},
    nats::USER_EVENTS,
    registry::TokenRegistry,
    store::{Store, StoreError, Surplus},
};

/// How often the database is checked, and how long it has for an answer.
const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is asked although the revocation log was read a moment ago, which says the same of all but the schema.
const FULL_CHECK: Duration = Duration::from_secs(10);
/// The longest pause between two tries to prepare the database.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Checks the database again and again, prepares it if it was out of reach at the start, and reports both.
pub(super) struct DatabaseWatch {
    store: Store,
    registry: Arc<TokenRegistry>,
    health: HealthReporter,
    /// Why no calls should be sent here, if there is a reason.
    unready: watch::Sender<Option<String>>,
    serving: bool,
    prepared: bool,
    /// When to try again to prepare the database, and the pause after that.
    retry: (Instant, Duration),
    /// When the database was last asked, and answered.
    checked_at: Option<Instant>,
    surplus: Surplus,
}

impl DatabaseWatch {
    pub(super) async fn new(
        store: Store,
        registry: Arc<TokenRegistry>,
        health: HealthReporter,
        unready: watch::Sender<Option<String>>,
        prepared: bool,
    ) -> Self {
        if !prepared {
            unready.send_replace(Some(StoreError::Away.to_string()));
        }
        report(&health, prepared).await;
        Self {
            surplus: Surplus::new(store.clone()),
            store,
            registry,
            health,
            unready,
            serving: prepared,
            prepared,
            retry: (Instant::now(), INTERVAL),
            checked_at: None,
        }
    }

    /// Runs until `stop`; then nothing is served any more.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            let Some(checked) = stop.run_until_cancelled(self.check()).await else { break };
            self.unready.send_replace(checked.as_ref().err().map(ToString::to_string));
            if checked.is_ok() == self.serving {
                continue;
            }
            self.serving = checked.is_ok();
            report(&self.health, self.serving).await;
            match checked {
                Ok(()) => tracing::info!(database = self.store.location(), "the database answers"),
                Err(error) => {
                    tracing::warn!(database = self.store.location(), %error, "the database cannot be used");
                }
            }
        }
        self.unready.send_replace(Some("the service is stopping".to_owned()));
        report(&self.health, false).await;
        // Ends the streams of those who watch: they would hold the shutdown up.
        for service in ["", TOKEN_SERVICE, USER_EVENTS, LIVENESS] {
            self.health.clear_service_status(service).await;
        }
    }

    async fn check(&mut self) -> Result<(), StoreError> {
        self.surplus.close().await;
        let is_recent = self.checked_at.is_some_and(|at| at.elapsed() < FULL_CHECK);
        let is_read = self.serving && self.registry.has_read_revocations_within(INTERVAL);
        if is_recent && is_read {
            return Ok(());
        }
        self.checked_at = None;
        if is_read {
            match self.store.check_schema(TIMEOUT).await {
                // All connections for calls are in use, but the database answers.
                Err(error) if error.is_outage() => {}
                checked => checked?,
            }
        } else {
            self.ask().await?;
        }
        self.checked_at = Some(Instant::now());
        Ok(())
    }

    async fn ask(&mut self) -> Result<(), StoreError> {
        let checked = match self.store.check(TIMEOUT).await {
            // The question was lost, and the database answers again.
            Err(error) if error.is_outage() && self.registry.has_read_revocations_within(INTERVAL) => {
                self.store.check_schema(TIMEOUT).await
            }
            checked => checked,
        };
        if self.must_prepare(&checked) {
            self.prepare().await?;
        } else {
            checked?;
        }
        if self.registry.can_validate() { Ok(()) } else { Err(StoreError::NoLease) }
    }

    fn must_prepare(&self, checked: &Result<(), StoreError>) -> bool {
        // Once only: a database that loses its schema later needs a person.
        if self.prepared || checked.as_ref().is_err_and(StoreError::is_outage) {
            return false;
        }
        let lacks_migrations = matches!(checked, Err(StoreError::SchemaOutdated));
        !lacks_migrations || self.retry.0 <= Instant::now()
    }

    async fn prepare(&mut self) -> Result<(), StoreError> {
        let (_, pause) = self.retry;
        self.retry = (Instant::now() + pause, (pause * 2).min(MAX_PAUSE));
        self.store.prepare().await.inspect_err(|error| {
            tracing::warn!(database = self.store.location(), %error, ?pause, "the database is not prepared");
        })?;
        self.prepared = true;
        Ok(())
    }
}

async fn report(health: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", TOKEN_SERVICE] {
        health.set_service_status(service, status).await;
    }
}
