//! Positions in the revocation log: which events a read has covered.

use sea_orm::{DbBackend, DbErr, QueryResult};

/// The most events that one read covers. With more to catch up on, it is quicker to look up again what is still used.
pub(super) const MAX_BEHIND: usize = 10_000;

/// A position in the log: which events were visible at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPosition(pub(super) Position);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// On SQLite: all up to this id, because ids become visible in their order.
    Id(i64),
    /// On PostgreSQL, where ids are assigned before the commit: those of the transactions that the snapshot shows as
    /// completed.
    Snapshot(Snapshot),
}

/// An expression for the position of the statement that it is in, in the stored form.
pub(super) fn present(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "CAST((SELECT coalesce(max(id), 0) FROM token_events) AS TEXT)",
        _ => "pg_current_snapshot()::text",
    }
}

/// A snapshot in the text form of `pg_current_snapshot()`: `xmin:xmax:xip,xip,…` (PostgreSQL manual, 9.27.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Snapshot {
    xmin: u64,
    /// One above the greatest id of a transaction that had completed.
    xmax: u64,
    /// The transactions below `xmax` that had not.
    in_progress: Vec<u64>,
}

impl Position {
    /// Reads a column with a position.
    pub(super) fn read(row: &QueryResult, index: usize) -> Result<Self, DbErr> {
        Self::parse(&row.try_get_by_index::<String>(index)?)
    }

    /// Parses the form in which positions are stored.
    pub(super) fn parse(text: &str) -> Result<Self, DbErr> {
        let position = if text.contains(':') {
            Snapshot::parse(text).map(Self::Snapshot)
        } else {
            text.parse().ok().map(Self::Id)
        };
        position.ok_or_else(|| DbErr::Type(format!("{text:?} is not a position in the revocation log")))
    }

    /// Returns the form in which positions are stored.
    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Id(id) => id.to_string(),
            Self::Snapshot(snapshot) => {
                format!("{}:{}:{}", snapshot.xmin, snapshot.xmax, joined(&snapshot.in_progress))
            }
        }
    }

    /// The snapshot; `None` with SQLite.
    pub(super) fn as_snapshot(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot(snapshot) => Some(snapshot),
            Self::Id(_) => None,
        }
    }

    /// Whether every event that `other` shows is shown by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Id(this), Self::Id(other)) => this >= other,
            (Self::Snapshot(this), Self::Snapshot(other)) => {
                this.xmax >= other.xmax && this.in_progress.iter().all(|id| !other.shows(*id))
            }
            // One database has one kind.
            _ => false,
        }
    }
}

impl Snapshot {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let (xmin, xmax, xip) = (parts.next()?, parts.next()?, parts.next()?);
        let xip = xip.split(',').filter(|id| !id.is_empty());
        let in_progress = xip.map(str::parse).collect::<Result<_, _>>().ok()?;
        Some(Self { xmin: xmin.parse().ok()?, xmax: xmax.parse().ok()?, in_progress })
    }

    fn shows(&self, id: u64) -> bool {
        id < self.xmax && !self.in_progress.contains(&id)
    }

    /// The id from which on no transaction had completed.
    pub(super) fn xmax(&self) -> u64 {
        self.xmax
    }

    /// The transactions below [`Snapshot::xmax`] that had not completed, as an array in PostgreSQL's text form.
    pub(super) fn in_progress_as_array(&self) -> String {
        format!("{{{}}}", joined(&self.in_progress))
    }
}

fn joined(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_is_read_in_its_stored_form_only() {
        assert_eq!(Position::parse("7").unwrap(), Position::Id(7));
        let read = Snapshot { xmin: 10, xmax: 20, in_progress: vec![10, 14] };
        assert_eq!(Position::parse("10:20:10,14").unwrap(), Position::Snapshot(read));
        for text in ["7", "10:20:10,14", "20:20:"] {
            assert_eq!(Position::parse(text).unwrap().to_text(), text);
        }
        for bad in ["", "x", "10:20", "10:x:", "10:20:1;2", "10:20:{1}"] {
            assert!(Position::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_later_position_covers_an_earlier_one_and_not_the_other_way_round() {
        for (later, earlier) in [("8", "7"), ("14:20:14", "10:20:10,14"), ("14:23:14,21", "14:20:14")] {
            let [later, earlier] = [later, earlier].map(|text| Position::parse(text).unwrap());
            assert!(later.covers(&earlier) && !earlier.covers(&later), "{later:?} {earlier:?}");
            assert!(later.covers(&later));
        }
    }

    proptest! {
        /// Whatever transactions begin and end between reads, each is read once, by the first read after its end, if a read
        /// asks for those that are visible and are not below `xmax` of the last one, or had not completed then. And a later
        /// position covers every earlier one.
        #[test]
        fn each_transaction_is_read_once(lives in prop::collection::vec((0..40_u64, 0..40_u64), 0..30)) {
            // In the order in which they begin, as ids are assigned.
            let mut lives = lives;
            lives.sort_unstable();
            let has_ended = |id: u64, time| lives[id as usize].0 + lives[id as usize].1 <= time;
            let at = |time: u64| {
                let begun = lives.iter().filter(|(begin, _)| *begin <= time).count() as u64;
                let xmax = (0..begun).rev().find(|id| has_ended(*id, time)).map_or(0, |id| id + 1);
                let in_progress: Vec<_> = (0..xmax).filter(|id| !has_ended(*id, time)).collect();
                Snapshot { xmin: in_progress.first().copied().unwrap_or(xmax), xmax, in_progress }
            };
            let mut read = Vec::new();
            let mut earlier = Snapshot { xmin: 0, xmax: 0, in_progress: Vec::new() };
            for time in 0..100 {
                let now = at(time);
                let is_new = |id: &u64| *id >= earlier.xmax() || earlier.in_progress.contains(id);
                let completed: Vec<_> = (0..lives.len() as u64).filter(|id| now.shows(*id)).filter(is_new).collect();
                let [now_covers, earlier_covers] = [(&now, &earlier), (&earlier, &now)].map(|(this, other)| {
                    Position::Snapshot(this.clone()).covers(&Position::Snapshot(other.clone()))
                });
                prop_assert!(now_covers);
                prop_assert_eq!(earlier_covers, completed.is_empty());
                read.extend(completed);
                earlier = now;
            }
            read.sort_unstable();
            prop_assert_eq!(read, (0..lives.len() as u64).collect::<Vec<_>>());
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = Position::parse(&text);
        }
    }
}
