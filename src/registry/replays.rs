//! The replay of account events after a failover or a restore that may have lost deletions.

use std::sync::Arc;

use tokio::sync::watch;

use super::{RegistryError, TokenRegistry};
use crate::token::UserId;

impl TokenRegistry {
    /// Returns the epoch of the database as the revocation tail last saw it: it changes with a failover and with a restore.
    /// `None` with SQLite, and before the database was reached.
    pub fn epochs(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.authenticator.epochs()
    }

    /// Returns the present epoch of the database; `None` with SQLite.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn epoch(&self) -> Result<Option<String>, RegistryError> {
        Ok(self.store.epoch().await?)
    }

    /// Returns whether every account event that was acknowledged in an earlier epoch has been applied in `epoch`.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn is_replayed(&self, epoch: &str) -> Result<bool, RegistryError> {
        Ok(self.store.is_replayed(epoch).await?)
    }

    /// Records that every account event that was acknowledged in an earlier epoch has been applied in `epoch`.
    ///
    /// # Errors
    ///
    /// The epoch has changed, or a failure of the database.
    pub async fn record_replay(&self, epoch: &str) -> Result<(), RegistryError> {
        Ok(self.store.record_replay(epoch, self.clock.now()).await?)
    }

    /// Returns those of `users` whose accounts are not deleted in `epoch`.
    ///
    /// # Errors
    ///
    /// The epoch has changed, or a failure of the database.
    pub async fn not_deleted(&self, epoch: &str, users: &[&UserId]) -> Result<Vec<UserId>, RegistryError> {
        Ok(self.store.users_without_tombstone(epoch, users).await?)
    }
}
