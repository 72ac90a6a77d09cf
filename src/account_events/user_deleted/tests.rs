use base64::{Engine as _, prelude::BASE64_STANDARD};
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::{account_events::cloud_event::EVENT_TYPE, proto::identity};

type Headers<'a> = &'a [(&'a str, &'a str)];

fn read(headers: Headers<'_>, body: &[u8]) -> Result<UserDeleted, AccountEventError> {
    let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
    UserDeleted::read(header, body, Some("IDENTITY:7".to_owned()))
}

fn deleted(event_id: &str, source: &str) -> Result<UserDeleted, AccountEventError> {
    Ok(UserDeleted {
        user_id: "alice".parse().unwrap(),
        deleted_at: DateTime::from_timestamp(1_700_000_000, 0),
        delete_time_error: None,
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
    let by_field_names = br#"{"user_id": "alice", "delete_time": "2023-11-15T00:13:20+02:00", "later": [1]}"#;
    assert_eq!(read(&[("content-type", "application/json")], by_field_names), plain);
    let untimed =
        read(&[("content-type", "application/json")], br#"{"userId": "alice", "deleteTime": null}"#);
    assert_eq!(untimed.unwrap().deleted_at, None);
}

#[test]
fn binary_cloud_events_have_their_attributes_in_headers() {
    let with = |more: Headers<'_>, body: &[u8]| read(&[&ATTRIBUTES, more].concat(), body);
    assert_eq!(with(&[], &protobuf()), deleted("e-1", "/identity"));
    assert_eq!(with(&[("content-type", "application/json")], JSON.as_bytes()), deleted("e-1", "/identity"));
    let encoded =
        [("ce-specversion", "1.0"), ("ce-type", EVENT_TYPE), ("ce-id", "a%20b%C3%A9"), ("ce-source", "s")];
    assert_eq!(read(&encoded, &protobuf()), deleted("a b\u{e9}", "s"));
}

#[test]
fn structured_cloud_events_are_one_json_object() {
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
fn each_error_says_what_is_wrong() {
    let plain = |kind, body: &[u8]| read(&[("content-type", kind)], body);
    let without = |name| {
        let rest: Vec<_> = ATTRIBUTES.into_iter().filter(|(key, _)| *key != name).collect();
        read(&rest, &protobuf())
    };
    for (result, said) in [
        (plain("text/plain", b"alice"), "content-type: \"text/plain\" is not supported"),
        (plain("application/cloudevents-batch+json", b"[]"), "is not supported"),
        (plain("application/json", b"{"), "not an identity.v1.UserDeleted in JSON: EOF"),
        (plain("application/json", b"[]"), "not an identity.v1.UserDeleted in JSON"),
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
        (structured(|event| *event = json!([])), "is not a CloudEvent in JSON"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(said), "{error:?} does not say {said:?}");
    }
    let only_cloud_events = UserDeleted::read(|_| None, &protobuf(), None);
    assert_eq!(only_cloud_events, Err(AccountEventError::NoCloudEvent));
}

#[test]
fn a_type_is_checked_without_the_other_attributes() {
    let other = [("ce-type", "identity.v1.UserCreated")];
    let error = read(&other, &protobuf()).unwrap_err().to_string();
    assert!(error.contains("type is \"identity.v1.UserCreated\""), "{error}");
    assert_eq!(read(&[("ce-type", EVENT_TYPE)], &protobuf()), deleted("IDENTITY:7", "identity"));
}

#[test]
fn an_event_with_a_wrong_delete_time_is_read() {
    let event = structured(|event| event["data"]["deleteTime"] = 5.into()).unwrap();
    assert_eq!((event.user_id.as_str(), event.deleted_at), ("alice", None));
    assert!(event.delete_time_error.unwrap().contains("delete_time: is \"5\""));
}

#[test]
fn with_damaged_headers_the_other_headers_and_the_body_decide() {
    let rest = |headers: Headers<'_>, body: &[u8], plain: bool| {
        let header = |name: &str| headers.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let plain_id = plain.then(|| "IDENTITY:7".to_owned());
        UserDeleted::read_with_damaged_headers(header, body, plain_id, "IDENTITY:7")
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
    fn any_bytes_are_read_without_a_panic(body: Vec<u8>, text: String, kind in 0..3_usize) {
        let kind = ["", "application/json", "application/cloudevents+json"][kind];
        let _ = read(&[("content-type", kind)], &body);
        let _ = read(&[("content-type", kind)], text.as_bytes());
        let _ = read(&[&ATTRIBUTES[..3], &[("ce-source", &text)]].concat(), &body);
    }
}
