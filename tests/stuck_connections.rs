use std::time::{Duration, Instant};

use rstest::rstest;
use sea_orm::ConnectionTrait as _;
use tokio::task::JoinSet;

use crate::support::{
    App,
    Database::Postgres,
    database::connect,
    postgres::{self, Options},
    proxy::Proxy,
    until,
};

/// While its standby is away, a COMMIT waits for ever, also when nobody waits for it any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_wait_for_an_absent_standby_do_not_pile_up() {
    const CALLERS: usize = 16;
    let postgres =
        postgres::Postgres::start_with(&Options { settings: &["max_connections=60"], ..Default::default() });
    let url = postgres.create_database().await;
    let settings =
        ["--max-staleness", "3s", "--database-timeout", "500ms", "--max-creations-per-caller", "100000"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let admin = connect(postgres.url("postgres")).await;
    let other = postgres.create_database().await;
    app.issue("before", "one").await;
    postgres.wait_for_standby("absent").await;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let client = app.client.clone();
        callers.spawn(async move {
            for round in 0.. {
                // Each is refused at once, or in time, or is cut off by the test.
                let _ = client.try_issue(&format!("user {caller} {round}"), "token").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(10) {
        let statement = "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let statement = sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, statement);
        let row = admin.query_one_raw(statement).await.unwrap().unwrap();
        most = most.max(row.try_get::<i64>("", "n").unwrap());
        // Another database of the cluster has connections left.
        connect(&other).await.close().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    callers.abort_all();
    assert!(most > 0, "or the test proves nothing");
    assert!(most <= 12, "{most} backends waited at once");
    postgres.wait_for_standby("").await;
    let back = Instant::now();
    until("a creation", || async { app.try_issue("after", "one").await.ok() }).await;
    assert!(back.elapsed() < Duration::from_secs(1), "{:?}", back.elapsed());
}

/// One connection that died without a word costs no validation: the next statement has another one, in time.
#[rstest]
#[case::renewals("UPDATE replica_states")]
#[case::reads_of_the_log("clock_timestamp()")]
#[case::reads_of_the_replicas("CROSS JOIN LATERAL (SELECT * FROM replica_states")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_silently_dead_costs_no_answer(#[case] statement: &'static str) {
    let other = App::start(Postgres).await;
    let (proxy, app) = Proxy::before(&other, &["--database-timeout", "30s"]).await;
    let (_, secret) = app.issue("alice", "kept").await;
    // So that it has sent each statement.
    let (id, _) = app.issue("alice", "first").await;
    app.delete("alice", &id).await.unwrap();
    assert!(proxy.silence_senders_of(statement) > 0, "no connection has sent {statement:?}");
    let began = Instant::now();
    // Longer than a lease.
    while began.elapsed() < Duration::from_secs(8) {
        app.validate(&secret).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (id, _) = app.issue("alice", "second").await;
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
}

/// What is acknowledged has reached the standby, whatever the role that the service logs in as has been given.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_does_not_wait_for_standbys_acknowledges_nothing_that_they_lack() {
    let postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let admin = connect(&url).await;
    admin.execute_unprepared("ALTER ROLE postgres SET synchronous_commit = off").await.unwrap();
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--max-staleness", "3s"]).await;
    let (id, _) = app.issue("alice", "one").await;
    postgres.wait_for_standby("absent").await;
    app.create("alice", "two").await.unwrap_err();
    app.delete("alice", &id).await.unwrap_err();
}
