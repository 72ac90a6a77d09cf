//! `GET /metrics`: metrics in Prometheus' text format 0.0.4.
//!
//! The counters live where their events happen and are gathered here on each request. No label holds the id of a user
//! or of a token.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use prometheus::{
    Counter, Gauge, GaugeVec, IntCounter, IntCounterVec, Opts, TEXT_FORMAT, TextEncoder, core::Collector,
    proto::MetricFamily,
};

use super::{HttpState, problem::Problem};
use crate::{
    registry::{Reason, TokenRegistry, Transport},
    telemetry::LOG_LINES_DROPPED,
};

/// The commit of this build, if the build sets the variable.
const REVISION: &str = match option_env!("LATCHKEY_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

pub(super) async fn show(State(state): State<Arc<HttpState>>) -> Response {
    let text = gather(&state).and_then(|families| TextEncoder::new().encode_to_string(&families));
    match text {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be encoded");
            Problem::unavailable("metrics could not be encoded").into_response()
        }
    }
}

fn gather(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let mut families = state.durations.collect();
    families.extend(validation(state)?);
    families.extend(replicas(&state.registry)?);
    families.extend(events(state)?);
    families.extend(database(state)?);
    families.extend(refusals(state)?);
    families.extend(connections(state)?);
    let info = GaugeVec::new(
        Opts::new("latchkey_build_info", "Version of this replica; the value is always 1."),
        &["version", "revision"],
    )?;
    info.with_label_values(&[env!("CARGO_PKG_VERSION"), REVISION]).set(1.0);
    families.extend(info.collect());
    families.extend(counter(
        "latchkey_log_lines_dropped_total",
        "Log lines that were dropped because standard error was not read quickly enough or is closed.",
        LOG_LINES_DROPPED.get(),
    )?);
    Ok(families)
}

fn validation(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let registry = &state.registry;
    let statistics = registry.statistics();
    let validations = IntCounterVec::new(
        Opts::new("latchkey_validations_total", "Bearer tokens that were validated, by outcome."),
        &["outcome"],
    )?;
    let by_transport = IntCounterVec::new(
        Opts::new(
            "latchkey_validations_by_transport_total",
            "Bearer tokens that were validated, by how the service was asked, and outcome.",
        ),
        &["transport", "outcome"],
    )?;
    for transport in Transport::ALL {
        let outcomes = Reason::ALL.into_iter().map(|reason| (reason.name(), Some(reason)));
        for (outcome, reason) in std::iter::once(("valid", None)).chain(outcomes) {
            let count = registry.validations(transport, reason);
            by_transport.with_label_values(&[transport.name(), outcome]).inc_by(count);
            validations.with_label_values(&[outcome]).inc_by(count);
        }
    }
    Ok([
        validations.collect(),
        by_transport.collect(),
        counter("latchkey_cache_hits_total", "Validations answered from memory.", statistics.hits)?,
        counter(
            "latchkey_cache_misses_total",
            "Validations that looked the token up in the database.",
            statistics.misses,
        )?,
        gauge("latchkey_cache_entries", "Tokens in memory.", statistics.entries as f64)?,
        gauge(
            "latchkey_revocation_tail_lag_seconds",
            "Age of this replica's view of the revocation log.",
            statistics.tail_lag.as_secs_f64(),
        )?,
        gauge(
            "latchkey_clock_ahead_seconds",
            "How far this machine's clock is ahead of the database's; negative when it is behind.",
            registry.clock().system_ahead().as_seconds_f64(),
        )?,
        counter("latchkey_argon2_runs_total", "Runs of argon2.", registry.argon2_runs())?,
        gauge(
            "latchkey_argon2_waiting",
            "Secrets that wait for a run of argon2.",
            registry.argon2_waiting() as f64,
        )?,
    ]
    .concat())
}

fn refusals(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let refusals = IntCounterVec::new(
        Opts::new(
            "latchkey_requests_refused_total",
            "Requests that were refused because of who sent them, by reason.",
        ),
        &["reason"],
    )?;
    for (reason, count) in state.callers.refusals().counts() {
        refusals.with_label_values(&[reason]).inc_by(count);
    }
    Ok(refusals.collect())
}

fn connections(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let open =
        GaugeVec::new(Opts::new("latchkey_connections", "Open connections, by listener."), &["listener"])?;
    let refused = IntCounterVec::new(
        Opts::new(
            "latchkey_connections_refused_total",
            "Connections that were closed at once because their address had too many, by listener.",
        ),
        &["listener"],
    )?;
    for (listener, connections) in &state.connections {
        open.with_label_values(&[listener]).set(connections.open() as f64);
        refused.with_label_values(&[listener]).inc_by(connections.refused());
    }
    Ok([open.collect(), refused.collect()].concat())
}

fn replicas(registry: &TokenRegistry) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let statistics = registry.statistics();
    let age = statistics.oldest_renewal.map(|at| (registry.clock().now() - at).as_seconds_f64().max(0.0));
    Ok([
        gauge(
            "latchkey_replicas",
            "Replicas that are registered, this one included.",
            (statistics.other_replicas + 1) as f64,
        )?,
        gauge(
            "latchkey_lease_remaining_seconds",
            "Time until this replica's lease ends unless it is renewed; 0 without a lease.",
            statistics.lease.as_secs_f64(),
        )?,
        gauge(
            "latchkey_oldest_lease_age_seconds",
            "Longest time since another replica renewed its lease; 0 without other replicas.",
            age.unwrap_or(0.0),
        )?,
        gauge(
            "latchkey_revocation_waiting",
            "Revocations that are committed and wait until every replica has seen them.",
            statistics.waits.waiting as f64,
        )?,
        counter(
            "latchkey_revocation_waits_total",
            "Revocations that have waited until every replica had seen them.",
            statistics.waits.waits,
        )?,
        seconds(
            "latchkey_revocation_wait_seconds_total",
            "Time that revocations have waited until every replica had seen them.",
            statistics.waits.waited,
        )?,
        counter(
            "latchkey_revocation_events_read_total",
            "Events that were read from the revocation log.",
            statistics.events_read,
        )?,
        counter(
            "latchkey_epoch_changes_total",
            "Crashes, failovers and restores of the database that were noticed.",
            statistics.epoch_changes,
        )?,
    ]
    .concat())
}

fn events(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let events = &state.events;
    let mut families = [
        counter(
            "latchkey_events_handled_total",
            "Account events whose effect is committed.",
            events.handled(),
        )?,
        counter(
            "latchkey_events_redelivered_total",
            "Messages that NATS delivered more than once.",
            events.redelivered(),
        )?,
        counter(
            "latchkey_events_dead_lettered_total",
            "Messages that were stored as dead letters.",
            events.dead_lettered(),
        )?,
        counter(
            "latchkey_events_replayed_total",
            "Account events that were applied again because a failover or a restore had lost their effect.",
            events.replayed(),
        )?,
    ]
    .concat();
    if state.subscribes {
        families.extend(gauge(
            "latchkey_subscriber_attached",
            "1 if the subscriber is attached to its stream, else 0.",
            f64::from(u8::from(events.is_attached())),
        )?);
    }
    if let Some(lag) = events.lag() {
        families.extend(gauge(
            "latchkey_consumer_lag_messages",
            "Messages of the stream that no replica had acknowledged when NATS was last asked.",
            lag as f64,
        )?);
    }
    Ok(families)
}

fn database(state: &HttpState) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let connections = GaugeVec::new(
        Opts::new("latchkey_database_connections", "Database connections, by pool and state."),
        &["pool", "state"],
    )?;
    let most = GaugeVec::new(
        Opts::new("latchkey_database_connections_max", "Maximum number of connections of a pool."),
        &["pool"],
    )?;
    for pool in state.store.pools() {
        connections.with_label_values(&[pool.name, "used"]).set(pool.used as f64);
        connections.with_label_values(&[pool.name, "idle"]).set(pool.idle as f64);
        most.with_label_values(&[pool.name]).set(f64::from(pool.max));
    }
    let purged = IntCounterVec::new(
        Opts::new("latchkey_purged_rows_total", "Rows that were purged because of their age, by table."),
        &["table"],
    )?;
    let rows = state.registry.purged_rows();
    for (table, count) in
        [("tokens", rows.tokens), ("token_events", rows.events), ("create_requests", rows.requests)]
    {
        purged.with_label_values(&[table]).inc_by(count);
    }
    Ok([connections.collect(), most.collect(), purged.collect()].concat())
}

fn counter(name: &str, help: &str, value: u64) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    counter.inc_by(value);
    Ok(counter.collect())
}

fn seconds(name: &str, help: &str, value: Duration) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let counter = Counter::new(name, help)?;
    counter.inc_by(value.as_secs_f64());
    Ok(counter.collect())
}

fn gauge(name: &str, help: &str, value: f64) -> Result<Vec<MetricFamily>, prometheus::Error> {
    let gauge = Gauge::new(name, help)?;
    gauge.set(value);
    Ok(gauge.collect())
}
