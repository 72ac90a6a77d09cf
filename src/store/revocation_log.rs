//! The revocation log: the events of the audit log that take access away, as replicas follow them.
//!
//! On PostgreSQL ids are assigned before the commit, so an event can become visible after others with greater ids. Each
//! event therefore carries its transaction's id. A reader keeps the snapshot of its last read, and reads the events of the
//! transactions that have completed since: none is missed, however long a transaction or its COMMIT took, and none is
//! read twice. On SQLite there is one writer, and ids become visible in their order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement,
    sqlx::{self, AssertSqlSafe},
};
use uuid::Uuid;

use super::{
    Store, StoreError,
    audit_log::EventKind,
    epoch,
    log_position::{self, MAX_BEHIND, Position},
    session::{Session, is_session},
};
use crate::{clock::Moment, token::UserId};

/// A state of the log: all events that were visible at one moment.
#[derive(Clone, Debug)]
pub struct LogHead {
    /// The greatest id; 0 for an empty log.
    last_id: i64,
    pub(super) position: Position,
    /// Which history of the database it belongs to. `None` until a replica registers in it. Commits of the earlier epoch may
    /// be missing from the later one, and transaction ids may be used again.
    pub epoch: Option<Uuid>,
    /// The database's clock at the read; `None` with SQLite, which uses the system's clock.
    pub time: Option<DateTime<Utc>>,
    /// Whether the registration that the reader named has a row of this epoch in `replicas`.
    pub is_registered: bool,
    /// Whether no other replica has one. Asked only with SQLite, where it matters.
    pub is_alone: bool,
}

/// What a read of the log found.
#[derive(Debug)]
pub struct LogRead {
    /// The state of the log.
    pub head: LogHead,
    /// What became visible since the state from which the read began; `None` if that is too much, if there was no such
    /// state, or if this one cannot have come after it.
    pub evictions: Option<Vec<Eviction>>,
}

/// What an event takes access from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// One token.
    Token(Uuid),
    /// Every token of the user.
    Account(UserId),
}

impl LogHead {
    /// Whether this state of the log can have come after `earlier`, with nothing of it lost. After a failover or a restore
    /// it has not.
    fn continues(&self, earlier: &Self) -> bool {
        self.epoch == earlier.epoch
            && self.last_id >= earlier.last_id
            && self.position.covers(&earlier.position)
    }

    /// Whether something became visible since `earlier`.
    pub fn is_ahead_of(&self, earlier: &Self) -> bool {
        !earlier.position.covers(&self.position)
    }
}

/// Reads the log for one replica. On PostgreSQL over a connection of its own, so that the loss of a session is noticed:
/// PostgreSQL may have crashed, and may use ids of transactions again that were not flushed.
#[derive(Debug)]
pub struct LogReader {
    store: Store,
    session: Option<Session>,
}

impl LogReader {
    /// Returns a reader of the log in `store`.
    pub fn new(store: Store) -> Self {
        let session = store.session();
        Self { store, session }
    }

    /// Opens the session unless it is open, and returns since when it has been. Positions that another session has read are
    /// only as good as what was committed since. With SQLite there are no sessions, and positions stay good.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn open(&mut self, bound: Duration) -> Result<Moment, StoreError> {
        match &mut self.session {
            Some(session) => session.open(bound).await,
            None => Ok(Moment::default()),
        }
    }

    /// Reads the log from the state `from` on, as the replica with this registration. May take `bound`. The session must be
    /// open.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; of a standby [`StoreError::InRecovery`].
    pub async fn read(
        &mut self,
        registration: Uuid,
        from: Option<&LogHead>,
        bound: Duration,
    ) -> Result<LogRead, StoreError> {
        match &mut self.session {
            Some(session) => read_postgres(session, registration, from, bound).await,
            None => {
                let reading = read_sqlite(&self.store, registration, from);
                tokio::time::timeout(bound, reading).await.map_err(|_| StoreError::Timeout)?
            }
        }
    }
}

/// The columns of a state of the log; $1 is the registration of the reader, and on PostgreSQL $2 its session.
fn head_columns(backend: DbBackend) -> String {
    // The time is that of the answer, not of its plan. Alone or not matters with SQLite only.
    let further = match backend {
        DbBackend::Sqlite => "NOT EXISTS (SELECT 1 FROM replicas WHERE id <> $1) AS alone",
        _ => &format!("clock_timestamp() AS now, {} AS is_session", is_session(2)),
    };
    format!(
        "(SELECT max(id) FROM token_events) AS last_id, server.epoch, \
         EXISTS (SELECT 1 FROM replicas WHERE id = $1 AND epoch = server.epoch) AS registered, \
         {} AS position, {further} FROM (SELECT {} AS epoch) AS server",
        log_position::present(backend),
        epoch::present(backend)
    )
}

/// Every kind of event but issuing takes access away, also one that this version does not know.
fn evicting_events(condition: &str) -> String {
    format!(
        "SELECT user_id, token_id FROM token_events WHERE {condition} AND kind <> '{}'",
        EventKind::TokenIssued.as_str()
    )
}

/// One statement, so that the state and the events belong together, and come from one server. Which transactions have
/// completed since `from` is known by their ids: those that were assigned later, and those that had not completed then.
/// The order keeps the planner to the index: it believes that a third of all events have greater ids.
async fn read_postgres(
    session: &mut Session,
    registration: Uuid,
    from: Option<&LogHead>,
    bound: Duration,
) -> Result<LogRead, StoreError> {
    let columns = head_columns(DbBackend::Postgres);
    let since = from.and_then(|from| from.position.as_snapshot());
    let name = session.name().ok_or(StoreError::Interrupted)?;
    let rows = match since {
        None => {
            let sql = format!(
                "SELECT head.*, NULL AS user_id, NULL::uuid AS token_id FROM (SELECT {columns}) AS head"
            );
            session.fetch(sqlx::query(AssertSqlSafe(sql)).bind(registration).bind(name), bound).await?
        }
        Some(since) => {
            let limit = MAX_BEHIND + 1;
            let later = evicting_events("xid >= $3::text::xid8");
            let earlier = evicting_events("xid = ANY ($4::text::xid8[])");
            let sql = format!(
                "SELECT head.*, events.user_id, events.token_id FROM (SELECT {columns}) AS head LEFT JOIN \
                 ((SELECT * FROM ({later} ORDER BY xid LIMIT {limit}) AS later) \
                 UNION ALL ({earlier} LIMIT {limit})) AS events ON TRUE"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).bind(registration).bind(name);
            let query = query.bind(since.xmax().to_string());
            session.fetch(query.bind(since.in_progress_as_array()), bound).await?
        }
    };
    let rows: Vec<QueryResult> = rows.into_iter().map(QueryResult::from).collect();
    let first = rows.first().ok_or_else(|| DbErr::RecordNotFound("the head of the log".to_owned()))?;
    if first.try_get_by_index::<Option<bool>>(5)? != Some(true) {
        session.close();
        return Err(StoreError::SessionChanged);
    }
    let head = LogHead { time: Some(first.try_get_by_index(4)?), ..head(first)? };
    let has_all = rows.len() <= MAX_BEHIND && from.is_some_and(|from| head.continues(from));
    let evictions = || rows.iter().filter_map(|row| eviction(row, 6).transpose()).collect::<Result<_, _>>();
    Ok(LogRead { evictions: has_all.then(evictions).transpose()?, head })
}

async fn read_sqlite(
    store: &Store,
    registration: Uuid,
    from: Option<&LogHead>,
) -> Result<LogRead, StoreError> {
    let sql = format!("SELECT {}", head_columns(DbBackend::Sqlite));
    let read = Statement::from_sql_and_values(DbBackend::Sqlite, sql, [registration.into()]);
    let row = store.log.query_one_raw(read).await?;
    let row = row.ok_or_else(|| DbErr::RecordNotFound("the head of the log".to_owned()))?;
    let head = LogHead { is_alone: row.try_get_by_index(4)?, ..head(&row)? };
    let Some(from) = from.filter(|from| head.continues(from)) else {
        return Ok(LogRead { head, evictions: None });
    };
    if from.last_id == head.last_id {
        return Ok(LogRead { head, evictions: Some(Vec::new()) });
    }
    let sql = format!("{} LIMIT {}", evicting_events("id > $1 AND id <= $2"), MAX_BEHIND + 1);
    let values = [from.last_id.into(), head.last_id.into()];
    let read = Statement::from_sql_and_values(DbBackend::Sqlite, sql, values);
    let rows = store.log.query_all_raw(read).await?;
    let evictions = || rows.iter().filter_map(|row| eviction(row, 0).transpose()).collect::<Result<_, _>>();
    Ok(LogRead { evictions: (rows.len() <= MAX_BEHIND).then(evictions).transpose()?, head })
}

fn head(row: &QueryResult) -> Result<LogHead, DbErr> {
    Ok(LogHead {
        last_id: row.try_get_by_index::<Option<i64>>(0)?.unwrap_or(0),
        epoch: row.try_get_by_index(1)?,
        is_registered: row.try_get_by_index(2)?,
        position: Position::read(row, 3)?,
        time: None,
        is_alone: false,
    })
}

/// The event whose user is in the column `index`, and its token in the next; `None` without an event.
fn eviction(row: &QueryResult, index: usize) -> Result<Option<Eviction>, DbErr> {
    let Some(user) = row.try_get_by_index::<Option<String>>(index)? else { return Ok(None) };
    Ok(Some(match row.try_get_by_index::<Option<Uuid>>(index + 1)? {
        Some(token) => Eviction::Token(token),
        None => Eviction::Account(UserId::from_stored(user)),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_not_a_continuation() {
        let at = |last_id, position: &str, epoch| LogHead {
            last_id,
            position: Position::parse(position).unwrap(),
            epoch: Some(epoch),
            time: None,
            is_registered: true,
            is_alone: false,
        };
        let (epoch, other) = (Uuid::now_v7(), Uuid::now_v7());
        let head = |last_id, position| at(last_id, position, epoch);
        assert!(head(5, "5").continues(&head(5, "5")));
        assert!(!head(4, "4").continues(&head(5, "5")));
        assert!(head(5, "9:9:").continues(&head(5, "8:9:8")));
        assert!(!head(5, "8:8:").continues(&head(5, "9:9:")), "fewer transactions");
        assert!(!at(5, "9:9:", other).continues(&head(5, "9:9:")), "another epoch");
    }
}
