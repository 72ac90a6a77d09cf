//! UserDeleted, in each form in which it may arrive.
//!
//! The body is protobuf or proto3 JSON, by content type. It may be a message of its own or the data of a CloudEvent.

use chrono::{DateTime, Utc};

use super::{
    body::{Body, media_type},
    cloud_event::{Attributes, Envelope},
    error::AccountEventError,
};
use crate::{
    registry::{RegistryError, TokenRegistry},
    telemetry::quote,
    token::UserId,
};

/// An account was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDeleted {
    /// The user whose account was deleted.
    pub user_id: UserId,
    /// The time of the deletion, if the event has one that can be read.
    pub deleted_at: Option<DateTime<Utc>>,
    /// Why the time in the event cannot be read.
    pub delete_time_error: Option<String>,
    /// The id of the event, for the audit log.
    pub event_id: String,
    /// The source of the event, for the audit log.
    pub source: String,
}

/// The source in the audit log of an event that is not a CloudEvent.
const DEFAULT_SOURCE: &str = "identity";

impl UserDeleted {
    /// Reads an event from its headers, looked up by their names in lower case, and its body. `plain_id` is the id of
    /// an event that is not a CloudEvent; without it, only CloudEvents are accepted.
    ///
    /// # Errors
    ///
    /// The event can never be read.
    pub fn read<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
        plain_id: Option<String>,
    ) -> Result<Self, AccountEventError> {
        let content_type = header("content-type").unwrap_or_default();
        if media_type(content_type) == "application/cloudevents+json" {
            return Self::read_structured(body);
        }
        if media_type(content_type).starts_with("application/cloudevents") {
            return Err(AccountEventError::ContentType(quote(content_type)));
        }
        let attributes = Attributes::from_headers(header);
        // The type counts even without the rest of a CloudEvent: an event that says that it is another one is refused.
        if attributes.has_type() {
            attributes.check_type()?;
        }
        let (event_id, source) = if attributes.has_version() {
            attributes.into_id_and_source()?
        } else {
            (plain_id.ok_or(AccountEventError::NoCloudEvent)?, DEFAULT_SOURCE.to_owned())
        };
        Self::read_body(content_type, body, event_id, source)
    }

    /// Reads an event some of whose headers are lost. If the remaining headers are not enough, the body decides what it
    /// is. Headers or a body that name another event are still refused. `id` is the id of the message.
    ///
    /// # Errors
    ///
    /// The event can never be read.
    pub fn read_with_damaged_headers<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
        plain_id: Option<String>,
        id: &str,
    ) -> Result<Self, AccountEventError> {
        let error = match Self::read(&header, body, plain_id.clone()) {
            Ok(event) => return Ok(event),
            Err(error) => error,
        };
        let attributes = Attributes::from_headers(header);
        let has_our_type = attributes.has_type();
        if has_our_type {
            attributes.check_type()?;
        }
        if Envelope::parse(body).is_ok_and(|envelope| envelope.is_cloud_event()) {
            return Self::read_structured(body);
        }
        let id = plain_id.or_else(|| has_our_type.then(|| id.to_owned())).ok_or(error)?;
        let content_type = if body.trim_ascii_start().starts_with(b"{") {
            "application/json"
        } else {
            "application/protobuf"
        };
        Self::read_body(content_type, body, id, DEFAULT_SOURCE.to_owned())
    }

    fn read_structured(text: &[u8]) -> Result<Self, AccountEventError> {
        let mut envelope = Envelope::parse(text)?;
        let (event_id, source) = envelope.take_attributes().into_id_and_source()?;
        let (content_type, data) = envelope.into_data()?;
        Self::read_body(&content_type, &data, event_id, source)
    }

    fn read_body(
        content_type: &str,
        body: &[u8],
        event_id: String,
        source: String,
    ) -> Result<Self, AccountEventError> {
        let Body { user_id, delete_time } = Body::read(content_type, body)?;
        let user_id = user_id.parse()?;
        let (deleted_at, delete_time_error) = match delete_time {
            Ok(time) => (time, None),
            Err(error) => (None, Some(error)),
        };
        Ok(Self { user_id, deleted_at, delete_time_error, event_id, source })
    }

    /// Revokes all tokens of the user for good. Applying an event twice changes nothing.
    ///
    /// # Errors
    ///
    /// The database failed; a retry may succeed.
    pub async fn apply(&self, registry: &TokenRegistry) -> Result<(), RegistryError> {
        registry.revoke_user(&self.user_id, self.deleted_at, &self.source, &self.event_id).await?;
        self.log_time_error();
        Ok(())
    }

    /// Applies an event again that was acknowledged before, and whose effect the database has lost. Does not wait for the
    /// other replicas.
    ///
    /// # Errors
    ///
    /// The database failed; a retry may succeed.
    pub async fn apply_again(&self, registry: &TokenRegistry) -> Result<(), RegistryError> {
        registry.commit_deletion(&self.user_id, self.deleted_at, &self.source, &self.event_id).await?;
        self.log_time_error();
        Ok(())
    }

    fn log_time_error(&self) {
        if let Some(error) = &self.delete_time_error {
            let (user_id, event_id) = (self.user_id.as_str(), &self.event_id);
            tracing::warn!(
                user_id,
                event_id,
                error,
                "the time of the deletion cannot be read; using the present time"
            );
        }
    }
}

#[cfg(test)]
mod tests;
