use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Sqlite},
    on_both_databases,
    status::{reason, violations},
};

#[apply(on_both_databases)]
#[tokio::test]
async fn a_deleted_token_never_validates_again(database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("alice", "two").await;
    assert!(app.validate(&secret).await.is_ok());
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
    assert!(app.validate(&other).await.is_ok());
    let app = app.restart(&[]).await;
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
}

#[apply(on_both_databases)]
#[tokio::test]
async fn the_answer_is_the_same_for_unknown_deleted_and_foreign_tokens(database: Database) {
    let app = App::start(database).await;
    let (id, secret) = app.issue("alice", "one").await;
    let foreign = app.delete("bob", &id).await.unwrap_err();
    assert!(app.validate(&secret).await.is_ok());
    app.delete("alice", &id).await.unwrap();
    let deleted = app.delete("alice", &id).await.unwrap_err();
    let unknown = app.delete("alice", &uuid::Uuid::now_v7().to_string()).await.unwrap_err();
    for status in [&foreign, &deleted, &unknown] {
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!((status.message(), status.details()), (unknown.message(), unknown.details()));
    }
    assert_eq!(reason(&unknown), "TOKEN_NOT_FOUND");
    assert_eq!(app.count("users WHERE user_id = 'bob'").await, 0, "a failed call leaves nothing behind");
}

#[tokio::test]
async fn a_bad_field_is_named() {
    let app = App::start(Sqlite).await;
    for id in
        ["", "1", "not-a-uuid", "{0193e4a0-0000-7000-8000-000000000000}", "0193e4a0000070008000000000000000"]
    {
        let said = violations(&app.delete("alice", id).await.unwrap_err());
        assert_eq!((said.len(), &*said[0].0), (1, "token_id"));
    }
    let said = violations(&app.delete("", "x").await.unwrap_err());
    assert_eq!([&*said[0].0, &*said[1].0], ["user_id", "token_id"]);
}
