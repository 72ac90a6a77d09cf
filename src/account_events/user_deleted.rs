//! UserDeleted in each of the forms in which it may arrive.
//!
//! The body is protobuf (the default) or proto3 JSON, by content type. Around it there may be a CloudEvent
//! (CloudEvents 1.0) in binary mode, whose attributes are headers `ce-…`, or in structured mode, whose attributes
//! stand in a JSON object with the body.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::Body;
use crate::{
    registry::{RegistryError, TokenRegistry},
    token::{UserId, UserIdError},
};

/// An account was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDeleted {
    /// Whose account.
    pub user_id: UserId,
    /// When, if it was said and can be read.
    pub deleted_at: Option<DateTime<Utc>>,
    /// What is wrong with the time that was said.
    pub delete_time_fault: Option<String>,
    /// The id of the event, for the log of events.
    pub event_id: String,
    /// Who said so, for the log of events.
    pub source: String,
}

/// Why a message will never be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccountEventError {
    /// The content type is none that is understood.
    #[error(
        "content type {0:?} is not understood: send application/protobuf, application/json or \
         application/cloudevents+json"
    )]
    ContentType(String),
    /// No CloudEvents attributes, where they are needed.
    #[error(
        "is no CloudEvent: send headers ce-specversion, ce-id, ce-source and ce-type, or application/cloudevents+json"
    )]
    NoCloudEvent,
    /// A CloudEvents attribute is missing or wrong.
    #[error("CloudEvents attribute {name} {error}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        error: String,
    },
    /// The structured CloudEvent is not of its form.
    #[error("is no CloudEvent in JSON: {0}")]
    Envelope(String),
    /// The body is not of its form.
    #[error("body is no identity.v1.UserDeleted in {form}: {error}")]
    Body {
        /// Protobuf or JSON.
        form: &'static str,
        /// What is wrong.
        error: String,
    },
    /// The user's id breaks the limits.
    #[error("user_id {0}")]
    UserId(#[from] UserIdError),
}

/// The type of the CloudEvents that are understood.
const EVENT_TYPE: &str = "identity.v1.UserDeleted";
/// The actor in the log of events where no CloudEvent names a source.
const DEFAULT_SOURCE: &str = "identity";
/// The longest id or source, in bytes.
const MAX_ATTRIBUTE: usize = 256;

impl UserDeleted {
    /// Reads a message from its headers, looked up by name in lower case, and body. `plain_id` is the id of a message
    /// that is no CloudEvent; without it, only CloudEvents are taken.
    ///
    /// # Errors
    ///
    /// It will never be understood.
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
            return Err(AccountEventError::ContentType(content_type.to_owned()));
        }
        let attribute = |name| header(name).map(decode_header);
        // Without ce-specversion it is no CloudEvent, but what it says of itself still counts.
        if let Some(kind) = attribute("ce-type") {
            check_type(Some(kind))?;
        }
        let (event_id, source) = if header("ce-specversion").is_some() {
            let attributes = [
                attribute("ce-specversion"),
                attribute("ce-type"),
                attribute("ce-id"),
                attribute("ce-source"),
            ];
            check_attributes(attributes)?
        } else {
            (plain_id.ok_or(AccountEventError::NoCloudEvent)?, DEFAULT_SOURCE.to_owned())
        };
        Self::read_body(content_type, body, event_id, source)
    }

    /// Reads a message some of whose headers are lost: where those that are left do not do, the body tells its form.
    /// Headers or a body that say that the event is another one still count. `id` is the message's own.
    ///
    /// # Errors
    ///
    /// It will never be understood.
    pub fn read_without_some_headers<'a>(
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
        plain_id: Option<String>,
        id: &str,
    ) -> Result<Self, AccountEventError> {
        let error = match Self::read(&header, body, plain_id.clone()) {
            Ok(event) => return Ok(event),
            Err(error) => error,
        };
        let kind = header("ce-type").map(decode_header);
        let is_ours = kind.is_some();
        if is_ours {
            check_type(kind)?;
        }
        if serde_json::from_slice(body).is_ok_and(|it: Envelope<'_>| it.kind.or(it.specversion).is_some()) {
            return Self::read_structured(body);
        }
        let id = plain_id.or_else(|| is_ours.then(|| id.to_owned())).ok_or(error)?;
        let form = if body.trim_ascii_start().starts_with(b"{") { "application/json" } else { "" };
        Self::read_body(form, body, id, DEFAULT_SOURCE.to_owned())
    }

    fn read_structured(text: &[u8]) -> Result<Self, AccountEventError> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(text).map_err(|error| AccountEventError::Envelope(error.to_string()))?;
        let (event_id, source) =
            check_attributes([envelope.specversion, envelope.kind, envelope.id, envelope.source])?;
        match (envelope.data, envelope.data_base64) {
            (Some(json), None) => {
                let content_type = envelope.datacontenttype.as_deref().unwrap_or("application/json");
                if !is_json(content_type) {
                    return Err(AccountEventError::Envelope(format!(
                        "data of {content_type:?} must be in data_base64"
                    )));
                }
                Self::read_body(content_type, json.get().as_bytes(), event_id, source)
            }
            (None, Some(base64)) => {
                let body = BASE64_STANDARD
                    .decode(base64.as_bytes())
                    .map_err(|error| AccountEventError::Envelope(format!("data_base64: {error}")))?;
                Self::read_body(
                    envelope.datacontenttype.as_deref().unwrap_or_default(),
                    &body,
                    event_id,
                    source,
                )
            }
            (None, None) => Err(AccountEventError::Envelope("has neither data nor data_base64".to_owned())),
            (Some(_), Some(_)) => {
                Err(AccountEventError::Envelope("has both data and data_base64".to_owned()))
            }
        }
    }

    fn read_body(
        content_type: &str,
        body: &[u8],
        event_id: String,
        source: String,
    ) -> Result<Self, AccountEventError> {
        let Body { user_id, delete_time } = if is_protobuf(content_type) {
            Body::of_protobuf(body)?
        } else if is_json(content_type) {
            Body::of_json(body)?
        } else {
            return Err(AccountEventError::ContentType(content_type.to_owned()));
        };
        let user_id = user_id.parse()?;
        let (deleted_at, delete_time_fault) = match delete_time {
            Ok(time) => (time, None),
            Err(error) => (None, Some(error)),
        };
        Ok(Self { user_id, deleted_at, delete_time_fault, event_id, source })
    }

    /// Revokes the user's tokens, for good; doing it twice changes nothing.
    ///
    /// # Errors
    ///
    /// A failure of the database; a later try may succeed.
    pub async fn apply(&self, registry: &TokenRegistry) -> Result<(), RegistryError> {
        registry.revoke_user(&self.user_id, self.deleted_at, &self.source, &self.event_id).await?;
        if let Some(error) = &self.delete_time_fault {
            let (user_id, event_id) = (self.user_id.as_str(), &self.event_id);
            tracing::warn!(
                user_id,
                event_id,
                error,
                "user deleted as of now: the time in the event is no time"
            );
        }
        Ok(())
    }
}

/// A CloudEvent in JSON (CloudEvents JSON Event Format 1.0.2). Further attributes are of no concern here.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    specversion: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "type")]
    kind: Option<Cow<'a, str>>,
    datacontenttype: Option<String>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
}

fn check_type(kind: Option<Cow<'_, str>>) -> Result<(), AccountEventError> {
    check_attribute("type", kind, EVENT_TYPE)
}

fn check_attribute(
    name: &'static str,
    value: Option<Cow<'_, str>>,
    wanted: &str,
) -> Result<(), AccountEventError> {
    match value.as_deref() {
        Some(value) if value == wanted => Ok(()),
        Some(value) => {
            Err(AccountEventError::Attribute { name, error: format!("is {value:?}, not {wanted:?}") })
        }
        None => Err(AccountEventError::Attribute { name, error: "is missing".to_owned() }),
    }
}

/// The id and source of an event whose specversion, type, id and source these are.
fn check_attributes(
    [specversion, kind, id, source]: [Option<Cow<'_, str>>; 4],
) -> Result<(String, String), AccountEventError> {
    check_attribute("specversion", specversion, "1.0")?;
    check_type(kind)?;
    let text = |name, value: Option<Cow<'_, str>>| match value {
        Some(value) if value.is_empty() => {
            Err(AccountEventError::Attribute { name, error: "is empty".to_owned() })
        }
        Some(value) if value.len() > MAX_ATTRIBUTE => {
            Err(AccountEventError::Attribute { name, error: format!("is longer than {MAX_ATTRIBUTE} bytes") })
        }
        Some(value) if value.contains(char::is_control) => {
            Err(AccountEventError::Attribute { name, error: "has a control character".to_owned() })
        }
        Some(value) => Ok(value.into_owned()),
        None => Err(AccountEventError::Attribute { name, error: "is missing".to_owned() }),
    };
    Ok((text("id", id)?, text("source", source)?))
}

/// A header's value in the encoding of the CloudEvents bindings for HTTP and NATS (percent encoding).
fn decode_header(value: &str) -> Cow<'_, str> {
    percent_decode_str(value).decode_utf8_lossy()
}

/// The media type without its parameters, in lower case.
fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_protobuf(content_type: &str) -> bool {
    matches!(
        media_type(content_type).as_str(),
        "" | "application/protobuf" | "application/x-protobuf" | "application/vnd.google.protobuf"
    )
}

fn is_json(content_type: &str) -> bool {
    let kind = media_type(content_type);
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;
    use serde_json::{Value, json};

    use super::*;
    use crate::proto::identity;

    type Headers<'a> = &'a [(&'a str, &'a str)];

    fn read(headers: Headers<'_>, body: &[u8]) -> Result<UserDeleted, AccountEventError> {
        let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        UserDeleted::read(header, body, Some("IDENTITY:7".to_owned()))
    }

    fn deleted(event_id: &str, source: &str) -> Result<UserDeleted, AccountEventError> {
        Ok(UserDeleted {
            user_id: "alice".parse().unwrap(),
            deleted_at: DateTime::from_timestamp(1_700_000_000, 0),
            delete_time_fault: None,
            event_id: event_id.to_owned(),
            source: source.to_owned(),
        })
    }

    fn protobuf() -> Vec<u8> {
        let at = prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 };
        identity::UserDeleted { user_id: "alice".into(), delete_time: Some(at) }.encode_to_vec()
    }

    const JSON: &str = r#"{"userId": "alice", "deleteTime": "2023-11-14T22:13:20Z"}"#;

    const ATTRIBUTES: [(&str, &str); 4] = [
        ("ce-specversion", "1.0"),
        ("ce-type", "identity.v1.UserDeleted"),
        ("ce-id", "e-1"),
        ("ce-source", "/identity"),
    ];

    fn structured(change: impl FnOnce(&mut Value)) -> Result<UserDeleted, AccountEventError> {
        let mut event = json!({
            "specversion": "1.0", "type": "identity.v1.UserDeleted", "id": "e-1", "source": "/identity",
            "time": "2023-11-14T22:13:21Z", "traceparent": "00-x",
            "data": { "userId": "alice", "deleteTime": "2023-11-14T22:13:20Z" },
        });
        change(&mut event);
        read(&[("content-type", "application/cloudevents+json; charset=utf-8")], event.to_string().as_bytes())
    }

    #[test]
    fn plain_messages_are_protobuf_or_json() {
        let plain = deleted("IDENTITY:7", "identity");
        assert_eq!(read(&[], &protobuf()), plain);
        assert_eq!(read(&[("content-type", "application/protobuf")], &protobuf()), plain);
        assert_eq!(read(&[("content-type", "Application/JSON; charset=utf-8")], JSON.as_bytes()), plain);
        let by_field_names =
            br#"{"user_id": "alice", "delete_time": "2023-11-15T00:13:20+02:00", "later": [1]}"#;
        assert_eq!(read(&[("content-type", "application/json")], by_field_names), plain);
        let untimed =
            read(&[("content-type", "application/json")], br#"{"userId": "alice", "deleteTime": null}"#);
        assert_eq!(untimed.unwrap().deleted_at, None);
    }

    #[test]
    fn binary_cloud_events_carry_their_attributes_in_headers() {
        let with = |more: Headers<'_>, body: &[u8]| read(&[&ATTRIBUTES, more].concat(), body);
        assert_eq!(with(&[], &protobuf()), deleted("e-1", "/identity"));
        assert_eq!(
            with(&[("content-type", "application/json")], JSON.as_bytes()),
            deleted("e-1", "/identity")
        );
        let encoded = [
            ("ce-specversion", "1.0"),
            ("ce-type", EVENT_TYPE),
            ("ce-id", "a%20b%C3%A9"),
            ("ce-source", "s"),
        ];
        assert_eq!(read(&encoded, &protobuf()), deleted("a b\u{e9}", "s"));
    }

    #[test]
    fn structured_cloud_events_carry_everything_in_json() {
        assert_eq!(structured(|_| ()), deleted("e-1", "/identity"));
        let base64 = BASE64_STANDARD.encode(protobuf());
        let of_protobuf = structured(|event| {
            event["data"].take();
            event["data_base64"] = base64.into();
            event["datacontenttype"] = "application/protobuf".into();
        });
        assert_eq!(of_protobuf, deleted("e-1", "/identity"));
    }

    #[test]
    fn each_fault_is_named() {
        let plain = |kind, body: &[u8]| read(&[("content-type", kind)], body);
        let without = |name| {
            let rest: Vec<_> = ATTRIBUTES.into_iter().filter(|(key, _)| *key != name).collect();
            read(&rest, &protobuf())
        };
        for (result, said) in [
            (plain("text/plain", b"alice"), "content type \"text/plain\" is not understood"),
            (plain("application/cloudevents-batch+json", b"[]"), "is not understood"),
            (plain("application/json", b"{"), "no identity.v1.UserDeleted in JSON: EOF"),
            (plain("application/json", b"[]"), "no identity.v1.UserDeleted in JSON"),
            (plain("application/json", br#"{"userId": 5}"#), "invalid type: integer"),
            (plain("application/json", br#"{"userId": "a", "user_id": "b"}"#), "duplicate field"),
            (plain("application/json", b"{}"), "user_id must not be empty"),
            (plain("", b"\xff"), "in protobuf"),
            (plain("", b""), "user_id must not be empty"),
            (plain("", &[&[0x0a, 0x81, 0x01][..], &[b'u'; 129]].concat()), "129 bytes; at most 128"),
            (without("ce-type"), "attribute type is missing"),
            (without("ce-id"), "attribute id is missing"),
            (without("ce-source"), "attribute source is missing"),
            (structured(|event| event["specversion"] = "0.3".into()), "specversion is \"0.3\", not \"1.0\""),
            (
                structured(|event| event["type"] = "other".into()),
                "type is \"other\", not \"identity.v1.UserDeleted\"",
            ),
            (structured(|event| event["id"] = "".into()), "id is empty"),
            (structured(|event| event["id"] = "x".repeat(257).into()), "id is longer than 256 bytes"),
            (structured(|event| event["source"] = "a\0b".into()), "source has a control character"),
            (structured(|event| event["data_base64"] = "".into()), "has both"),
            (structured(|event| event["data"] = Value::Null), "has neither"),
            (structured(|event| event["datacontenttype"] = "text/xml".into()), "must be in data_base64"),
            (structured(|event| *event = json!([])), "is no CloudEvent in JSON"),
        ] {
            let error = result.unwrap_err().to_string();
            assert!(error.contains(said), "{error:?} does not say {said:?}");
        }
        let only_cloud_events = UserDeleted::read(|_| None, &protobuf(), None);
        assert_eq!(only_cloud_events, Err(AccountEventError::NoCloudEvent));
    }

    #[test]
    fn a_type_counts_without_the_rest_of_a_cloud_event() {
        let other = [("ce-type", "identity.v1.UserCreated")];
        let error = read(&other, &protobuf()).unwrap_err().to_string();
        assert!(error.contains("type is \"identity.v1.UserCreated\""), "{error}");
        assert_eq!(read(&[("ce-type", EVENT_TYPE)], &protobuf()), deleted("IDENTITY:7", "identity"));
    }

    #[test]
    fn a_wrong_delete_time_does_not_keep_the_event_from_being_read() {
        let event = structured(|event| event["data"]["deleteTime"] = 5.into()).unwrap();
        assert_eq!((event.user_id.as_str(), event.deleted_at), ("alice", None));
        assert!(event.delete_time_fault.unwrap().contains("delete_time: is \"5\""));
    }

    #[test]
    fn what_is_left_of_the_headers_and_the_body_say_what_it_is() {
        let rest = |headers: Headers<'_>, body: &[u8], plain: bool| {
            let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
            let plain_id = plain.then(|| "IDENTITY:7".to_owned());
            UserDeleted::read_without_some_headers(header, body, plain_id, "IDENTITY:7")
        };
        let envelope = |kind: &str| {
            json!({
                "specversion": "1.0", "type": kind, "id": "e-1", "source": "/identity",
                "data": { "userId": "alice", "deleteTime": "2023-11-14T22:13:20Z" },
            })
            .to_string()
            .into_bytes()
        };
        let plain = deleted("IDENTITY:7", "identity");
        let our_type = &ATTRIBUTES[1..2];
        for body in [protobuf(), JSON.as_bytes().to_vec()] {
            assert_eq!(rest(&[], &body, true), plain);
            assert_eq!(rest(&ATTRIBUTES[..3], &body, true), plain, "the source is lost");
            assert_eq!(rest(our_type, &body, false), plain, "the type is enough");
            assert_eq!(rest(&[], &body, false), Err(AccountEventError::NoCloudEvent));
            for plain in [true, false] {
                let other = rest(&[("ce-type", "identity.v1.UserCreated")], &body, plain);
                assert!(other.unwrap_err().to_string().contains("type is"));
            }
        }
        for plain in [true, false] {
            assert_eq!(rest(&[], &envelope(EVENT_TYPE), plain), deleted("e-1", "/identity"));
            assert!(rest(&[], &envelope("identity.v1.UserCreated"), plain).is_err());
        }
        assert!(rest(&[], b"{", true).is_err() && rest(&[], b"\xff", true).is_err());
        assert!(rest(&[], b"", true).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body: Vec<u8>, text: String, kind in 0..3_usize) {
            let kind = ["", "application/json", "application/cloudevents+json"][kind];
            let _ = read(&[("content-type", kind)], &body);
            let _ = read(&[("content-type", kind)], text.as_bytes());
            let _ = read(&[&ATTRIBUTES[..3], &[("ce-source", &text)]].concat(), &body);
        }
    }
}
