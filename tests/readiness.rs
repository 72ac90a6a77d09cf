use rstest::rstest;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    health::is_serving,
    http, postgres, until,
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
    postgres.resume();
    becomes(&app, 200).await;
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
