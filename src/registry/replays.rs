//! The replay of account events after a failover or a restore that may have lost deletions.

use tokio::sync::watch;
use uuid::Uuid;

use super::{RegistryError, TokenRegistry};
use crate::token::UserId;

impl TokenRegistry {
    /// Returns the epoch of the database in which this replica is registered, as it changes: with a crash, a failover and a
    /// restore. `None` while it is not registered.
    pub fn epochs(&self) -> watch::Receiver<Option<Uuid>> {
        self.authenticator.epochs()
    }

    /// Returns the present epoch of the database; `None` with SQLite.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn epoch(&self) -> Result<Option<Uuid>, RegistryError> {
        Ok(self.store.epoch().await?)
    }

    /// Returns whether every account event that was acknowledged in an earlier epoch has been applied in `epoch`.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn is_replayed(&self, epoch: Uuid) -> Result<bool, RegistryError> {
        Ok(self.store.is_replayed(epoch).await?)
    }

    /// Records that every account event that was acknowledged in an earlier epoch has been applied in `epoch`.
    ///
    /// # Errors
    ///
    /// The epoch has changed, or a failure of the database.
    pub async fn record_replay(&self, epoch: Uuid) -> Result<(), RegistryError> {
        Ok(self.store.record_replay(epoch, self.clock.now()).await?)
    }

    /// Returns those of `users` whose accounts are not deleted in `epoch`.
    ///
    /// # Errors
    ///
    /// The epoch has changed, or a failure of the database.
    pub async fn not_deleted(&self, epoch: Uuid, users: &[&UserId]) -> Result<Vec<UserId>, RegistryError> {
        Ok(self.store.users_without_tombstone(epoch, users).await?)
    }
}
