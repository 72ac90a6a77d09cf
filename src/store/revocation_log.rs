//! The revocation log: the events of the audit log that take access away, as replicas follow them.
//!
//! On PostgreSQL ids are assigned before the commit, so an event can become visible after others with greater ids. Each
//! event therefore carries its transaction's id. A reader keeps the snapshot of its last read, and reads the events of the
//! transactions that have completed since: none is missed, however long a transaction or its COMMIT took, and none is
//! read twice. On SQLite there is one writer, and ids become visible in their order.

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

use super::{
    Store, StoreError,
    audit_log::EventKind,
    log_position::{self, MAX_BEHIND, Position},
};
use crate::token::UserId;

/// A state of the log: all events that were visible at one moment.
#[derive(Clone, Debug)]
pub struct LogHead {
    /// The greatest id; 0 for an empty log.
    last_id: i64,
    pub(super) position: Position,
    /// Which history of the database it belongs to: an id that PostgreSQL loses in a crash, a failover and a restore. `None`
    /// until a replica registers after that. Commits of the earlier epoch may be missing from the later one, and
    /// transaction ids may be used again.
    pub epoch: Option<Uuid>,
    /// The database's clock at the read; `None` with SQLite, which uses the system's clock.
    pub time: Option<DateTime<Utc>>,
    /// Whether the replica that reads it has a row of this epoch in `replicas`.
    pub is_registered: bool,
    /// How many other replicas have one.
    pub other_replicas: u64,
    /// When the one of them renewed its lease that has not done so for the longest time.
    pub oldest_renewal: Option<DateTime<Utc>>,
}

/// What an event takes access from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// One token.
    Token(Uuid),
    /// Every token of the user.
    Account(UserId),
}

const OTHER_REPLICAS: &str = "(SELECT count(*) FROM replicas WHERE id <> $1), \
                              (SELECT min(renewed_at) FROM replicas WHERE id <> $1)";

/// The epoch of the server; NULL if it has none yet. Fails in recovery, because the table is unlogged.
pub(super) const EPOCH: &str = "(SELECT id FROM epoch)";

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

impl Store {
    /// The present state of the log, as the replica `reader` reads it.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; of a standby [`StoreError::InRecovery`].
    pub async fn log_head(&self, reader: Uuid) -> Result<LogHead, StoreError> {
        let backend = self.log.get_database_backend();
        // The time is that of the answer, not of its plan.
        let postgres = match backend {
            DbBackend::Sqlite => "",
            _ => ", clock_timestamp()",
        };
        // One statement, so that all of it belongs together.
        let sql = format!(
            "SELECT (SELECT max(id) FROM token_events), server.epoch, \
             EXISTS (SELECT 1 FROM replicas WHERE id = $1 AND epoch = server.epoch), {OTHER_REPLICAS}, {}{postgres} \
             FROM (SELECT {EPOCH} AS epoch) AS server",
            log_position::present(backend)
        );
        let read = Statement::from_sql_and_values(backend, sql, [reader.into()]);
        let row = self.log.query_one_raw(read).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the head of the log".to_owned()))?;
        Ok(LogHead {
            last_id: row.try_get_by_index::<Option<i64>>(0)?.unwrap_or(0),
            epoch: row.try_get_by_index(1)?,
            is_registered: row.try_get_by_index(2)?,
            other_replicas: row.try_get_by_index::<i64>(3)?.unsigned_abs(),
            oldest_renewal: row.try_get_by_index(4)?,
            position: Position::read(&row, 5)?,
            time: if backend == DbBackend::Sqlite { None } else { Some(row.try_get_by_index(6)?) },
        })
    }

    /// What became visible between two states of the log; `None` if that is too much, or `to` cannot have come after
    /// `from`. Every kind of event but issuing takes access away, also one that this version does not know.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; [`StoreError::EpochChanged`] if the server that is asked is not the one of `to`.
    pub async fn evictions(&self, from: &LogHead, to: &LogHead) -> Result<Option<Vec<Eviction>>, StoreError> {
        if !to.continues(from) {
            return Ok(None);
        }
        let (condition, values) = match (&from.position, &to.position) {
            (Position::Snapshot(from), Position::Snapshot(to)) => {
                let Some(completed) = to.completed_since(from) else { return Ok(None) };
                if completed.is_empty() {
                    return Ok(Some(Vec::new()));
                }
                let completed: Vec<String> = completed.iter().map(u64::to_string).collect();
                ("xid = ANY ($1::text::xid8[])", vec![format!("{{{}}}", completed.join(",")).into()])
            }
            _ if from.last_id == to.last_id => return Ok(Some(Vec::new())),
            _ => ("id > $1 AND id <= $2", vec![from.last_id.into(), to.last_id.into()]),
        };
        // The epoch comes also without an event: another connection may lead to a server that was replaced, and lacks
        // events.
        let sql = format!(
            "SELECT server.epoch, events.user_id, events.token_id FROM (SELECT {EPOCH} AS epoch) AS server \
             LEFT JOIN (SELECT user_id, token_id FROM token_events WHERE {condition} AND kind <> '{}' LIMIT {}) \
             AS events ON TRUE",
            EventKind::TokenIssued.as_str(),
            MAX_BEHIND + 1
        );
        let read = Statement::from_sql_and_values(self.log.get_database_backend(), sql, values);
        let rows = self.log.query_all_raw(read).await?;
        let server: Option<Uuid> = rows.first().map(|row| row.try_get_by_index(0)).transpose()?.flatten();
        if server != to.epoch {
            return Err(StoreError::EpochChanged);
        }
        if rows.len() > MAX_BEHIND {
            return Ok(None);
        }
        Ok(Some(rows.iter().filter_map(|row| eviction(row).transpose()).collect::<Result<_, _>>()?))
    }
}

fn eviction(row: &QueryResult) -> Result<Option<Eviction>, DbErr> {
    let Some(user) = row.try_get_by_index::<Option<String>>(1)? else { return Ok(None) };
    Ok(Some(match row.try_get_by_index::<Option<Uuid>>(2)? {
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
            other_replicas: 0,
            oldest_renewal: None,
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
