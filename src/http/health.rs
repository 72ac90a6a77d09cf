//! `GET /livez` and `GET /readyz`: whether to let this replica be, and whether to send it calls.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{HttpState, problem::Problem};

/// That it answers is the answer. It knows nothing of the database: a restart does not bring one back.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// The answer is at most a second old, so that asking costs the database nothing.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Response {
    match state.unready.borrow().as_deref() {
        None => "ready\n".into_response(),
        Some(reason) => Problem::unavailable(reason).into_response(),
    }
}
