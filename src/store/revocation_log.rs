//! The revocation log: the events of the audit log that take access away, as replicas follow them.
//!
//! On PostgreSQL ids are assigned before the commit, so an event can become visible after others with greater ids. Each
//! event therefore carries its transaction's id. A reader keeps the snapshot of its last read, and reads the events of the
//! transactions that have completed since: none is missed, however long a transaction or its COMMIT took, and none is
//! read twice. On SQLite there is one writer, and ids become visible in their order.

use std::{str::FromStr, sync::Arc};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait as _, DbBackend, DbErr, QueryResult, Statement};
use uuid::Uuid;

use super::{Store, StoreError, audit_log::EventKind};
use crate::token::UserId;

/// A state of the log: all events that were visible at one moment.
#[derive(Clone, Debug)]
pub struct LogHead {
    /// The greatest id; 0 for an empty log.
    last_id: i64,
    /// What was visible, on PostgreSQL.
    snapshot: Option<Snapshot>,
    /// Which history of the database it belongs to, on PostgreSQL: the cluster's system identifier, and its timeline as the
    /// names of WAL files begin. It changes with a failover and with a restore; commits of the earlier history may be
    /// missing from the later one.
    pub epoch: Option<Arc<str>>,
    /// The database's clock at the read; `None` with SQLite, which uses the system's clock.
    pub time: Option<DateTime<Utc>>,
}

/// What an event takes access from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// One token.
    Token(Uuid),
    /// Every token of the user.
    Account(UserId),
}

/// The most events, and the most transactions, that one read covers. With more to catch up on, it is quicker to look up
/// again what is still used.
const MAX_BEHIND: usize = 10_000;

/// A snapshot in the text form of `pg_current_snapshot()`: `xmin:xmax:xip,xip,…` (PostgreSQL manual, 9.27.5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Snapshot {
    /// One above the greatest id of a transaction that had completed.
    xmax: u64,
    /// The transactions below `xmax` that had not.
    in_progress: Vec<u64>,
}

impl FromStr for Snapshot {
    type Err = DbErr;

    fn from_str(text: &str) -> Result<Self, DbErr> {
        let parse = || {
            let mut parts = text.splitn(3, ':');
            let (_xmin, xmax, xip) = (parts.next()?, parts.next()?, parts.next()?);
            let xip = xip.split(',').filter(|id| !id.is_empty());
            let in_progress = xip.map(str::parse).collect::<Result<_, _>>().ok()?;
            Some(Self { xmax: xmax.parse().ok()?, in_progress })
        };
        parse().ok_or_else(|| DbErr::Type(format!("{text:?} is not a snapshot")))
    }
}

/// An expression for the epoch of a PostgreSQL server; NULL in recovery.
const EPOCH: &str = "(SELECT system_identifier::text FROM pg_control_system()) || '/' || \
                     CASE WHEN pg_is_in_recovery() THEN NULL \
                     ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END";

impl Snapshot {
    /// The transactions that have completed after `earlier` was taken and before this one was; `None` if there are too
    /// many.
    fn completed_since(&self, earlier: &Self) -> Option<Vec<u64>> {
        let new = earlier.xmax..self.xmax;
        if new.end.saturating_sub(new.start) > MAX_BEHIND as u64 {
            return None;
        }
        let mut completed: Vec<u64> = earlier.in_progress.iter().copied().chain(new).collect();
        completed.retain(|id| !self.in_progress.contains(id));
        Some(completed)
    }
}

impl LogHead {
    /// Whether this state of the log can have come after `earlier`, with nothing of it lost. After a failover or a restore
    /// it has not.
    fn continues(&self, earlier: &Self) -> bool {
        let xmax = |head: &Self| head.snapshot.as_ref().map_or(0, |snapshot| snapshot.xmax);
        self.epoch == earlier.epoch && self.last_id >= earlier.last_id && xmax(self) >= xmax(earlier)
    }
}

impl Store {
    /// The present state of the log.
    ///
    /// # Errors
    ///
    /// See [`StoreError`]; of a standby [`StoreError::InRecovery`].
    pub async fn log_head(&self) -> Result<LogHead, StoreError> {
        let backend = self.log.get_database_backend();
        let sql = match backend {
            DbBackend::Sqlite => "SELECT max(id) FROM token_events".to_owned(),
            // One statement, so that the snapshot and the epoch belong together. The time is that of the answer, not of
            // its plan.
            _ => format!(
                "SELECT (SELECT max(id) FROM token_events), pg_is_in_recovery(), pg_current_snapshot()::text, {}, \
                 clock_timestamp()",
                self.epoch_sql()
            ),
        };
        let row = self.log.query_one_raw(Statement::from_string(backend, sql)).await?;
        let row = row.ok_or_else(|| DbErr::RecordNotFound("the head of the log".to_owned()))?;
        let last_id = row.try_get_by_index::<Option<i64>>(0)?.unwrap_or(0);
        if backend == DbBackend::Sqlite {
            return Ok(LogHead { last_id, snapshot: None, epoch: None, time: None });
        }
        if row.try_get_by_index(1)? {
            return Err(StoreError::InRecovery);
        }
        let snapshot = row.try_get_by_index::<String>(2)?.parse()?;
        Ok(LogHead {
            last_id,
            snapshot: Some(snapshot),
            epoch: row.try_get_by_index::<Option<String>>(3)?.map(Arc::from),
            time: Some(row.try_get_by_index(4)?),
        })
    }

    /// Returns an expression for the epoch of the server, on PostgreSQL; NULL in recovery.
    pub(super) fn epoch_sql(&self) -> String {
        EPOCH.to_owned()
    }

    /// What became visible between two states of the log; `None` if that is too much, or `to` cannot have come after
    /// `from`. Every kind of event but issuing takes access away, also one that this version does not know.
    ///
    /// # Errors
    ///
    /// See [`StoreError`].
    pub async fn evictions(&self, from: &LogHead, to: &LogHead) -> Result<Option<Vec<Eviction>>, StoreError> {
        if !to.continues(from) {
            return Ok(None);
        }
        let (condition, values) = match (&from.snapshot, &to.snapshot) {
            (Some(from), Some(to)) => {
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
        let sql = format!(
            "SELECT token_id, user_id FROM token_events WHERE {condition} AND kind <> '{}' LIMIT {}",
            EventKind::TokenIssued.as_str(),
            MAX_BEHIND + 1
        );
        let read = Statement::from_sql_and_values(self.log.get_database_backend(), sql, values);
        let rows = self.log.query_all_raw(read).await?;
        if rows.len() > MAX_BEHIND {
            return Ok(None);
        }
        Ok(Some(rows.iter().map(eviction).collect::<Result<_, _>>()?))
    }
}

fn eviction(row: &QueryResult) -> Result<Eviction, DbErr> {
    let token: Option<Uuid> = row.try_get_by_index(0)?;
    Ok(match token {
        Some(token) => Eviction::Token(token),
        None => Eviction::Account(UserId::from_stored(row.try_get_by_index(1)?)),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn snapshot(text: &str) -> Snapshot {
        text.parse().unwrap()
    }

    #[test]
    fn a_snapshot_is_read_in_its_text_form_only() {
        assert_eq!(snapshot("10:20:10,14"), Snapshot { xmax: 20, in_progress: vec![10, 14] });
        assert_eq!(snapshot("20:20:"), Snapshot { xmax: 20, in_progress: Vec::new() });
        for bad in ["", "20", "10:20", "10:x:", "10:20:1;2", "10:20:{1}"] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_has_completed_since_is_read() {
        let earlier = snapshot("10:20:10,14");
        assert_eq!(earlier.completed_since(&earlier), Some(Vec::new()));
        assert_eq!(snapshot("14:20:14").completed_since(&earlier), Some(vec![10]));
        assert_eq!(snapshot("14:23:14,21").completed_since(&earlier), Some(vec![10, 20, 22]));
        assert_eq!(snapshot("99999:99999:").completed_since(&earlier), None, "too many");
    }

    #[test]
    fn an_older_state_is_not_a_continuation() {
        let at = |last_id, text: Option<&str>, timeline: &str| LogHead {
            last_id,
            snapshot: text.map(snapshot),
            epoch: text.map(|_| timeline.into()),
            time: None,
        };
        let head = |last_id, text| at(last_id, text, "7/00000001");
        assert!(head(5, None).continues(&head(5, None)));
        assert!(!head(4, None).continues(&head(5, None)));
        assert!(head(5, Some("9:9:")).continues(&head(5, Some("8:9:8"))));
        assert!(!head(5, Some("8:8:")).continues(&head(5, Some("9:9:"))), "fewer transactions");
        assert!(!at(5, Some("9:9:"), "7/00000002").continues(&head(5, Some("9:9:"))), "another timeline");
    }

    proptest! {
        /// Whatever transactions begin and end between reads, each is read once, by the first read after its end.
        #[test]
        fn each_transaction_is_read_once(lives in prop::collection::vec((0..40_u64, 0..40_u64), 0..30)) {
            // In the order in which they begin, as ids are assigned.
            let mut lives = lives;
            lives.sort_unstable();
            let has_ended = |id: u64, time| lives[id as usize].0 + lives[id as usize].1 <= time;
            let at = |time: u64| {
                let begun = lives.iter().filter(|(begin, _)| *begin <= time).count() as u64;
                let xmax = (0..begun).rev().find(|id| has_ended(*id, time)).map_or(0, |id| id + 1);
                Snapshot { xmax, in_progress: (0..xmax).filter(|id| !has_ended(*id, time)).collect() }
            };
            let mut read = Vec::new();
            let mut earlier = Snapshot { xmax: 0, in_progress: Vec::new() };
            for time in 0..100 {
                let now = at(time);
                read.extend(now.completed_since(&earlier).unwrap());
                earlier = now;
            }
            read.sort_unstable();
            prop_assert_eq!(read, (0..lives.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Snapshot>();
        }
    }
}
