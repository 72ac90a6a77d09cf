//! The epoch: one history of the database, named by a random id.
//!
//! Commits of one epoch may be missing from the next, and in it PostgreSQL may use the ids of transactions again
//! (docs/decisions/0014-ok-means-everywhere.md).

use sea_orm::DbBackend;

/// An expression for the epoch of the server; NULL if none has begun yet. Fails on a standby, because the table is
/// unlogged.
pub(super) fn present(backend: DbBackend) -> &'static str {
    match backend {
        DbBackend::Sqlite => "(SELECT id FROM epoch)",
        _ => PRESENT,
    }
}

/// The same on PostgreSQL. The row belongs to this server since its start, and to this table: not to a copy.
pub(super) const PRESENT: &str = "(SELECT id FROM epoch WHERE started_at = pg_postmaster_start_time() \
                                  AND file = pg_relation_filepath(tableoid))";

/// Begins an epoch with the id $4 if there is none, and returns its id if it did. Of several replicas that do so at once,
/// one begins it.
pub(super) const BEGIN: &str = "INSERT INTO epoch (id, started_at, file) \
     VALUES ($4, pg_postmaster_start_time(), pg_relation_filepath('epoch')) \
     ON CONFLICT (single) DO UPDATE SET id = excluded.id, started_at = excluded.started_at, file = excluded.file \
     WHERE (epoch.started_at, epoch.file) <> (excluded.started_at, excluded.file) RETURNING id";
