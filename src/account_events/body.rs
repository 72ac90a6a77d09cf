//! The body of an event: identity.v1.UserDeleted in protobuf or proto3 JSON.
//!
//! The user and the time are decoded separately, so that an unreadable time does not keep the tokens of a deleted
//! account alive.

use chrono::{DateTime, Utc};
use prost::Message;
use prost_types::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::error::AccountEventError;
use crate::telemetry::{excerpt, quote};

/// A decoded body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Body {
    pub(super) user_id: String,
    /// The time of the deletion, if there is one; or what is wrong with it.
    pub(super) delete_time: Result<Option<DateTime<Utc>>, String>,
}

#[derive(Message)]
struct User {
    #[prost(string, tag = "1")]
    user_id: String,
}

#[derive(Message)]
struct Time {
    #[prost(message, optional, tag = "2")]
    delete_time: Option<Timestamp>,
}

/// Ignores unknown fields, as protobuf does: a later version may add some.
#[derive(Deserialize)]
struct JsonUser {
    #[serde(alias = "user_id", rename = "userId")]
    user_id: Option<String>,
}

#[derive(Deserialize)]
struct JsonTime<'a> {
    #[serde(borrow, alias = "delete_time", rename = "deleteTime")]
    delete_time: Option<&'a RawValue>,
}

impl Body {
    /// Decodes a body by its content type; without one it is protobuf.
    ///
    /// # Errors
    ///
    /// The content type is not supported, or the body has another form.
    pub(super) fn read(content_type: &str, body: &[u8]) -> Result<Self, AccountEventError> {
        if is_protobuf(content_type) {
            Self::from_protobuf(body)
        } else if is_json(content_type) {
            Self::from_json(body)
        } else {
            Err(AccountEventError::ContentType(quote(content_type)))
        }
    }

    fn from_protobuf(body: &[u8]) -> Result<Self, AccountEventError> {
        let User { user_id } = User::decode(body).map_err(|error| AccountEventError::Body {
            form: "protobuf",
            error: excerpt(&error.to_string()),
        })?;
        let delete_time = match Time::decode(body) {
            Ok(Time { delete_time: None }) => Ok(None),
            Ok(Time { delete_time: Some(Timestamp { seconds, nanos }) }) => timestamp(seconds, nanos.into())
                .map(Some)
                .ok_or_else(|| wrong_time(&format!("seconds: {seconds}, nanos: {nanos}"))),
            Err(error) => Err(wrong_time(&error.to_string())),
        };
        Ok(Self { user_id, delete_time })
    }

    fn from_json(body: &[u8]) -> Result<Self, AccountEventError> {
        let JsonUser { user_id } = serde_json::from_slice(body)
            .map_err(|error| AccountEventError::Body { form: "JSON", error: excerpt(&error.to_string()) })?;
        let delete_time = match serde_json::from_slice(body) {
            Ok(JsonTime { delete_time: None }) => Ok(None),
            Ok(JsonTime { delete_time: Some(value) }) => {
                json_time(value.get()).map(Some).ok_or_else(|| wrong_time(value.get()))
            }
            Err(error) => Err(wrong_time(&error.to_string())),
        };
        Ok(Self { user_id: user_id.unwrap_or_default(), delete_time })
    }
}

fn json_time(value: &str) -> Option<DateTime<Utc>> {
    let text: String = serde_json::from_str(value).ok()?;
    let time = DateTime::parse_from_rfc3339(&text).ok()?;
    timestamp(time.timestamp(), time.timestamp_subsec_nanos().into())
}

/// Returns the time if it is within the range of google.protobuf.Timestamp, which every database can store.
fn timestamp(seconds: i64, nanos: i64) -> Option<DateTime<Utc>> {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if !(FIRST..=LAST).contains(&seconds) {
        return None;
    }
    DateTime::from_timestamp(seconds, nanos)
}

/// Returns the media type without its parameters, in lower case.
pub(super) fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn is_protobuf(content_type: &str) -> bool {
    matches!(
        media_type(content_type).as_str(),
        "" | "application/protobuf" | "application/x-protobuf" | "application/vnd.google.protobuf"
    )
}

/// Returns whether a content type stands for JSON.
pub(super) fn is_json(content_type: &str) -> bool {
    let kind = media_type(content_type);
    kind == "application/json" || kind == "text/json" || kind.ends_with("+json")
}

fn wrong_time(value: &str) -> String {
    format!("delete_time: is {}; must be a google.protobuf.Timestamp of the years 1 to 9999", quote(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<DateTime<Utc>> {
        Some(DateTime::parse_from_rfc3339(text).unwrap().to_utc())
    }

    #[test]
    fn times_between_the_years_1_and_9999_are_read() {
        for text in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "2023-11-14T22:13:20.5+02:00"]
        {
            let time = DateTime::parse_from_rfc3339(text).unwrap();
            let (seconds, nanos) = (time.timestamp(), time.timestamp_subsec_nanos() as i32);
            let body = Time { delete_time: Some(Timestamp { seconds, nanos }) }.encode_to_vec();
            assert_eq!(Body::from_protobuf(&body).unwrap().delete_time, Ok(at(text)));
            let body = format!(r#"{{"deleteTime": "{text}"}}"#);
            assert_eq!(Body::from_json(body.as_bytes()).unwrap().delete_time, Ok(at(text)));
        }
    }

    #[test]
    fn a_wrong_time_in_protobuf_is_reported_and_the_user_is_read() {
        let of = |seconds, nanos| Time { delete_time: Some(Timestamp { seconds, nanos }) }.encode_to_vec();
        for time in [
            of(-62_135_596_801, 0),
            of(253_402_300_800, 0),
            of(-210_866_803_201, 0),
            of(i64::MIN, 0),
            of(i64::MAX, 0),
            of(0, -1),
            of(0, 1_000_000_000),
            of(0, i32::MAX),
            b"\x10\x05".to_vec(),
            b"\x11\0\0\0\0\0\0\0\0".to_vec(),
            b"\x12\x03now".to_vec(),
            b"\x12\x02\x0a\x00".to_vec(),
        ] {
            let body = [b"\x0a\x05alice".as_slice(), &time].concat();
            let read = Body::from_protobuf(&body).unwrap();
            assert_eq!(read.user_id, "alice");
            let error = read.delete_time.unwrap_err();
            assert!(error.contains("delete_time: is ") && error.contains("years 1 to 9999"), "{error}");
        }
    }

    #[test]
    fn a_wrong_time_in_json_is_reported_and_the_user_is_read() {
        let long = format!("\"{}\"", "x".repeat(100_000));
        for time in [
            "\"now\"",
            "\"\"",
            "5",
            "1e999",
            "true",
            "{}",
            "[\"2023-11-14T22:13:20Z\"]",
            "\"0000-12-31T23:59:59Z\"",
            "\"-4713-01-01T00:00:00Z\"",
            "\"+10000-01-01T00:00:00Z\"",
            "\"9999-12-31T23:59:59-01:00\"",
            "\"2023-11-14\"",
            "\"\\ud800\"",
            "\"2023-11-14T22:13:20Z\", \"deleteTime\": \"2023-11-14T22:13:20Z\"",
            &long,
        ] {
            let body = format!(r#"{{"userId": "alice", "deleteTime": {time}}}"#);
            let read = Body::from_json(body.as_bytes()).unwrap();
            assert_eq!(read.user_id, "alice");
            let error = read.delete_time.unwrap_err();
            assert!(error.contains("delete_time: is ") && error.len() < 300, "{error}");
        }
        let not_utf8 = Body::from_json(b"{\"userId\": \"alice\", \"deleteTime\": \"\xff\"}").unwrap();
        assert!(not_utf8.user_id == "alice" && not_utf8.delete_time.is_err());
    }
}
