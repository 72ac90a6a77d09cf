//! Whether the database can be used.

use std::time::Duration;

use super::{Store, StoreError};

impl Store {
    /// Whether the database answers and lacks no migration. Calls fail at once after a failed check and until one
    /// succeeds.
    ///
    /// # Errors
    ///
    /// [`StoreError::SchemaOutdated`], or it cannot be reached or does not answer within `bound`.
    pub async fn check(&self, bound: Duration) -> Result<(), StoreError> {
        let checked = match self.ask(bound).await {
            // One more time, on a new connection: this one may have been closed from the other side.
            Err(StoreError::Unavailable(_)) => self.ask(bound).await,
            checked => checked,
        };
        let away = matches!(checked, Err(StoreError::Unavailable(_) | StoreError::Timeout));
        self.reachability.report(!away);
        checked
    }

    async fn ask(&self, bound: Duration) -> Result<(), StoreError> {
        let check = latchkey_migrations::is_up_to_date(&self.health);
        let up_to_date = tokio::time::timeout(bound, check).await.map_err(|_| StoreError::Timeout)??;
        if up_to_date { Ok(()) } else { Err(StoreError::SchemaOutdated) }
    }
}
