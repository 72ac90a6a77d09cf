use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rstest::rstest;

use crate::{
    metrics::{scrape, value},
    support::{
        App,
        Database::{self, Postgres, Sqlite},
        health::is_serving,
        http, postgres, soon, until,
    },
};

async fn ask(app: &App, path: &str) -> (u16, String) {
    let (status, _, body) = http::send(app.server.http_addr(), path, &[], b"").await;
    (status, body)
}

async fn becomes(app: &App, status: u16) -> String {
    until("the readiness", || async {
        let (now, body) = ask(app, "GET /readyz").await;
        (now == status).then_some(body)
    })
    .await
}

/// Whatever becomes of the database, it is alive: by HTTP and by gRPC.
async fn is_alive(app: &App) {
    assert_eq!(ask(app, "GET /livez").await.0, 200);
    assert!(is_serving(app, latchkey::grpc::LIVENESS).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_away_it_is_alive_and_not_ready() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let settings = ["--database-timeout", "500ms"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    assert_eq!(ask(&app, "GET /readyz").await, (200, "ready\n".to_owned()));
    postgres.stop();
    let reason = becomes(&app, 503).await;
    assert!(reason.contains("the database"), "{reason}");
    is_alive(&app).await;
    until("a lag of the revocations", || async {
        (value(&scrape(&app).await, "latchkey_revocation_tail_lag_seconds") > 1.0).then_some(())
    })
    .await;
    postgres.resume();
    becomes(&app, 200).await;
}

/// All connections wait for a lock; the database is well, and memory answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_its_connections_in_use_it_is_ready() {
    let app = Arc::new(App::start_with(Postgres, &["--database-connections", "2"]).await);
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
    let used = "latchkey_database_connections{pool=\"main\",state=\"used\"}";
    until("no connection to spare", || async { (value(&scrape(&app).await, used) == 2.0).then_some(()) })
        .await;
    // For longer than a sign of life may take.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(ask(&app, "GET /readyz").await.0, 200);
        app.validate(&secret).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lock.release().await;
    for call in calls {
        soon("a creation", call).await.unwrap().unwrap();
    }
}

#[rstest]
#[tokio::test]
async fn behind_with_its_migrations_it_is_alive_and_not_ready(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start(database).await;
    app.sql("ALTER TABLE seaql_migrations RENAME TO elsewhere").await;
    let reason = becomes(&app, 503).await;
    assert!(reason.contains("lacks migrations: run `latchkey migrate`"), "{reason}");
    assert!(!is_serving(&app, "latchkey.v1.TokenService").await);
    is_alive(&app).await;
    app.sql("ALTER TABLE elsewhere RENAME TO seaql_migrations").await;
    becomes(&app, 200).await;
    app.sql("DELETE FROM seaql_migrations").await;
    becomes(&app, 503).await;
}
