//! The database: the only place that knows SQL.

mod accounts;
mod audit_log;
mod connect;
mod database;
mod entity;
mod error;
mod health;
mod pool;
mod prepare;
mod reachability;
mod retention;
mod revocation_log;
mod token_lookup;
mod tokens;
mod transaction;

pub use self::{
    audit_log::{Event, EventKind},
    connect::{DatabaseUrl, DatabaseUrlError, PoolLimits, create_private_folder},
    database::Store,
    error::StoreError,
    pool::PoolState,
    retention::{LogPosition, Outdated, PurgedBatch},
    revocation_log::{Eviction, LogHead},
    token_lookup::{StoredToken, TokenState},
    tokens::{NewTokenRow, Obstacles},
    transaction::{CommitGate, WriteTransaction},
};
