use std::sync::Arc;

use chrono::TimeDelta;
use latchkey::proto::latchkey::{CreateTokenRequest, invalid::Reason};
use prost_types::Timestamp;
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres},
    app::{START_SECONDS, manual_clock},
    bearer_token::forge,
    client::create_request,
    on_both_databases, soon,
    status::has_retry_delay,
    until,
};

/// Locks the table of tokens, so that every query of it waits (PostgreSQL).
async fn lock_tokens(app: &App) -> sea_orm::DatabaseConnection {
    let connection = app.database().await;
    connection.execute_unprepared("BEGIN").await.unwrap();
    connection.execute_unprepared("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE").await.unwrap();
    connection
}

/// Waits until so many queries wait for the lock.
async fn queries_waiting(app: &App, count: i64) {
    let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("waiting queries", || async { (app.count(waiting).await == count).then_some(()) }).await;
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_cached_token_is_validated_without_the_database_and_without_argon2(database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("alice", "two").await;
    app.validate(&secret).await.unwrap();
    let runs = app.argon2_runs();
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    for _ in 0..100 {
        assert_eq!(app.validate(&secret).await.unwrap().name, "one");
    }
    assert_eq!(app.validate(&forge(&secret, &other)).await, Err(Reason::Unknown), "the secret is verified");
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::MissingScope));
    assert!(app.try_validate(&other, &[]).await.is_err(), "the other token is not cached");
    assert_eq!(app.argon2_runs(), runs);
}

#[apply(on_both_databases)]
#[tokio::test]
async fn expiry_is_checked_at_each_call(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let expire_time = Timestamp { seconds: START_SECONDS + 60, nanos: 0 };
    let request = CreateTokenRequest { expire_time: Some(expire_time), ..create_request("alice", "short") };
    let secret = app.create_with(request).await.unwrap().secret;
    app.validate(&secret).await.unwrap();
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    app.clock.advance(TimeDelta::seconds(60) - TimeDelta::microseconds(1));
    app.validate(&secret).await.unwrap();
    app.clock.advance(TimeDelta::microseconds(1));
    assert_eq!(app.validate(&secret).await, Err(Reason::Expired), "from memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_misses_for_one_token_share_one_query() {
    let app = Arc::new(App::start_with(Postgres, &["--max-cold-lookups", "2"]).await);
    let (_, secret) = app.issue("alice", "one").await;
    let lock = lock_tokens(&app).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (app, secret) = (Arc::clone(&app), secret.clone());
            tokio::spawn(async move { app.validate(&secret).await })
        })
        .collect();
    queries_waiting(&app, 1).await;
    // A second query for the same token would have been made before this one.
    let other = tokio::spawn({
        let (app, unknown) = (Arc::clone(&app), forge(&secret, &"0".repeat(secret.len())));
        async move { app.validate(&unknown).await }
    });
    queries_waiting(&app, 2).await;
    lock.execute_unprepared("ROLLBACK").await.unwrap();
    for call in calls {
        assert_eq!(soon("validation", call).await.unwrap().unwrap().name, "one");
    }
    assert_eq!(
        soon("validation", other).await.unwrap(),
        Err(Reason::Unknown),
        "another secret has its own query"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_beyond_the_limit_are_refused_at_once_and_cached_tokens_still_validate() {
    let app = Arc::new(App::start_with(Postgres, &["--max-cold-lookups", "1"]).await);
    let (_, hot) = app.issue("alice", "hot").await;
    let (_, cold) = app.issue("alice", "cold").await;
    app.validate(&hot).await.unwrap();
    let lock = lock_tokens(&app).await;
    let in_flight = tokio::spawn({
        let app = Arc::clone(&app);
        let cold = cold.clone();
        async move { app.validate(&cold).await }
    });
    queries_waiting(&app, 1).await;
    let refused = app.try_validate(&forge(&cold, &hot), &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(has_retry_delay(&refused), "{refused}");
    app.validate(&hot).await.unwrap();
    lock.execute_unprepared("ROLLBACK").await.unwrap();
    soon("the lookup in flight", in_flight).await.unwrap().unwrap();
}
