use chrono::TimeDelta;
use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use prost_types::Timestamp;
use rstest::rstest;
use rstest_reuse::apply;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Sqlite},
    app::{START_SECONDS, manual_clock},
    client::create_request as request,
    on_both_databases,
    status::{details, reason, violations},
};

const MINUTE: i64 = 60;
const DEFAULT_LIMIT: usize = 50;

#[apply(on_both_databases)]
#[tokio::test]
async fn a_token_has_the_properties_that_were_requested(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let expire_time = Timestamp { seconds: START_SECONDS + MINUTE, nanos: 123_456_789 };
    let answer = app
        .create_with(CreateTokenRequest {
            scopes: ["repo:write", "repo:read", "repo:write"].map(str::to_owned).into(),
            expire_time: Some(expire_time),
            ..request("alice", "  Terraform cafe\u{301} ")
        })
        .await
        .unwrap();

    let token = answer.token.unwrap();
    assert_eq!(token.user_id, "alice");
    assert_eq!(token.name, "Terraform caf\u{e9}");
    assert_eq!(token.scopes, ["repo:read", "repo:write"]);
    assert_eq!(token.last_used_time, None);
    let in_microseconds = Timestamp { nanos: 123_456_000, ..expire_time };
    assert_eq!(token.expire_time, Some(in_microseconds));
    assert_eq!(token.create_time, Some(Timestamp { seconds: START_SECONDS, nanos: 0 }));
    let id: uuid::Uuid = token.id.parse().unwrap();
    assert_eq!(id.get_version_num(), 7);

    let (head, tail) = token.hint.split_once("...").unwrap();
    let [prefix, id_text, secret] = answer.secret.split('_').collect::<Vec<_>>()[..] else {
        panic!("{} parts", answer.secret.split('_').count())
    };
    assert_eq!((prefix, id_text.len(), secret.len()), ("pat", 22, 43 + 6), "the secret and its checksum");
    assert_eq!(head, format!("pat_{}", &id_text[..4]));
    assert_eq!(tail, &id_text[18..]);

    let mut listed = app.page("alice", 0, "").await.unwrap().tokens;
    assert_eq!(listed.pop(), Some(token.clone()));
    assert_eq!(app.validate(&answer.secret).await, Ok(token));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn every_bad_field_of_a_request_is_named_at_once(database: Database) {
    let app = App::start(database).await;
    let status = app
        .create_with(CreateTokenRequest {
            user_id: "u".repeat(129),
            name: " ab ".into(),
            scopes: ["good", "Bad", ""].map(str::to_owned).into(),
            expire_time: Some(Timestamp { seconds: 1, nanos: 0 }),
            request_id: "x".into(),
        })
        .await
        .unwrap_err();
    let said = violations(&status);
    let fields: Vec<&str> = said.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["user_id", "name", "scopes[1]", "scopes[2]", "expire_time", "request_id"]);
    for (field, error) in &said {
        assert!(status.message().contains(&format!("{field} {error}")), "{status}");
    }
    assert!(said[0].1.contains("129 bytes; at most 128"));
    assert!(said[1].1.contains("2 characters after trimming; at least 3"));
    assert!(said[2].1.contains("a-z, 0-9"));
    assert!(said[4].1.contains("in the future"));
    assert_eq!(app.count("tokens").await + app.count("users").await, 0);
}

#[rstest]
#[case::empty_user(request("", "good name"), "user_id")]
#[case::control_in_user(request("a\0b", "good name"), "user_id")]
#[case::space_after_user(request("bob ", "good name"), "user_id")]
#[case::space_before_user(request("\u{a0}bob", "good name"), "user_id")]
#[case::zero_width_in_user(request("bo\u{200b}b", "good name"), "user_id")]
#[case::empty_name(request("u", ""), "name")]
#[case::short_name(request("u", "\u{2003}ab\u{2003}"), "name")]
#[case::long_name(request("u", &"n".repeat(65)), "name")]
#[case::control_in_name(request("u", "na\u{7}me"), "name")]
#[case::bidirectional_override(request("u", "na\u{202e}me"), "name")]
#[case::zero_width(request("u", "na\u{200b}me"), "name")]
#[case::too_many_scopes(CreateTokenRequest { scopes: vec!["a".into(); 65], ..request("u", "name") }, "scopes")]
#[case::long_scope(CreateTokenRequest { scopes: vec!["a".repeat(65)], ..request("u", "name") }, "scopes[0]")]
#[case::no_timestamp(
    CreateTokenRequest { expire_time: Some(Timestamp { seconds: i64::MAX, nanos: 0 }), ..request("u", "name") },
    "expire_time"
)]
#[case::bad_nanos(
    CreateTokenRequest { expire_time: Some(Timestamp { seconds: 9_999_999_999, nanos: -1 }), ..request("u", "name") },
    "expire_time"
)]
#[case::request_id_without_hyphens(
    CreateTokenRequest { request_id: "5b3c8f0e6d0b4c1e9a550f6c3b1d7e42".into(), ..request("u", "name") },
    "request_id"
)]
#[case::zero_request_id(
    CreateTokenRequest { request_id: uuid::Uuid::nil().to_string(), ..request("u", "name") },
    "request_id"
)]
#[tokio::test]
async fn a_bad_field_is_named(#[case] request: CreateTokenRequest, #[case] field: &str) {
    let app = App::start(Sqlite).await;
    let said = violations(&app.create_with(request).await.unwrap_err());
    assert_eq!(said.len(), 1);
    assert_eq!(said[0].0, field);
    assert_eq!(app.count("tokens").await, 0);
}

/// Gateways trim header values, and people do not see the difference.
#[tokio::test]
async fn a_user_id_that_looks_like_another_is_refused_by_every_method() {
    let app = App::start(Sqlite).await;
    let (id, _) = app.issue("bob", "one").await;
    let invisible = "has the character U+200B, a control or invisible character; none is allowed";
    let untrimmed = |code: &str| {
        format!("begins or ends with white space, {code}; it is allowed only between other characters")
    };
    for (user, error) in [
        ("bob\u{200b}", invisible.to_owned()),
        ("bob ", untrimmed("U+0020")),
        ("\u{3000}bob", untrimmed("U+3000")),
    ] {
        let said = [("user_id".to_owned(), error)];
        assert_eq!(violations(&app.create(user, "two").await.unwrap_err()), said, "{user:?}");
        assert_eq!(violations(&app.page(user, 0, "").await.unwrap_err()), said, "{user:?}");
        assert_eq!(violations(&app.delete(user, &id).await.unwrap_err()), said, "{user:?}");
    }
    let of_a_name = violations(&app.create("bob", "t\u{200b}wo").await.unwrap_err());
    assert_eq!(of_a_name, [("name".to_owned(), invisible.to_owned())]);
    app.issue("Bob de la Cruz", "inner spaces are allowed").await;
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_longest_values_allowed_are_accepted(database: Database) {
    let app = App::start(database).await;
    let user = "\u{1f511}".repeat(32);
    let scopes: Vec<String> = (0..64).map(|n| format!("{n:02}{}", "x".repeat(62))).collect();
    let request = CreateTokenRequest { scopes, ..request(&user, &"\u{1f511}".repeat(64)) };
    let answer = app.create_with(request.clone()).await.unwrap();
    let token = app.validate(&answer.secret).await.unwrap();
    assert_eq!((token.user_id, token.name, token.scopes), (request.user_id, request.name, request.scopes));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_name_is_taken_until_its_token_is_deleted(database: Database) {
    let app = App::start(database).await;
    let (id, _) = app.issue("alice", "caf\u{e9}").await;
    let taken = app.create("alice", " cafe\u{301}").await.unwrap_err();
    assert_eq!((taken.code(), reason(&taken).as_str()), (Code::AlreadyExists, "NAME_TAKEN"));
    app.issue("bob", "caf\u{e9}").await;
    app.issue("alice", "CAF\u{c9}").await;
    app.delete("alice", &id).await.unwrap();
    app.issue("alice", "caf\u{e9}").await;
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_user_has_fifty_live_tokens_at_most(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let (first, _) = app.issue("alice", "token 0").await;
    let soon = Timestamp { seconds: START_SECONDS + MINUTE, nanos: 0 };
    app.create_with(CreateTokenRequest { expire_time: Some(soon), ..request("alice", "expires") })
        .await
        .unwrap();
    for n in 2..DEFAULT_LIMIT {
        app.issue("alice", &format!("token {n}")).await;
    }
    let full = app.create("alice", "token 50").await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    let violation = details(&full).quota_failure().unwrap().violations[0].clone();
    assert!(violation.description.contains("50 live tokens"), "{violation:?}");
    app.issue("bob", "token 50").await;

    app.delete("alice", &first).await.unwrap();
    app.issue("alice", "token 50").await;
    assert_eq!(app.create("alice", "token 51").await.unwrap_err().code(), Code::ResourceExhausted);

    // An expired token is not live, but its name stays taken.
    app.clock.advance(TimeDelta::seconds(MINUTE));
    app.issue("alice", "token 51").await;
    assert_eq!(app.create("alice", "expires").await.unwrap_err().code(), Code::AlreadyExists);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_limit_of_live_tokens_is_a_setting(database: Database) {
    let app = App::start_with(database, &["--max-tokens-per-user", "1"]).await;
    app.issue("alice", "one").await;
    assert_eq!(app.create("alice", "two").await.unwrap_err().code(), Code::ResourceExhausted);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_prefix_is_a_setting(database: Database) {
    let app = App::start_with(database, &["--token-prefix", "acme1"]).await;
    let answer = app.create("alice", "one").await.unwrap();
    assert!(answer.secret.starts_with("acme1_"));
    assert!(answer.token.unwrap().hint.starts_with("acme1_"));
    assert!(app.validate(&answer.secret).await.is_ok());
    let app = app.restart(&[]).await;
    assert_eq!(app.validate(&answer.secret).await, Err(Reason::Malformed));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn each_change_is_in_the_audit_log(database: Database) {
    let app = App::start(database).await;
    let (id, _) = app.issue("alice", "one").await;
    assert!(app.create("alice", "one").await.is_err());
    app.delete("alice", &id).await.unwrap();
    assert!(app.delete("alice", &id).await.is_err());
    app.issue("alice", "two").await;
    app.delete_user("alice").await;

    let rows = app.query("SELECT kind, actor, reason FROM token_events ORDER BY id").await;
    let events: Vec<(String, String, Option<String>)> = rows
        .iter()
        .map(|row| {
            let text = |column| row.try_get::<String>("", column).unwrap();
            (text("kind"), text("actor"), row.try_get("", "reason").unwrap())
        })
        .collect();
    let event = |kind: &str, actor: &str, reason: Option<&str>| {
        (kind.to_owned(), actor.to_owned(), reason.map(str::to_owned))
    };
    assert_eq!(
        events,
        [
            event("token_issued", "anonymous", None),
            event("token_revoked", "anonymous", None),
            event("token_issued", "anonymous", None),
            event("user_deleted", "/identity", Some("event-1")),
        ]
    );
}
