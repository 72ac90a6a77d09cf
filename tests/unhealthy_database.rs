use latchkey::grpc::TOKEN_SERVICE;
use tonic::Code;

use crate::support::{App, postgres::Postgres, status::has_retry_delay, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_database_the_service_says_so_and_recovers_with_it() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let app = App::start_on(url, folder, &["--database-timeout", "500ms"]).await;
    let (id, secret) = app.issue("alice", "one").await;
    let mut token_service = app.watch_health(TOKEN_SERVICE).await;
    assert!(token_service.next().await);
    assert!(app.is_serving("").await);

    postgres.stop();
    assert!(!token_service.next().await);
    assert!(!app.is_serving("").await);
    let failures = [
        app.create("alice", "two").await.unwrap_err(),
        app.page("alice", 0, "").await.unwrap_err(),
        app.delete("alice", &id).await.unwrap_err(),
        app.try_validate(&secret, &[]).await.unwrap_err(),
    ];
    for status in failures {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(has_retry_delay(&status), "{status}");
        assert!(!status.message().contains("postgres"), "{status}");
    }

    postgres.resume();
    assert!(token_service.next().await);
    until("a validation", || async { app.try_validate(&secret, &[]).await.ok()?.ok() }).await;
    assert_eq!(app.names("alice").await, ["one"], "nothing was half done");
}
