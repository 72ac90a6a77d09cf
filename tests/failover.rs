use std::time::Duration;

use latchkey::proto::latchkey::invalid::Reason;
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection};
use tonic::Code;

use crate::support::{
    App,
    postgres::{Options, Postgres},
    proxy::Proxy,
    standby::Standby,
    until,
};

async fn connect(url: &str) -> DatabaseConnection {
    Database::connect(url).await.unwrap()
}

/// A standby may lack revocations, however up to date it claims to be, so nothing is answered from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_never_read() {
    let primary = Postgres::start_with(&Options { settings: &["wal_level=replica"], ..Default::default() });
    let url = primary.create_database().await;
    let app = App::start_on(url.clone(), tempfile::tempdir().unwrap(), &[]).await;
    let (id, secret) = app.issue("alice", "one").await;
    let standby = Standby::of(&primary);
    let paused = connect(&standby.url(&url)).await;
    paused.execute_unprepared("SELECT pg_wal_replay_pause()").await.unwrap();

    let replica = App::start_on(standby.url(&url), tempfile::tempdir().unwrap(), &[]).await;
    assert_eq!(replica.try_validate(&secret, &[]).await.unwrap_err().code(), Code::Unavailable);
    app.delete("alice", &id).await.unwrap();
    for _ in 0..20 {
        assert_eq!(replica.try_validate(&secret, &[]).await.unwrap_err().code(), Code::Unavailable);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (status, body) = replica.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(body.contains("in recovery"), "{body}");
}

/// Commits that a failover lost are not answered from memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_commits_empties_the_memory() {
    let mut primary =
        Postgres::start_with(&Options { settings: &["wal_level=replica"], ..Default::default() });
    let url = primary.create_database().await;
    let proxy = Proxy::to(primary.port()).await;
    let through = format!("postgres://postgres@{}/{}", proxy.addr, url.rsplit('/').next().unwrap());
    let app = App::start_on(through, tempfile::tempdir().unwrap(), &["--database-timeout", "1s"]).await;
    let (_, kept) = app.issue("alice", "kept").await;
    let standby = Standby::of(&primary);
    standby.cut_off().await;
    let (_, lost) = app.issue("alice", "lost").await;
    app.validate(&kept).await.unwrap();
    app.validate(&lost).await.unwrap();

    primary.stop();
    standby.promote().await;
    proxy.redirect_to(standby.port);
    // It is valid from memory until the service sees the new primary.
    let reason = until("an answer from the new primary", || async {
        app.try_validate(&lost, &[]).await.ok().and_then(Result::err)
    })
    .await;
    assert_eq!(reason, Reason::Unknown);
    app.validate(&kept).await.unwrap();
}
