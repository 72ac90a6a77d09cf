//! The revocations in the log of events, as replicas read them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait as _, ConnectionTrait as _, EntityTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Statement,
};
use uuid::Uuid;

use super::{
    Store, StoreError,
    entity::token_events::{Column, Entity},
    events::EventKind,
};

/// What the log has above an id.
#[derive(Clone, Debug, Default)]
pub struct Revocations {
    /// The greatest id of the whole log; 0 when it is empty.
    pub last: i64,
    /// The tokens that were revoked, each with the event's id.
    pub tokens: Vec<(i64, Uuid)>,
}

impl Store {
    /// How long a transaction may last after it was given the id of its first event: for so long an event can appear
    /// below events that are visible already. Zero where ids become visible in their order.
    pub fn longest_write(&self) -> Duration {
        self.longest_write
    }

    /// The revocations above the id `after`, in one view of the log.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn revocations(&self, after: i64) -> Result<Revocations, StoreError> {
        let backend = self.log.get_database_backend();
        let sql = "SELECT id, token_id FROM token_events WHERE id > $1 AND kind = $2 \
                   UNION ALL SELECT max(id), NULL FROM token_events";
        let values = [after.into(), EventKind::TokenRevoked.as_str().into()];
        let rows = self.log.query_all_raw(Statement::from_sql_and_values(backend, sql, values)).await?;
        let mut found = Revocations::default();
        for row in rows {
            let (id, token): (Option<i64>, Option<Uuid>) =
                (row.try_get_by_index(0)?, row.try_get_by_index(1)?);
            match (id, token) {
                (Some(id), Some(token)) => found.tokens.push((id, token)),
                (Some(last), None) => found.last = last,
                (None, _) => {}
            }
        }
        Ok(found)
    }

    /// The id of the newest event from before `time`; 0 when there is none. Reads the newer ones alone.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn last_event_before(&self, time: DateTime<Utc>) -> Result<i64, StoreError> {
        let id = Entity::find()
            .select_only()
            .column(Column::Id)
            .filter(Column::At.lt(time))
            .order_by_desc(Column::Id)
            .limit(1)
            .into_tuple::<i64>()
            .one(&self.log)
            .await?;
        Ok(id.unwrap_or(0))
    }
}
