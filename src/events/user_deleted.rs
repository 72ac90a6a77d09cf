//! UserDeleted in each of the forms in which it may arrive.
//!
//! The body is protobuf (the default) or proto3 JSON, by content type. Around it there may be a CloudEvent
//! (CloudEvents 1.0) in binary mode, whose attributes are headers `ce-…`, or in structured mode, whose attributes
//! stand in a JSON object with the body.

use std::borrow::Cow;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use percent_encoding::percent_decode_str;
use prost::Message as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    proto::identity,
    registry::{RegistryError, TokenRegistry},
    token::{UserId, UserIdError},
};

/// An account was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDeleted {
    /// Whose account.
    pub user_id: UserId,
    /// When, if it was said.
    pub deleted_at: Option<DateTime<Utc>>,
    /// The id of the event, for the log of events.
    pub event_id: String,
    /// Who said so, for the log of events.
    pub source: String,
}

/// Why a message will never be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
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
    #[error("CloudEvents attribute {name} {fault}")]
    Attribute {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The structured CloudEvent is not of its form.
    #[error("is no CloudEvent in JSON: {0}")]
    Envelope(String),
    /// The body is not of its form.
    #[error("body is no identity.v1.UserDeleted in {form}: {fault}")]
    Body {
        /// Protobuf or JSON.
        form: &'static str,
        /// What is wrong.
        fault: String,
    },
    /// The user's id breaks the limits.
    #[error("user_id {0}")]
    UserId(#[from] UserIdError),
    /// The time is none.
    #[error("delete_time is not a valid timestamp")]
    DeleteTime,
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
    ) -> Result<Self, Unreadable> {
        let content_type = header("content-type").unwrap_or_default();
        if media_type(content_type) == "application/cloudevents+json" {
            return Self::read_structured(body);
        }
        if media_type(content_type).starts_with("application/cloudevents") {
            return Err(Unreadable::ContentType(content_type.to_owned()));
        }
        let attribute = |name| header(name).map(decode_header);
        let (event_id, source) = if header("ce-specversion").is_some() {
            let attributes = [
                attribute("ce-specversion"),
                attribute("ce-type"),
                attribute("ce-id"),
                attribute("ce-source"),
            ];
            check_attributes(attributes)?
        } else {
            (plain_id.ok_or(Unreadable::NoCloudEvent)?, DEFAULT_SOURCE.to_owned())
        };
        Self::read_body(content_type, body, event_id, source)
    }

    fn read_structured(text: &[u8]) -> Result<Self, Unreadable> {
        let envelope: Envelope<'_> =
            serde_json::from_slice(text).map_err(|fault| Unreadable::Envelope(fault.to_string()))?;
        let (event_id, source) =
            check_attributes([envelope.specversion, envelope.kind, envelope.id, envelope.source])?;
        match (envelope.data, envelope.data_base64) {
            (Some(json), None) => {
                let content_type = envelope.datacontenttype.as_deref().unwrap_or("application/json");
                if !is_json(content_type) {
                    return Err(Unreadable::Envelope(format!(
                        "data of {content_type:?} must be in data_base64"
                    )));
                }
                Self::read_body(content_type, json.get().as_bytes(), event_id, source)
            }
            (None, Some(base64)) => {
                let body = BASE64_STANDARD
                    .decode(base64.as_bytes())
                    .map_err(|fault| Unreadable::Envelope(format!("data_base64: {fault}")))?;
                Self::read_body(
                    envelope.datacontenttype.as_deref().unwrap_or_default(),
                    &body,
                    event_id,
                    source,
                )
            }
            (None, None) => Err(Unreadable::Envelope("has neither data nor data_base64".to_owned())),
            (Some(_), Some(_)) => Err(Unreadable::Envelope("has both data and data_base64".to_owned())),
        }
    }

    fn read_body(
        content_type: &str,
        body: &[u8],
        event_id: String,
        source: String,
    ) -> Result<Self, Unreadable> {
        let (user_id, deleted_at) = if is_protobuf(content_type) {
            read_protobuf(body)?
        } else if is_json(content_type) {
            read_json(body)?
        } else {
            return Err(Unreadable::ContentType(content_type.to_owned()));
        };
        Ok(Self { user_id: user_id.parse()?, deleted_at, event_id, source })
    }

    /// Revokes the user's tokens, for good; doing it twice changes nothing.
    ///
    /// # Errors
    ///
    /// A failure of the database; a later try may succeed.
    pub async fn apply(&self, registry: &TokenRegistry) -> Result<(), RegistryError> {
        registry.revoke_user(&self.user_id, self.deleted_at, &self.source, &self.event_id).await
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

/// identity.v1.UserDeleted in proto3 JSON; like a protobuf reader, it passes over fields that a later version added.
#[derive(Deserialize)]
struct JsonBody {
    #[serde(alias = "user_id", rename = "userId")]
    user_id: Option<String>,
    #[serde(alias = "delete_time", rename = "deleteTime")]
    delete_time: Option<String>,
}

fn read_json(body: &[u8]) -> Result<(String, Option<DateTime<Utc>>), Unreadable> {
    let body: JsonBody = serde_json::from_slice(body)
        .map_err(|fault| Unreadable::Body { form: "JSON", fault: fault.to_string() })?;
    let at = body.delete_time.map(|text| DateTime::parse_from_rfc3339(&text)).transpose();
    let at = at.map_err(|_| Unreadable::DeleteTime)?;
    Ok((body.user_id.unwrap_or_default(), at.map(|at| at.to_utc())))
}

fn read_protobuf(body: &[u8]) -> Result<(String, Option<DateTime<Utc>>), Unreadable> {
    let body = identity::UserDeleted::decode(body)
        .map_err(|fault| Unreadable::Body { form: "protobuf", fault: fault.to_string() })?;
    let at = body.delete_time.map(|at| {
        let nanos = u32::try_from(at.nanos).ok()?;
        DateTime::from_timestamp(at.seconds, nanos)
    });
    match at {
        Some(None) => Err(Unreadable::DeleteTime),
        at => Ok((body.user_id, at.flatten())),
    }
}

/// The id and source of an event whose specversion, type, id and source these are.
fn check_attributes(
    [specversion, kind, id, source]: [Option<Cow<'_, str>>; 4],
) -> Result<(String, String), Unreadable> {
    let exactly = |name, value: Option<Cow<'_, str>>, wanted: &str| match value.as_deref() {
        Some(value) if value == wanted => Ok(()),
        Some(value) => Err(Unreadable::Attribute { name, fault: format!("is {value:?}, not {wanted:?}") }),
        None => Err(Unreadable::Attribute { name, fault: "is missing".to_owned() }),
    };
    exactly("specversion", specversion, "1.0")?;
    exactly("type", kind, EVENT_TYPE)?;
    let text = |name, value: Option<Cow<'_, str>>| match value {
        Some(value) if value.is_empty() => Err(Unreadable::Attribute { name, fault: "is empty".to_owned() }),
        Some(value) if value.len() > MAX_ATTRIBUTE => {
            Err(Unreadable::Attribute { name, fault: format!("is longer than {MAX_ATTRIBUTE} bytes") })
        }
        Some(value) if value.contains(char::is_control) => {
            Err(Unreadable::Attribute { name, fault: "has a control character".to_owned() })
        }
        Some(value) => Ok(value.into_owned()),
        None => Err(Unreadable::Attribute { name, fault: "is missing".to_owned() }),
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
    use serde_json::{Value, json};

    use super::*;

    type Headers<'a> = &'a [(&'a str, &'a str)];

    fn read(headers: Headers<'_>, body: &[u8]) -> Result<UserDeleted, Unreadable> {
        let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        UserDeleted::read(header, body, Some("IDENTITY:7".to_owned()))
    }

    fn deleted(event_id: &str, source: &str) -> Result<UserDeleted, Unreadable> {
        Ok(UserDeleted {
            user_id: "alice".parse().unwrap(),
            deleted_at: DateTime::from_timestamp(1_700_000_000, 0),
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

    fn structured(change: impl FnOnce(&mut Value)) -> Result<UserDeleted, Unreadable> {
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
            (plain("application/json", br#"{"userId": "a", "deleteTime": "now"}"#), "delete_time"),
            (plain("", b"\xff"), "in protobuf"),
            (plain("", b""), "user_id must not be empty"),
            (plain("", &[&[0x0a, 0x81, 0x01][..], &[b'u'; 129]].concat()), "129 bytes; at most 128"),
            (
                plain("", b"\x0a\x01a\x12\x02\x10\x01\x12\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
                "delete_time",
            ),
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
            let fault = result.unwrap_err().to_string();
            assert!(fault.contains(said), "{fault:?} does not say {said:?}");
        }
        let only_cloud_events = UserDeleted::read(|_| None, &protobuf(), None);
        assert_eq!(only_cloud_events, Err(Unreadable::NoCloudEvent));
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
