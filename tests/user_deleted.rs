use std::time::{Duration, Instant};

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

/// So many that a statement which touched each would run into its timeout, and hold up everybody else's writes.
const TOKENS_OF_ONE_USER: usize = 300_000;

/// Gives `user` that many tokens which expired long ago.
async fn give_expired_tokens(app: &App, user: &str, count: usize) {
    app.sql(&format!("INSERT INTO users (user_id) VALUES ('{user}')")).await;
    let (series, id) = if app.url.starts_with("sqlite") {
        let series = format!(
            "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT n FROM s) AS s"
        );
        (series, "randomblob(16)")
    } else {
        (format!("(SELECT generate_series(1, {count}) AS n) AS s"), "gen_random_uuid()")
    };
    app.sql(&format!(
        "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at, expires_at) \
         SELECT {id}, '{user}', 'token ' || n, 'x', '', '2026-01-01 00:00:00+00:00', '2026-01-02 00:00:00+00:00' \
         FROM {series}"
    ))
    .await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_very_many_tokens_is_deleted_as_quickly_as_any(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start_with(database, &["--database-timeout", "1s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, bobs) = app.issue("bob", "one").await;
    give_expired_tokens(&app, "heavy", TOKENS_OF_ONE_USER).await;
    app.sql("UPDATE tokens SET user_id = 'heavy' WHERE user_id = 'alice'").await;
    app.validate(&secret).await.unwrap();
    app.validate(&bobs).await.unwrap();
    let began = Instant::now();
    app.delete_user("heavy").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert!(app.names("heavy").await.is_empty());
    assert_eq!(app.count("token_events WHERE user_id = 'heavy'").await, 1);
    app.validate(&bobs).await.unwrap();
}

/// Expired tokens do not count towards the limit of live ones, but what CreateToken has to count stays bounded.
#[rstest]
#[tokio::test]
async fn a_user_keeps_a_bounded_number_of_expired_tokens(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start_with(database, &["--max-tokens-per-user", "2"]).await;
    give_expired_tokens(&app, "alice", 999).await;
    app.issue("alice", "first").await;
    app.issue("alice", "second").await;
    let live = app.create("alice", "third").await.unwrap_err();
    assert_eq!(live.code(), Code::ResourceExhausted);
    assert!(live.message().contains("2 live tokens"), "{live}");

    give_expired_tokens(&app, "bob", 1_001).await;
    let (id, _) = app.issue("bob", "first").await;
    let kept = app.create("bob", "second").await.unwrap_err();
    assert_eq!(kept.code(), Code::ResourceExhausted);
    assert!(kept.message().contains("1002 tokens, expired ones included"), "{kept}");
    app.delete("bob", &id).await.unwrap();
    app.issue("bob", "second").await;
}
