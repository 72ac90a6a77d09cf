use latchkey::proto::{identity, latchkey::invalid::Reason};
use prost::Message as _;
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Postgres},
    http,
    nats::{json, protobuf, structured},
    on_both_databases,
};

/// A body may have 64 KiB.
const OVER_THE_LIMIT: usize = 64 * 1024 + 1024;

const ATTRIBUTES: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "identity.v1.UserDeleted"),
    ("ce-id", "event-2"),
    ("ce-source", "/identity"),
];

/// The headers of a binary CloudEvent with a body of this type.
fn typed(content_type: &'static str) -> Vec<(&'static str, &'static str)> {
    [&ATTRIBUTES[..], &[("content-type", content_type)]].concat()
}

#[apply(on_both_databases)]
#[tokio::test]
async fn cloud_events_of_both_modes_delete(database: Database) {
    let app = App::start(database).await;
    let [a, b, c, other] = ["a", "b", "c", "other"].map(|user| (user, format!("{user}'s")));
    let mut secrets = Vec::new();
    for (user, name) in [&a, &b, &c, &other] {
        secrets.push(app.issue(user, name).await.1);
    }
    let dated = br#"{ "userId": "b", "deleteTime": "2020-02-02T02:02:02Z" }"#;
    let structured = structured("identity.v1.UserDeleted", "event-3", "/identity", "c");
    assert_eq!(app.post_event(&typed("application/protobuf"), &protobuf("a")).await.0, 202);
    assert_eq!(app.post_event(&typed("application/json"), dated).await.0, 202);
    let structured_type = [("content-type", "application/cloudevents+json")];
    assert_eq!(app.post_event(&structured_type, &structured).await.0, 202);

    for secret in &secrets[..3] {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(app.validate(&secrets[3]).await.is_ok());
    for (user, event) in [("a", "event-2"), ("b", "event-2"), ("c", "event-3")] {
        let of_account = format!("token_events WHERE user_id = '{user}' AND kind <> 'token_issued'");
        let recorded =
            format!("{of_account} AND kind = 'user_deleted' AND actor = '/identity' AND reason = '{event}'");
        assert_eq!(app.count(&recorded).await, 1);
        assert_eq!(app.count(&of_account).await, 1, "an account has one event, however many tokens it has");
    }
    assert_eq!(app.count("users WHERE deleted_at < '2021-01-01 00:00:00+00:00'").await, 1);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn an_event_that_can_never_be_read_is_400_with_a_reason(database: Database) {
    let app = App::start(database).await;
    for (headers, body, said) in [
        (vec![], protobuf("a"), "is no CloudEvent"),
        (vec![("content-type", "application/json")], json("a"), "is no CloudEvent"),
        (typed("application/protobuf"), b"\xff".to_vec(), "in protobuf"),
        (typed("application/protobuf"), protobuf(&"u".repeat(129)), "user_id has 129 bytes; at most 128"),
        (
            typed("application/protobuf"),
            protobuf("a\nb"),
            "user_id has the character U+000A, a control or invisible",
        ),
        (typed("application/protobuf"), protobuf("bob "), "user_id begins or ends with white space, U+0020"),
        (
            typed("application/protobuf"),
            protobuf("bo\u{200b}b"),
            "user_id has the character U+200B, a control or invisible",
        ),
        (typed("application/json"), b"{".to_vec(), "in JSON"),
        (typed("text/plain"), b"a".to_vec(), "text/plain"),
        (vec![("content-type", "application/cloudevents+json")], b"{}".to_vec(), "specversion is missing"),
    ] {
        let (status, head, problem) = app.post_event(&headers, &body).await;
        assert_eq!(status, 400, "{problem}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    assert_eq!(app.post_event(&typed(""), &vec![0; OVER_THE_LIMIT]).await.0, 413);
    assert_eq!(http::send(app.http_addr, "GET /events", &[], b"").await.0, 405);
    assert_eq!(app.count("users").await, 0);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_temporary_error_is_503_and_the_sender_may_try_again(database: Database) {
    let app = App::start_with(database, &["--database-timeout", "200ms"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    let (status, head, problem) = app.post_event(&ATTRIBUTES, &protobuf("alice")).await;
    assert_eq!(status, 503, "{problem}");
    assert!(head.contains("retry-after: "), "{head}");
    lock.release().await;
    assert!(app.validate(&secret).await.is_ok());
    assert_eq!(app.post_event(&ATTRIBUTES, &protobuf("alice")).await.0, 202);
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let app = App::start_with(Postgres, &["--request-timeout", "200ms"]).await;
    let lock = app.lock_user("alice").await;
    let (status, _, problem) = app.post_event(&ATTRIBUTES, &protobuf("alice")).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("longer than allowed"), "{problem}");
    lock.release().await;
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_wrong_delete_time_still_deletes(database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("bob", "one").await;
    let body = br#"{ "userId": "alice", "deleteTime": "now" }"#;
    assert_eq!(app.post_event(&typed("application/json"), body).await.0, 202);
    // Before 4713 BC.
    let delete_time = Some(prost_types::Timestamp { seconds: -300_000_000_000, nanos: 0 });
    let body = identity::UserDeleted { user_id: "bob".into(), delete_time }.encode_to_vec();
    assert_eq!(app.post_event(&ATTRIBUTES, &body).await.0, 202);
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(app.validate(&other).await, Err(Reason::UserDeleted));
}
