use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::reason,
};

#[rstest]
#[tokio::test]
async fn a_deleted_users_tokens_are_invalid_and_no_new_one_is_issued(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start(database).await;
    let (id, first) = app.issue("alice", "one").await;
    let (_, second) = app.issue("alice", "two").await;
    let (_, bobs) = app.issue("bob", "one").await;
    for _ in 0..2 {
        app.delete_user("alice").await;
        assert_eq!(app.validate(&first).await, Err(Reason::UserDeleted));
        assert_eq!(app.validate(&second).await, Err(Reason::UserDeleted));
        assert!(app.validate(&bobs).await.is_ok());
        let refused = app.create("alice", "three").await.unwrap_err();
        assert_eq!((refused.code(), &*reason(&refused)), (Code::FailedPrecondition, "USER_DELETED"));
        assert!(app.names("alice").await.is_empty());
        assert_eq!(app.delete("alice", &id).await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(app.count("token_events WHERE kind = 'user_deleted'").await, 1);
    let app = app.restart(&[]).await;
    assert_eq!(app.validate(&first).await, Err(Reason::UserDeleted));
}

#[rstest]
#[tokio::test]
async fn a_user_deleted_before_the_first_token_gets_none(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    app.delete_user("alice").await;
    assert_eq!(reason(&app.create("alice", "one").await.unwrap_err()), "USER_DELETED");
}
