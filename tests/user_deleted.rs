use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use tonic::Code;

use crate::support::{App, Database, database::SOME_TIME, on_both_databases, soon, status::reason};

#[apply(on_both_databases)]
#[tokio::test]
async fn the_tokens_of_a_deleted_user_are_invalid_and_no_new_one_is_issued(database: Database) {
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

#[apply(on_both_databases)]
#[tokio::test]
async fn a_user_who_is_deleted_before_the_first_token_gets_none(database: Database) {
    let app = App::start(database).await;
    app.delete_user("alice").await;
    assert_eq!(reason(&app.create("alice", "one").await.unwrap_err()), "USER_DELETED");
}

/// So many that a statement that touches each would reach its timeout and hold up the writes of others.
const VERY_MANY: usize = 300_000;

/// Inserts tokens of `user` that expired long ago.
async fn give_expired_tokens(app: &App, user: &str, count: usize) {
    app.sql(&format!("INSERT INTO users (user_id) VALUES ('{user}')")).await;
    let database = Database::of(&app.url);
    let (series, id) = (database.series(count), database.random_id());
    app.sql(&format!(
        "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at, expires_at) \
         SELECT {id}, '{user}', 'token ' || n, 'x', '', {SOME_TIME}, {SOME_TIME} FROM {series} AS s"
    ))
    .await;
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_very_many_tokens_is_deleted_as_quickly_as_any(database: Database) {
    let app = App::start_with(database, &["--database-timeout", "1s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, bobs) = app.issue("bob", "one").await;
    give_expired_tokens(&app, "heavy", VERY_MANY).await;
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

/// Expired tokens do not count towards the limit of live ones, but the number that CreateToken counts stays bounded.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_user_keeps_a_bounded_number_of_expired_tokens(database: Database) {
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

/// The lock decides the order: it is granted in the order of requests.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_being_created_during_the_deletion_is_refused_or_invalid(
    database: Database,
    #[values(true, false)] token_first: bool,
) {
    let app = Arc::new(App::start_with(database, &["--database-timeout", "20s"]).await);
    let lock = app.lock_user("alice").await;
    let create = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.create("alice", "one").await })
    };
    let delete = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.delete_user("alice").await })
    };
    let (mut created, mut deleted);
    if token_first {
        created = create();
        still_waits(&mut created).await;
        deleted = delete();
        still_waits(&mut deleted).await;
    } else {
        deleted = delete();
        still_waits(&mut deleted).await;
        created = create();
        still_waits(&mut created).await;
    }
    lock.release().await;
    soon("the deletion", deleted).await.unwrap();
    match soon("the creation", created).await.unwrap() {
        Ok(token) => {
            assert!(token_first);
            assert_eq!(app.validate(&token.secret).await, Err(Reason::UserDeleted));
        }
        Err(refused) => {
            assert!(!token_first);
            assert_eq!(reason(&refused), "USER_DELETED");
        }
    }
    let good = "tokens JOIN users USING (user_id) WHERE revoked_at IS NULL AND deleted_at IS NULL";
    assert_eq!(app.count(good).await, 0);
}

/// Gives the call the time in which it certainly requests the lock.
async fn still_waits<T>(call: &mut tokio::task::JoinHandle<T>) {
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
}
