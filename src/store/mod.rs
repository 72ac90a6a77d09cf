//! The database: the only place that knows SQL.

mod accounts;
mod audit_log;
mod connect;
mod create_requests;
mod database;
mod entity;
mod epoch;
mod error;
mod health;
mod log_position;
mod lookup_pool;
mod pool;
mod prepare;
mod reachability;
mod renewal;
mod replays;
mod replicas;
mod retention;
mod revocation_log;
mod session;
mod surplus;
mod token_lookup;
mod tokens;
mod transaction;

pub use self::{
    audit_log::{Event, EventKind, RecordedEvent},
    connect::{DatabaseUrl, DatabaseUrlError, PoolLimits, create_private_folder},
    create_requests::{CreateRequest, EarlierRequest},
    database::Store,
    error::StoreError,
    log_position::LogPosition,
    pool::PoolState,
    renewal::Renewer,
    replicas::{Change, Replica, ReplicaReader, Replicas},
    retention::{Outdated, PurgedBatch},
    revocation_log::{Eviction, LogHead, LogRead, LogReader},
    surplus::Surplus,
    token_lookup::{Share, StoredToken, TokenState},
    tokens::{NewTokenRow, Obstacles},
    transaction::{CommitGate, Server, WriteTransaction},
};
