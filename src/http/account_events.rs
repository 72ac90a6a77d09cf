//! `POST /events`: CloudEvents over HTTP, binary and structured (CloudEvents HTTP Protocol Binding 1.0.2).
//!
//! Answers 202 after the event's effect is committed, 400 for an event that can never be decoded, and 503 for a
//! temporary failure. A sender that retries loses no event.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
};

use super::{HttpState, problem::Problem};
use crate::account_events::UserDeleted;

pub(super) async fn receive(
    State(state): State<Arc<HttpState>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let event = UserDeleted::read(header, &body, None).map_err(|error| {
        tracing::warn!(reason = %error, "an event cannot be decoded");
        Problem::bad_request(error.to_string())
    })?;
    event.apply(&state.registry).await.map_err(|error| {
        tracing::warn!(%error, event = event.event_id, "an event could not be handled");
        Problem::unavailable("the event could not be handled; send it again")
    })?;
    state.events.count_handled();
    Ok(StatusCode::ACCEPTED)
}
