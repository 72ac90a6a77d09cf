use std::time::Duration;

use tonic::Code;

use crate::support::{
    App, details,
    health::{is_serving, watch},
    postgres::Postgres,
    soon, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_away_the_service_says_so_and_recovers() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let app = App::start_on(url, folder, &["--database-timeout", "500ms"]).await;
    let (id, secret) = app.issue("alice", "one").await;
    let mut token_service = watch(&app, "latchkey.v1.TokenService").await;
    assert!(soon("health", token_service.next()).await);
    assert!(is_serving(&app, "").await);

    postgres.stop();
    assert!(!soon("NOT_SERVING", token_service.next()).await);
    assert!(!is_serving(&app, "").await);
    let failures = [
        app.create("alice", "two").await.unwrap_err(),
        app.page("alice", 0, "").await.unwrap_err(),
        app.delete("alice", &id).await.unwrap_err(),
        app.try_validate(&secret, &[]).await.unwrap_err(),
    ];
    for status in failures {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(details(&status).retry_info().unwrap().retry_delay.unwrap() > Duration::ZERO);
        assert!(!status.message().contains("postgres"), "{status}");
    }

    postgres.resume();
    assert!(soon("SERVING", token_service.next()).await);
    until("a validation", || async { app.try_validate(&secret, &[]).await.ok()?.ok() }).await;
    assert_eq!(app.names("alice").await, ["one"], "nothing was half done");
}
