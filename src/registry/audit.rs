//! Reading the audit log.

use chrono::{DateTime, TimeDelta, Utc};

use super::{RegistryError, TokenRegistry};
use crate::{
    store::RecordedEvent,
    token::{PageSize, UserId},
};

/// Part of the audit log, newest first.
#[derive(Debug)]
pub struct EventPage {
    /// The events of this page.
    pub events: Vec<RecordedEvent>,
    /// Where the next page begins: below this id. `None` on the last page.
    pub next: Option<i64>,
}

/// Events are read in the order of their ids, which is not quite that of their times: transactions that run at once, and
/// replicas whose clocks differ, write them in any order.
const DISORDER: TimeDelta = TimeDelta::hours(1);

impl TokenRegistry {
    /// Lists a page of the events of `user`, or of all users, that happened at `since` or later, from below the id `before`
    /// on. A page may be empty and not be the last.
    ///
    /// # Errors
    ///
    /// A failure of the database.
    pub async fn events(
        &self,
        user: Option<&UserId>,
        since: Option<DateTime<Utc>>,
        before: Option<i64>,
        size: PageSize,
    ) -> Result<EventPage, RegistryError> {
        self.authenticator.check_lease()?;
        let size = usize::from(size.get());
        // One more than asked for tells whether there is a next page.
        let mut events = self.store.page_events(user, before, size as u32 + 1).await?;
        let more = events.len() > size;
        events.truncate(size);
        let next = events.last().filter(|_| more).map(|event| event.id);
        let Some(since) = since else { return Ok(EventPage { events, next }) };
        // Everything further down is older still.
        let ended = events.last().is_some_and(|event| event.at < since - DISORDER);
        events.retain(|event| event.at >= since);
        Ok(EventPage { events, next: next.filter(|_| !ended) })
    }
}
