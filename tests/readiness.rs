use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use latchkey::grpc::{LIVENESS, TOKEN_SERVICE};
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Postgres},
    on_both_databases, postgres, soon, until,
};

/// Waits until `/readyz` has this status, and returns its body.
async fn becomes(app: &App, expected: u16) -> String {
    until("the readiness", || async {
        let (status, body) = app.get("/readyz").await;
        (status == expected).then_some(body)
    })
    .await
}

/// Checks that the service is alive, over HTTP and over gRPC.
async fn is_alive(app: &App) {
    assert_eq!(app.get("/livez").await.0, 200);
    assert!(app.is_serving(LIVENESS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_service_is_alive_and_not_ready() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let settings = ["--database-timeout", "500ms"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    assert_eq!(app.get("/readyz").await, (200, "ready\n".to_owned()));
    postgres.stop();
    let reason = becomes(&app, 503).await;
    assert!(reason.contains("the database"), "{reason}");
    is_alive(&app).await;
    until("a lag of the revocations", || async {
        (app.metric("latchkey_revocation_tail_lag_seconds").await > 1.0).then_some(())
    })
    .await;
    postgres.resume();
    becomes(&app, 200).await;
}

/// All connections wait for a lock, but the database works and cached tokens validate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_all_connections_in_use_the_service_is_ready() {
    let app = Arc::new(App::start_with(Postgres, &["--database-connections", "4"]).await);
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    let lock = app.lock_user("alice").await;
    let calls: Vec<_> = ["two", "three", "four"]
        .into_iter()
        .map(|name| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.create("alice", name).await })
        })
        .collect();
    // Half of the four connections; lookups have the others.
    let used = "latchkey_database_connections{pool=\"main\",state=\"used\"}";
    app.metric_becomes(used, 2.0).await;
    // Longer than a ping of the database may take.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert!(app.is_ready().await);
        app.validate(&secret).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lock.release().await;
    for call in calls {
        soon("a creation", call).await.unwrap().unwrap();
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn with_an_outdated_schema_the_service_is_alive_and_not_ready(database: Database) {
    let app = App::start(database).await;
    app.sql("ALTER TABLE seaql_migrations RENAME TO elsewhere").await;
    let reason = becomes(&app, 503).await;
    assert!(reason.contains("lacks migrations: run `latchkey migrate`"), "{reason}");
    assert!(!app.is_serving(TOKEN_SERVICE).await);
    is_alive(&app).await;
    app.sql("ALTER TABLE elsewhere RENAME TO seaql_migrations").await;
    becomes(&app, 200).await;
    app.sql("DELETE FROM seaql_migrations").await;
    becomes(&app, 503).await;
}
