//! `GET /replicas`: the replicas of the service, for operators, as JSON.

use std::sync::Arc;

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::{HttpState, problem::Problem};
use crate::{registry::TokenRegistry, store::Replicas};

pub(super) async fn show(State(state): State<Arc<HttpState>>) -> Response {
    match state.registry.replicas().await {
        Ok(found) => {
            let body = page(&state.registry, &found).to_string();
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
        Err(error) => {
            tracing::warn!(%error, "the replicas could not be read");
            Problem::unavailable("the database is out of reach").into_response()
        }
    }
}

/// docs/operations.md explains the fields.
fn page(registry: &TokenRegistry, found: &Replicas) -> Value {
    let now = registry.clock().now();
    let replicas = found.replicas.iter().map(|replica| {
        json!({
            "id": replica.id.to_string(),
            "is_this": replica.id == registry.replica_id(),
            "lease_seconds": replica.lease.as_secs_f64(),
            "renewed_seconds_ago": (now - replica.renewed_at).as_seconds_f64().max(0.0),
            "is_up_to_date": replica.has_seen(&found.change),
        })
    });
    json!({ "epoch": found.change.epoch.map(|epoch| epoch.to_string()), "replicas": replicas.collect::<Vec<_>>() })
}
