//! Errors as gRPC tells them: a code, a sentence, and details of google.rpc (AIP-193).

use std::{collections::HashMap, error::Error as _, fmt::Display, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use crate::{credentials::HashError, registry::RegistryError, store::StoreError};

/// The domain of every ErrorInfo.
const DOMAIN: &str = "latchkey.v1";
/// When it is worth asking again after a failure, and after an overload.
const RETRY_FAILURE: Duration = Duration::from_secs(1);
const RETRY_OVERLOAD: Duration = Duration::from_millis(500);

/// Collects what is wrong with a request, field by field.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<FieldViolation>);

impl Violations {
    /// The value, or a note that `field` is at fault.
    pub(super) fn check<T, E: Display>(&mut self, field: &str, checked: Result<T, E>) -> Option<T> {
        checked.map_err(|error| self.0.push(FieldViolation::new(field, error.to_string()))).ok()
    }

    /// INVALID_ARGUMENT with all that is at fault.
    pub(super) fn into_status(self) -> Status {
        let faults: Vec<String> =
            self.0.iter().map(|error| format!("{} {}", error.field, error.description)).collect();
        Status::with_error_details(
            Code::InvalidArgument,
            faults.join("; "),
            ErrorDetails::with_bad_request(self.0),
        )
    }
}

/// RESOURCE_EXHAUSTED: come back soon.
pub(super) fn overloaded() -> Status {
    let details = ErrorDetails::with_retry_info(Some(RETRY_OVERLOAD));
    Status::with_error_details(
        Code::ResourceExhausted,
        "the service has too much to do; try again later",
        details,
    )
}

/// RESOURCE_EXHAUSTED for a message of more than `limit` bytes. It has no RetryInfo: the same message is never accepted.
pub(super) fn too_large(limit: usize) -> Status {
    let message = format!("the request message is too large; at most {limit} bytes are allowed");
    let limit = HashMap::from([("limit_bytes".to_owned(), limit.to_string())]);
    let details = ErrorDetails::with_error_info("MESSAGE_TOO_LARGE", DOMAIN, limit);
    Status::with_error_details(Code::ResourceExhausted, message, details)
}

/// The failure of the service behind a status, which the caller does not see.
pub(super) fn failure(status: &Status) -> Option<&RegistryError> {
    status.source()?.downcast_ref()
}

impl From<RegistryError> for Status {
    fn from(error: RegistryError) -> Self {
        let message = error.to_string();
        match error {
            RegistryError::NameTaken => with_reason(Code::AlreadyExists, message, "NAME_TAKEN"),
            RegistryError::UserDeleted => with_reason(Code::FailedPrecondition, message, "USER_DELETED"),
            RegistryError::NotFound => with_reason(Code::NotFound, message, "TOKEN_NOT_FOUND"),
            RegistryError::TooManyTokens { .. } | RegistryError::TooManyExpired { .. } => {
                let details = ErrorDetails::with_quota_failure_violation("live tokens of a user", &message);
                Status::with_error_details(Code::ResourceExhausted, message, details)
            }
            RegistryError::Busy | RegistryError::Hash(HashError::Busy) => overloaded(),
            RegistryError::Store(StoreError::Text) => Status::invalid_argument(message),
            // The health check logged the outage.
            RegistryError::Store(StoreError::Away) => unavailable(),
            RegistryError::Store(
                StoreError::Unavailable(_)
                | StoreError::Timeout
                | StoreError::InRecovery
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
                // `observe` logs the source.
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

fn with_reason(code: Code, message: String, reason: &str) -> Status {
    Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, HashMap::new()))
}
