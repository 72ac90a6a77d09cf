use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta};
use latchkey::{
    clock::Clock,
    proto::latchkey::{CreateTokenRequest, invalid::Reason},
};
use prost_types::Timestamp;
use rstest::rstest;
use sea_orm::ConnectionTrait as _;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    details,
    forge::forge,
    soon, until,
};

/// Makes every question about tokens wait, on PostgreSQL.
async fn lock_tokens(app: &App) -> sea_orm::DatabaseConnection {
    let connection = app.database().await;
    connection.execute_unprepared("BEGIN").await.unwrap();
    connection.execute_unprepared("LOCK TABLE tokens IN ACCESS EXCLUSIVE MODE").await.unwrap();
    connection
}

/// Waits until so many questions about tokens wait for the lock.
async fn questions_waiting(app: &App, count: i64) {
    let waiting = "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("waiting questions", || async { (app.count(waiting).await == count).then_some(()) }).await;
}

#[rstest]
#[tokio::test]
async fn it_touches_no_table_of_tokens(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("alice", "two").await;
    app.validate(&secret).await.unwrap();
    let runs = app.server.registry().argon2_runs();
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    for _ in 0..100 {
        assert_eq!(app.validate(&secret).await.unwrap().name, "one");
    }
    assert_eq!(app.validate(&forge(&secret, &other)).await, Err(Reason::Unknown), "the secret is compared");
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::MissingScope));
    assert!(app.try_validate(&other, &[]).await.is_err(), "it was not in memory");
    assert_eq!(app.server.registry().argon2_runs(), runs);
}

#[rstest]
#[tokio::test]
async fn expiry_is_judged_at_each_call(#[values(Sqlite, Postgres)] database: Database) {
    let clock = Clock::manual(DateTime::from_timestamp(2_000_000_000, 0).unwrap());
    let app = App::start_with_clock(database, clock.clone()).await;
    let expires = Timestamp { seconds: 2_000_000_060, nanos: 0 };
    let request = CreateTokenRequest {
        user_id: "alice".into(),
        name: "short".into(),
        scopes: Vec::new(),
        expire_time: Some(expires),
    };
    let secret = app.create_with(request).await.unwrap().secret;
    app.validate(&secret).await.unwrap();
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    clock.advance(TimeDelta::microseconds(59_999_999));
    app.validate(&secret).await.unwrap();
    clock.advance(TimeDelta::microseconds(1));
    assert_eq!(app.validate(&secret).await, Err(Reason::Expired), "from memory");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_for_one_token_are_one_question() {
    let app = Arc::new(App::start_with(Postgres, &["--max-cold-lookups", "2"]).await);
    let (_, secret) = app.issue("alice", "one").await;
    let lock = lock_tokens(&app).await;
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (app, secret) = (Arc::clone(&app), secret.clone());
            tokio::spawn(async move { app.validate(&secret).await })
        })
        .collect();
    questions_waiting(&app, 1).await;
    // A second question would have come by the time at which another token's has.
    let (app2, other) = (Arc::clone(&app), forge(&secret, &"0".repeat(76)));
    let other = tokio::spawn(async move { app2.validate(&other).await });
    questions_waiting(&app, 2).await;
    lock.execute_unprepared("ROLLBACK").await.unwrap();
    for call in calls {
        assert_eq!(soon("validation", call).await.unwrap().unwrap().name, "one");
    }
    assert_eq!(
        soon("validation", other).await.unwrap(),
        Err(Reason::Unknown),
        "it has a question of its own"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_beyond_the_limit_are_told_at_once_while_memory_goes_on_answering() {
    let app = Arc::new(App::start_with(Postgres, &["--max-cold-lookups", "1"]).await);
    let (_, hot) = app.issue("alice", "hot").await;
    let (_, cold) = app.issue("alice", "cold").await;
    app.validate(&hot).await.unwrap();
    let lock = lock_tokens(&app).await;
    let under_way = tokio::spawn({
        let app = Arc::clone(&app);
        let cold = cold.clone();
        async move { app.validate(&cold).await }
    });
    questions_waiting(&app, 1).await;
    let refused = app.try_validate(&forge(&cold, &hot), &[]).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(details(&refused).retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
    app.validate(&hot).await.unwrap();
    lock.execute_unprepared("ROLLBACK").await.unwrap();
    soon("the lookup under way", under_way).await.unwrap().unwrap();
}
