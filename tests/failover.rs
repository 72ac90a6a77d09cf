use std::time::{Duration, Instant};

use latchkey::proto::latchkey::{DeleteTokenRequest, invalid::Reason};
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tonic::Code;

use crate::support::{
    App,
    database::connect,
    postgres::{Options, Postgres},
    proxy::Proxy,
    standby::Standby,
    until,
};

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

/// Stops the standby from receiving what the primary commits.
async fn detach(standby: &DatabaseConnection) {
    standby.execute_unprepared("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    standby.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
    let receivers = "SELECT FROM pg_stat_wal_receiver";
    until("the end of replication", || async {
        let rows =
            standby.query_all_raw(sea_orm::Statement::from_string(sea_orm::DbBackend::Postgres, receivers));
        rows.await.unwrap().is_empty().then_some(())
    })
    .await;
}

/// A replica whose registration the failover lost still has a lease with the old primary, which can be read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_waits_for_a_replica_whose_row_the_failover_lost() {
    let primary = Postgres::start_with(&Options { settings: &["wal_level=replica"], ..Default::default() });
    let url = primary.create_database().await;
    let on_primary = connect(&url).await;
    on_primary.execute_unprepared("CREATE ROLE moved SUPERUSER LOGIN").await.unwrap();
    let proxy = Proxy::to(primary.port()).await;
    let through = proxy.url_of(&url).replace("postgres@", "moved@");
    let settings = ["--max-staleness", "3s", "--database-timeout", "1s"];
    let app = App::start_on(through, tempfile::tempdir().unwrap(), &settings).await;
    let (id, secret) = app.issue("alice", "one").await;
    let standby = Standby::of(&primary);
    let on_standby = connect(&standby.url(&url)).await;
    detach(&on_standby).await;
    let left_behind = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    left_behind.validate(&secret).await.unwrap();

    // From here on the old primary can be read but not written to.
    on_primary.execute_unprepared("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    on_primary.execute_unprepared("SELECT pg_reload_conf()").await.unwrap();
    on_standby.execute_unprepared("SELECT pg_promote()").await.unwrap();
    proxy.redirect_to(standby.port);
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'moved'";
    on_primary.execute_unprepared(cut).await.unwrap();
    until("a deletion on the new primary", || async {
        let (user_id, token_id) = ("alice".into(), id.clone());
        let request = DeleteTokenRequest { user_id, token_id, allow_missing: true };
        app.tokens().delete_token(request).await.ok()
    })
    .await;
    let answer = left_behind.try_validate(&secret, &[]).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
}

/// After a crash PostgreSQL may assign ids of transactions again, by which replicas follow the revocation log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_the_database_empties_the_memory() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    postgres.stop();
    postgres.resume();
    until("an answer from the database", || async {
        let token = app.try_validate(&secret, &[]).await.ok()?.unwrap();
        (token.name == "changed").then_some(())
    })
    .await;
}

/// Commits that a failover lost are not answered from memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_lost_commits_empties_the_memory() {
    let mut primary =
        Postgres::start_with(&Options { settings: &["wal_level=replica"], ..Default::default() });
    let url = primary.create_database().await;
    let proxy = Proxy::to(primary.port()).await;
    let through = proxy.url_of(&url);
    let app = App::start_on(through, tempfile::tempdir().unwrap(), &["--database-timeout", "1s"]).await;
    let (_, kept) = app.issue("alice", "kept").await;
    let standby = Standby::of(&primary);
    let admin = connect(&standby.url(&url)).await;
    detach(&admin).await;
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

/// A replica that still reads the replaced primary, whose commits wait for the standby that has taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_on_the_replaced_primary_says_nothing_of_what_happened_since() {
    let primary = Postgres::start_with(&Options { settings: &["wal_level=replica"], ..Default::default() });
    let url = primary.create_database().await;
    let settings = ["--max-staleness", "3s", "--database-timeout", "1s"];
    let left_behind = App::start_on(url.clone(), tempfile::tempdir().unwrap(), &settings).await;
    let (kept_id, kept) = left_behind.issue("alice", "kept").await;
    let standby = Standby::of(&primary);
    primary.wait_for_standby("walreceiver").await;
    left_behind.validate(&kept).await.unwrap();
    standby.promote().await;
    let moved = App::start_on(standby.url(&url), tempfile::tempdir().unwrap(), &settings).await;
    let (id, secret) = until("a creation", || async { moved.try_issue("bob", "new").await.ok() }).await;
    let created = Instant::now();
    moved.validate(&secret).await.unwrap();
    // Until its lease would be over, if it still had one.
    while created.elapsed() < Duration::from_secs(4) {
        // It cannot know.
        if let Ok(verdict) = left_behind.try_validate(&secret, &[]).await {
            panic!("{verdict:?} for a live token");
        }
        assert_eq!(left_behind.revoke_as_holder(&secret).await, Some(503));
        let (user_id, token_id) = ("bob".to_owned(), id.clone());
        let request = DeleteTokenRequest { user_id, token_id, allow_missing: true };
        let answer = left_behind.tokens().delete_token(request).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unavailable);
    }
    for status in [
        left_behind.page("bob", 0, "").await.unwrap_err(),
        left_behind.create("bob", "newer").await.unwrap_err(),
        left_behind.delete("alice", &kept_id).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    moved.validate(&secret).await.unwrap();
}
