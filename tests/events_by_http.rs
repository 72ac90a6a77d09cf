use latchkey::proto::{identity, latchkey::invalid::Reason};
use prost::Message as _;
use rstest::rstest;
use serde_json::json;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    http::send,
};

const ATTRIBUTES: [(&str, &str); 4] = [
    ("ce-specversion", "1.0"),
    ("ce-type", "identity.v1.UserDeleted"),
    ("ce-id", "event-2"),
    ("ce-source", "/identity"),
];

fn protobuf(user: &str) -> Vec<u8> {
    identity::UserDeleted { user_id: user.into(), delete_time: None }.encode_to_vec()
}

async fn post(app: &App, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, String) {
    send(app.server.http_addr(), "POST /events", headers, body).await
}

#[rstest]
#[tokio::test]
async fn cloud_events_of_both_modes_revoke(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let [a, b, c, other] = ["a", "b", "c", "other"].map(|user| (user, format!("{user}'s")));
    let mut secrets = Vec::new();
    for (user, name) in [&a, &b, &c, &other] {
        secrets.push(app.issue(user, name).await.1);
    }
    let json = json!({ "userId": "b", "deleteTime": "2020-02-02T02:02:02Z" }).to_string();
    let structured = json!({
        "specversion": "1.0", "type": "identity.v1.UserDeleted", "id": "event-3", "source": "/identity",
        "data": { "userId": "c" },
    });
    let as_json = [&ATTRIBUTES[..], &[("content-type", "application/json")]].concat();
    let as_protobuf = [&ATTRIBUTES[..], &[("content-type", "application/protobuf")]].concat();
    assert_eq!(post(&app, &as_protobuf, &protobuf("a")).await.0, 202);
    assert_eq!(post(&app, &as_json, json.as_bytes()).await.0, 202);
    let structured_type = [("content-type", "application/cloudevents+json")];
    assert_eq!(post(&app, &structured_type, structured.to_string().as_bytes()).await.0, 202);

    for secret in &secrets[..3] {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(app.validate(&secrets[3]).await.is_ok());
    // One event for an account, however many tokens it has.
    for event in ["event-2", "event-3"] {
        let recorded = format!(
            "token_events WHERE reason = '{event}' AND kind = 'user_deleted' AND actor = '/identity'"
        );
        assert_eq!(app.count(&recorded).await, 1);
        assert_eq!(app.count(&format!("token_events WHERE reason = '{event}'")).await, 1);
    }
    assert_eq!(app.count("users WHERE deleted_at < '2021-01-01 00:00:00+00:00'").await, 1);
}

#[rstest]
#[tokio::test]
async fn what_can_never_be_read_is_400_with_a_reason(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let typed = |kind| [&ATTRIBUTES[..], &[("content-type", kind)]].concat();
    for (headers, body, said) in [
        (vec![], protobuf("a"), "is no CloudEvent"),
        (vec![("content-type", "application/json")], b"{\"userId\": \"a\"}".to_vec(), "is no CloudEvent"),
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
        let (status, head, problem) = post(&app, &headers, &body).await;
        assert_eq!(status, 400, "{problem}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: serde_json::Value = serde_json::from_str(&problem).unwrap();
        assert!(problem["detail"].as_str().unwrap().contains(said), "{problem}");
    }
    assert_eq!(post(&app, &typed(""), &vec![0; 65 * 1024]).await.0, 413);
    assert_eq!(send(app.server.http_addr(), "GET /events", &[], b"").await.0, 405);
    assert_eq!(app.count("users").await, 0);
}

#[rstest]
#[tokio::test]
async fn a_passing_fault_is_503_and_the_sender_may_try_again(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start_with(database, &["--database-timeout", "200ms"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    let (status, head, problem) = post(&app, &ATTRIBUTES, &protobuf("alice")).await;
    assert_eq!(status, 503, "{problem}");
    assert!(head.contains("retry-after: "), "{head}");
    lock.release().await;
    assert!(app.validate(&secret).await.is_ok());
    assert_eq!(post(&app, &ATTRIBUTES, &protobuf("alice")).await.0, 202);
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_503() {
    let app = App::start_with(Postgres, &["--request-timeout", "200ms"]).await;
    let lock = app.lock_user("alice").await;
    let (status, _, problem) = post(&app, &ATTRIBUTES, &protobuf("alice")).await;
    assert_eq!(status, 503, "{problem}");
    assert!(problem.contains("longer than it may"), "{problem}");
    lock.release().await;
}

#[rstest]
#[tokio::test]
async fn a_wrong_delete_time_still_deletes(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("bob", "one").await;
    let json = br#"{ "userId": "alice", "deleteTime": "now" }"#;
    let as_json = [&ATTRIBUTES[..], &[("content-type", "application/json")]].concat();
    assert_eq!(post(&app, &as_json, json).await.0, 202);
    // Before 4713 BC.
    let delete_time = Some(prost_types::Timestamp { seconds: -300_000_000_000, nanos: 0 });
    let body = identity::UserDeleted { user_id: "bob".into(), delete_time }.encode_to_vec();
    assert_eq!(post(&app, &ATTRIBUTES, &body).await.0, 202);
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(app.validate(&other).await, Err(Reason::UserDeleted));
}
