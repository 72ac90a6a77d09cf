//! What a gRPC status says in its details.

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt as _};

/// The google.rpc details of a status.
pub fn details(status: &Status) -> ErrorDetails {
    status.check_error_details().unwrap()
}

/// The fields that a status refuses, each with the reason.
pub fn violations(status: &Status) -> Vec<(String, String)> {
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
    let request = details(status).bad_request().cloned().unwrap();
    request.field_violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// The reason in the ErrorInfo of a status.
pub fn reason(status: &Status) -> String {
    let details = details(status);
    let info = details.error_info().unwrap();
    assert_eq!(info.domain, "latchkey.v1");
    info.reason.clone()
}

/// Whether a status says when to try again.
pub fn has_retry_delay(status: &Status) -> bool {
    let retry = details(status).retry_info().cloned().unwrap();
    retry.retry_delay.is_some_and(|delay| !delay.is_zero())
}
