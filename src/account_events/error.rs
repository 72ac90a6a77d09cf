//! Why an event cannot be read.

use crate::token::UserIdError;

/// Why an event can never be read, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountEventError {
    /// The content type, which is quoted, is not supported.
    #[error(
        "content-type: {0} is not supported; send application/protobuf, application/json or \
         application/cloudevents+json"
    )]
    ContentType(String),
    /// The event is not a CloudEvent, and this transport requires one.
    #[error(
        "headers: this is no CloudEvent; send ce-specversion, ce-id, ce-source and ce-type, or the content type \
         application/cloudevents+json"
    )]
    NoCloudEvent,
    /// A CloudEvents attribute is missing or wrong.
    #[error("CloudEvents attribute {name} {error}")]
    #[allow(missing_docs)]
    Attribute { name: &'static str, error: String },
    /// The body is not a structured CloudEvent.
    #[error("body: is not a CloudEvent in JSON: {0}")]
    Envelope(String),
    /// The body, or the data of the CloudEvent, cannot be decoded.
    #[error("body: is not an identity.v1.UserDeleted in {form}: {error}")]
    #[allow(missing_docs)]
    Body { form: &'static str, error: String },
    /// The user id breaks a rule for user ids.
    #[error("user_id {0}")]
    UserId(#[from] UserIdError),
}
