use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use rstest::rstest;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::violations,
    forge::forge,
};

#[rstest]
#[tokio::test]
async fn the_first_reason_that_applies_is_told(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    assert_eq!(forge(&secret, &secret), secret);
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::MissingScope));
    app.sql("UPDATE tokens SET expires_at = '2020-01-01 00:00:00+00:00'").await;
    let app = app.restart(&[]).await;
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::Expired));
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::Revoked));

    let (_, other) = app.issue("bob", "two").await;
    app.delete_user("bob").await;
    assert_eq!(app.validate(&other).await, Err(Reason::UserDeleted));
}

#[rstest]
#[tokio::test]
async fn whoever_holds_not_the_right_secret_learns_nothing(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (id, revoked) = app.issue("alice", "one").await;
    let (_, live) = app.issue("alice", "two").await;
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&forge(&revoked, &live)).await, Err(Reason::Unknown));
    assert_eq!(app.validate(&forge(&live, &revoked)).await, Err(Reason::Unknown));
    let elsewhere = App::start(Sqlite).await;
    assert_eq!(elsewhere.validate(&live).await, Err(Reason::Unknown));
}

#[rstest]
#[tokio::test]
async fn what_has_not_the_form_of_a_token_is_malformed(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut typo = secret.clone();
    typo.replace_range(40..41, if &secret[40..41] == "x" { "y" } else { "x" });
    let long = "x".repeat(60_000);
    for text in
        ["", "pat_", "hunter2", &typo, &secret[1..], &format!("{secret} "), &secret.to_uppercase(), &long]
    {
        assert_eq!(app.validate(text).await, Err(Reason::Malformed));
    }
}

#[rstest]
#[tokio::test]
async fn a_token_needs_every_required_scope(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let request = CreateTokenRequest {
        user_id: "alice".into(),
        name: "scoped".into(),
        scopes: ["a", "b:read"].map(str::to_owned).into(),
        expire_time: None,
    };
    let secret = app.create_with(request).await.unwrap().secret;
    for scopes in [&[][..], &["a"], &["b:read", "a"], &["a", "a"]] {
        assert!(app.validate_for(&secret, scopes).await.is_ok(), "{scopes:?}");
    }
    for scopes in [&["c"][..], &["a", "c"], &["b"], &["b:read:x"]] {
        assert_eq!(app.validate_for(&secret, scopes).await, Err(Reason::MissingScope), "{scopes:?}");
    }
    let said = violations(&app.try_validate(&secret, &["a", "B"]).await.unwrap_err());
    assert_eq!(said[0].0, "required_scopes[1]");
    let said = violations(&app.try_validate(&secret, &["a"; 65]).await.unwrap_err());
    assert_eq!(said[0].0, "required_scopes");
}
