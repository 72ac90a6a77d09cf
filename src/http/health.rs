//! `GET /livez` says whether to restart this replica, and `GET /readyz` whether to send it calls.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{HttpState, problem::Problem};

/// Always answers 200 and never checks the database: a restart would not bring it back.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Answers from the last database check, which is at most two seconds old. Probes cost the database nothing.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Response {
    match state.unready.borrow().as_deref() {
        None => "ready\n".into_response(),
        Some(reason) => Problem::unavailable(reason).into_response(),
    }
}
