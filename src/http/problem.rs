//! Errors as HTTP responses: a status and problem details in JSON (RFC 9457).

use std::time::Duration;

use axum::{
    http::{
        StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::caller::Refusal;

/// How long to wait before the next attempt after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<Duration>,
}

impl Problem {
    /// 400: the same request always fails.
    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// 413: the request's body has more than `limit` bytes.
    pub(super) fn too_large(limit: usize) -> Self {
        let detail = format!("the body is too large; at most {limit} bytes are allowed");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    /// 503: the same request may succeed later.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self { retry_after: Some(RETRY), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// The request is refused because of who sends it.
    pub(super) fn refused(refusal: &Refusal) -> Self {
        let status = match refusal {
            Refusal::NoCredentials | Refusal::BadCredentials(_) => StatusCode::UNAUTHORIZED,
            Refusal::NotAllowed(_) => StatusCode::FORBIDDEN,
            Refusal::TooManyFailures(_) => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        };
        let retry_after = match refusal {
            Refusal::TooManyFailures(wait) => Some(*wait),
            Refusal::Unavailable => Some(RETRY),
            Refusal::NoCredentials | Refusal::BadCredentials(_) | Refusal::NotAllowed(_) => None,
        };
        Self { retry_after, ..Self::new(status, refusal.to_string()) }
    }

    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), retry_after: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({
            "title": self.status.canonical_reason(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut response = (self.status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers
            .insert(CONTENT_TYPE, const { axum::http::HeaderValue::from_static("application/problem+json") });
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 11.6.1: such an answer names the schemes.
            headers.insert(WWW_AUTHENTICATE, const { axum::http::HeaderValue::from_static("Bearer, Basic") });
        }
        response
    }
}
