//! Errors as gRPC statuses: a code, a message, and details of google.rpc (AIP-193).

use std::{collections::HashMap, error::Error as _, fmt::Display, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{
    caller::Refusal, credentials::HashError, proto::latchkey::ErrorReason, registry::RegistryError,
    store::StoreError,
};

/// The domain of every ErrorInfo.
const DOMAIN: &str = "latchkey.v1";
/// How long a caller should wait before it retries after a failure, and after an overload.
const RETRY_FAILURE: Duration = Duration::from_secs(1);
const RETRY_OVERLOAD: Duration = Duration::from_millis(500);

/// How many invalid fields an answer names. Many clients take at most 8 KiB of headers, and the answer is in headers.
const MAX_VIOLATIONS: usize = 16;

/// Collects the invalid fields of a request.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Returns the value, or records that `field` is invalid.
    pub(super) fn check<T, E: Display>(&mut self, field: &str, checked: Result<T, E>) -> Option<T> {
        checked.map_err(|error| self.0.push(FieldViolation::new(field, error.to_string()))).ok()
    }

    /// Returns INVALID_ARGUMENT for one field.
    pub(super) fn status_of(field: &str, description: String) -> Status {
        Self(vec![FieldViolation::new(field, description)]).into_status()
    }

    /// Returns INVALID_ARGUMENT with the first [`MAX_VIOLATIONS`] violations.
    pub(super) fn into_status(mut self) -> Status {
        let omitted = self.0.len().saturating_sub(MAX_VIOLATIONS);
        self.0.truncate(MAX_VIOLATIONS);
        let mut violations: Vec<String> =
            self.0.iter().map(|violation| format!("{} {}", violation.field, violation.description)).collect();
        if omitted > 0 {
            violations.push(format!("and {omitted} more"));
        }
        Status::with_error_details(
            Code::InvalidArgument,
            violations.join("; "),
            ErrorDetails::with_bad_request(self.0),
        )
    }
}

/// Returns RESOURCE_EXHAUSTED for a call that may succeed when it is retried.
pub(super) fn overloaded() -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_OVERLOAD));
    Status::with_error_details(Code::ResourceExhausted, "the service is overloaded; try again later", details)
}

/// Returns RESOURCE_EXHAUSTED for a message of more than `limit` bytes. It has no RetryInfo, since the same message is
/// never accepted.
pub(super) fn too_large(limit: usize) -> Status {
    let message = format!("the request message is too large; at most {limit} bytes are allowed");
    let metadata = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    Status::with_error_details(
        Code::ResourceExhausted,
        message,
        error_info(ErrorReason::MessageTooLarge, metadata),
    )
}

/// Returns the status of a call that is refused before it reaches a service.
pub(super) fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::NoCredentials => with_reason(Code::Unauthenticated, message, ErrorReason::NoCredentials),
        Refusal::BadCredentials(_) => {
            with_reason(Code::Unauthenticated, message, ErrorReason::BadCredentials)
        }
        Refusal::NotAllowed(_) => with_reason(Code::PermissionDenied, message, ErrorReason::NotAllowed),
        Refusal::TooManyFailures(wait) => {
            let mut details = error_info(ErrorReason::TooFast, HashMap::new());
            details.set_retry_info(Some(*wait));
            Status::with_error_details(Code::ResourceExhausted, message, details)
        }
        Refusal::Unavailable => {
            let details = ErrorDetails::with_retry_info(Some(RETRY_FAILURE));
            Status::with_error_details(Code::Unavailable, message, details)
        }
    }
}

/// Returns the failure of the service that caused `status`. The caller does not see it.
pub(super) fn failure(status: &Status) -> Option<&RegistryError> {
    status.source()?.downcast_ref()
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::NameTaken => with_reason(Code::AlreadyExists, message, ErrorReason::NameTaken),
            RegistryError::Expiry(_) => Violations::status_of("expire_time", message),
            RegistryError::RequestIdReused => Violations::status_of("request_id", message),
            RegistryError::RequestDone { token_id } => {
                let metadata = HashMap::from([("token_id".to_owned(), token_id.to_string())]);
                let details = error_info(ErrorReason::RequestDone, metadata);
                Status::with_error_details(Code::AlreadyExists, message, details)
            }
            RegistryError::UserDeleted => {
                with_reason(Code::FailedPrecondition, message, ErrorReason::UserDeleted)
            }
            RegistryError::NotFound => with_reason(Code::NotFound, message, ErrorReason::TokenNotFound),
            RegistryError::TooManyTokens { .. } | RegistryError::TooManyExpired { .. } => {
                let details = ErrorDetails::with_quota_failure_violation("live tokens of a user", &message);
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            RegistryError::NotAllowed(_) => {
                with_reason(Code::PermissionDenied, message, ErrorReason::NotAllowed)
            }
            RegistryError::TooFast { wait } => {
                let mut details = error_info(ErrorReason::TooFast, HashMap::new());
                details.set_retry_info(Some(wait));
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            RegistryError::Busy | RegistryError::Hash(HashError::Busy) => overloaded(),
            RegistryError::Store(StoreError::Text) => Status::invalid_argument(message),
            // The health check, and the task that renews the lease, have logged it already.
            RegistryError::Store(StoreError::Away | StoreError::NoLease | StoreError::SessionChanged) => {
                unavailable()
            }
            RegistryError::Store(StoreError::FailedOver) => {
                let details = ErrorDetails::with_retry_info(Some(RETRY_FAILURE));
                Status::with_error_details(Code::Unavailable, message, details)
            }
            RegistryError::Store(
                StoreError::Unavailable(_)
                | StoreError::Timeout
                | StoreError::InRecovery
                | StoreError::EpochChanged
                | StoreError::Interrupted
                | StoreError::File(_)
                | StoreError::SchemaOutdated,
            ) => {
                tracing::warn!(error = message, "a call failed");
                unavailable()
            }
            RegistryError::Hash(_)
            | RegistryError::Randomness
            | RegistryError::Store(
                StoreError::Duplicate | StoreError::Encoding(_) | StoreError::Refused(_),
            ) => {
                // `layers::Observe` logs the source.
                let mut status = Status::internal("the service failed; its log says why");
                status.set_source(Arc::new(error));
                status
            }
        }
    }
}

fn unavailable() -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_FAILURE));
    Status::with_error_details(Code::Unavailable, "the database is out of reach; try again later", details)
}

fn with_reason(code: Code, message: String, reason: ErrorReason) -> Status {
    Status::with_error_details(code, message, error_info(reason, HashMap::new()))
}

fn error_info(reason: ErrorReason, metadata: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(reason.as_str_name(), DOMAIN, metadata)
}
