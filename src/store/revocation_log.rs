//! The revocation log: the events of the audit log that take access away, as replicas follow them.
//!
//! On PostgreSQL ids are assigned before the commit, so an event can become visible after others with greater ids. Each
//! event therefore carries its transaction's id, and a reader keeps the snapshot of its last read: the next read returns
//! exactly the events that this snapshot did not show, however long a transaction or its COMMIT took. On SQLite there is
//! one writer, and ids become visible in their order.

use std::str::FromStr;

use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

use super::{Store, StoreError, audit_log::EventKind};
use crate::token::UserId;

/// How far the log was read. Comes from a read, and is good for the next one.
#[derive(Clone, Debug)]
pub struct LogCursor {
    /// The greatest id that was visible; 0 for an empty log.
    last_id: i64,
    /// What was visible, on PostgreSQL.
    snapshot: Option<Snapshot>,
}

/// The log as far as it was not read before.
#[derive(Debug)]
pub struct LogRead {
    /// Where the next read begins.
    pub cursor: LogCursor,
    /// What to evict; `None` when only evicting everything is right: at the first read, after more events than one read
    /// returns, or when the log is not a continuation of what was read before.
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

/// The most events that one read returns. With more to catch up on, it is quicker to look up again what is still used.
const MAX_EVENTS: usize = 10_000;

/// A snapshot in the text form of `pg_current_snapshot()`: `xmin:xmax:xip,xip,…` (PostgreSQL manual, 9.27.5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// One above the greatest transaction id that had completed.
    xmax: u64,
    /// The transactions below `xmax` that were in progress, with commas between them.
    in_progress: String,
}

impl FromStr for Snapshot {
    type Err = DbErr;

    fn from_str(text: &str) -> Result<Self, DbErr> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let (_xmin, xmax, in_progress) = (parts.next()?, parts.next()?, parts.next()?);
            let is_list = in_progress.bytes().all(|byte| byte.is_ascii_digit() || byte == b',');
            is_list.then_some(Self { xmax: xmax.parse().ok()?, in_progress: in_progress.to_owned() })
        };
        parse().ok_or_else(|| DbErr::Type(format!("{text:?} is not a snapshot")))
    }
}

impl Store {
    /// Reads what `cursor` has not seen, in one snapshot of the log.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn read_revocation_log(&self, cursor: Option<&LogCursor>) -> Result<LogRead, StoreError> {
        let backend = self.log.get_database_backend();
        if cursor.is_none() && backend == DbBackend::Postgres {
            self.log.execute_unprepared(ADOPT_RESTORED_EVENTS).await?;
        }
        let rows = self.log.query_all_raw(read_statement(backend, cursor)).await?;
        let (mut head, mut evictions) = (None, Vec::new());
        for row in &rows {
            match eviction(row)? {
                Some(eviction) => evictions.push(eviction),
                None => head = Some(read_head(row, backend)?),
            }
        }
        let next = head.ok_or_else(|| DbErr::RecordNotFound("the head of the revocation log".to_owned()))?;
        let continues = cursor.is_some_and(|cursor| next.continues(cursor));
        let complete = continues && evictions.len() <= MAX_EVENTS;
        Ok(LogRead { cursor: next, evictions: complete.then_some(evictions) })
    }
}

impl LogCursor {
    /// Whether this state of the log can have come after `earlier`: a restored database can be an older one.
    fn continues(&self, earlier: &Self) -> bool {
        let xmax = |cursor: &Self| cursor.snapshot.as_ref().map_or(0, |snapshot| snapshot.xmax);
        self.last_id >= earlier.last_id && xmax(self) >= xmax(earlier)
    }
}

/// Events that a restore brought from another cluster have transaction ids of that cluster, which may lie in the future of
/// this one and would be read again and again. They are visible, so they are in the past.
const ADOPT_RESTORED_EVENTS: &str =
    "UPDATE token_events SET xid = '0' WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())";

/// One row with the head of the log (the columns of an event empty), and a row for each event. One statement has one
/// snapshot on both databases. Every kind but issuing evicts, also one that this version does not know.
fn read_statement(backend: DbBackend, cursor: Option<&LogCursor>) -> Statement {
    let limit = MAX_EVENTS + 1;
    let issued = EventKind::TokenIssued.as_str();
    let head = match backend {
        DbBackend::Sqlite => {
            "SELECT max(id) AS last_id, NULL AS snapshot, NULL AS token_id, NULL AS user_id FROM token_events"
        }
        _ => {
            "SELECT (SELECT max(id) FROM token_events) AS last_id, pg_current_snapshot()::text AS snapshot, \
              NULL::uuid AS token_id, NULL::text AS user_id"
        }
    };
    match cursor {
        None => Statement::from_string(backend, head),
        Some(LogCursor { last_id, snapshot: None }) => {
            let sql = format!(
                "{head} UNION ALL SELECT * FROM (SELECT NULL, NULL, token_id, user_id FROM token_events \
                 WHERE id > $1 AND kind <> '{issued}' LIMIT {limit})"
            );
            Statement::from_sql_and_values(backend, sql, [(*last_id).into()])
        }
        Some(LogCursor { snapshot: Some(snapshot), .. }) => {
            let sql = format!(
                "{head} UNION ALL (SELECT NULL, NULL, token_id, user_id FROM token_events \
                 WHERE (xid >= $1::text::xid8 OR xid = ANY ($2::text::xid8[])) AND kind <> '{issued}' LIMIT {limit})"
            );
            let in_progress = format!("{{{}}}", snapshot.in_progress);
            Statement::from_sql_and_values(
                backend,
                sql,
                [snapshot.xmax.to_string().into(), in_progress.into()],
            )
        }
    }
}

fn read_head(row: &QueryResult, backend: DbBackend) -> Result<LogCursor, DbErr> {
    let last_id: Option<i64> = row.try_get_by_index(0)?;
    let snapshot = match backend {
        DbBackend::Sqlite => None,
        _ => Some(row.try_get_by_index::<String>(1)?.parse()?),
    };
    Ok(LogCursor { last_id: last_id.unwrap_or(0), snapshot })
}

/// What the row's event evicts; `None` for the head of the log.
fn eviction(row: &QueryResult) -> Result<Option<Eviction>, DbErr> {
    let token: Option<Uuid> = row.try_get_by_index(2)?;
    let user: Option<String> = row.try_get_by_index(3)?;
    Ok(match (token, user) {
        (Some(token), _) => Some(Eviction::Token(token)),
        (None, Some(user)) => Some(Eviction::Account(UserId::from_stored(user))),
        (None, None) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_in_its_text_form_only() {
        let read = |text: &str| text.parse::<Snapshot>().ok().map(|it| (it.xmax, it.in_progress));
        assert_eq!(read("10:20:10,14,15"), Some((20, "10,14,15".to_owned())));
        assert_eq!(read("20:20:"), Some((20, String::new())));
        for bad in ["", "20", "10:20", "10:x:", "10:20:1;2", "10:20:{1}"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn an_older_state_of_the_log_is_not_a_continuation() {
        let cursor = |last_id, snapshot: Option<&str>| LogCursor {
            last_id,
            snapshot: snapshot.map(|text| text.parse().unwrap()),
        };
        assert!(cursor(5, None).continues(&cursor(5, None)));
        assert!(!cursor(4, None).continues(&cursor(5, None)));
        assert!(cursor(5, Some("9:9:")).continues(&cursor(5, Some("8:9:8"))));
        assert!(!cursor(5, Some("8:8:")).continues(&cursor(5, Some("9:9:"))), "another cluster");
    }
}
