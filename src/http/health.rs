//! `GET /livez` says whether to restart this replica, and `GET /readyz` whether to send it calls.

use std::sync::Arc;

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::TimeDelta;

use crate::clock::Clock;

use super::{HttpState, problem::Problem};

/// Always answers 200 and never checks the database: a restart would not bring it back.
pub(super) async fn live() -> StatusCode {
    StatusCode::OK
}

/// Answers from the last database check, which is at most five seconds old. Probes cost the database nothing.
pub(super) async fn ready(State(state): State<Arc<HttpState>>) -> Response {
    match state.unready.borrow().as_deref() {
        None => format!("ready\n{}", clock_warning(state.registry.clock())).into_response(),
        Some(reason) => Problem::unavailable(reason).into_response(),
    }
}

fn clock_warning(clock: &Clock) -> String {
    if !clock.system_is_wrong() {
        return String::new();
    }
    let ahead = clock.system_ahead();
    let (by, side) =
        (ahead.abs().as_seconds_f64(), if ahead > TimeDelta::zero() { "ahead of" } else { "behind" });
    format!("warning: the clock of this machine is {by:.1} s {side} the database's\n")
}
