use std::time::{Duration, Instant};

use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    postgres,
    proxy::Proxy,
    until,
};

#[rstest]
#[tokio::test]
async fn what_one_replica_revokes_all_refuse(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let replica = app.replica().await;
    let (id, one) = app.issue("alice", "one").await;
    let (_, two) = app.issue("bob", "two").await;
    let (_, three) = app.issue("alice", "three").await;
    for secret in [&one, &two, &three] {
        app.validate(secret).await.unwrap();
        replica.validate(secret).await.unwrap();
    }
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&one).await, Err(Reason::Revoked), "at once where it was asked for");
    replica.refuses(&one, Reason::Revoked).await;
    app.delete_user("bob").await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted), "at once where it was asked for");
    replica.refuses(&two, Reason::UserDeleted).await;
    replica.validate(&three).await.unwrap();
}

/// A transaction of the test's own that revokes a token, not yet committed.
async fn revoking(app: &App, id: &str) -> DatabaseConnection {
    let open = app.database().await;
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE tokens SET revoked_at = now(), revoke_reason = 'deleted' WHERE id = '{id}'"),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             VALUES (now(), 'token_revoked', '{id}', 'alice', 'alice')"
        ),
    ] {
        open.execute_unprepared(&sql).await.unwrap();
    }
    open
}

/// On SQLite there is one writer: no transaction can be open around another.
#[tokio::test]
async fn a_revocation_that_becomes_visible_late_is_not_missed() {
    let app = App::start(Postgres).await;
    let (early_id, early) = app.issue("alice", "early").await;
    app.validate(&early).await.unwrap();
    let open = revoking(&app, &early_id).await;
    // With greater ids, and visible first; seen by three looks into the log, one after the other.
    for name in ["late", "later", "latest"] {
        let (id, late) = app.issue("alice", name).await;
        app.validate(&late).await.unwrap();
        revoking(&app, &id).await.execute_unprepared("COMMIT").await.unwrap();
        app.refuses(&late, Reason::Revoked).await;
    }
    app.validate(&early).await.unwrap();
    open.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&early, Reason::Revoked).await;
}

/// A service that reads its log for the first time while an older transaction is open.
#[tokio::test]
async fn nor_is_one_from_before_the_start() {
    let app = App::start(Postgres).await;
    let (early_id, early) = app.issue("alice", "early").await;
    let open = revoking(&app, &early_id).await;
    app.issue("alice", "later event").await;
    let app = app.restart(&[]).await;
    app.validate(&early).await.unwrap();
    app.validate(&early).await.unwrap();
    open.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&early, Reason::Revoked).await;
}

#[rstest]
#[tokio::test]
async fn without_sight_of_them_memory_is_trusted_for_a_bounded_time(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let app = App::start_with(database, &["--max-staleness", "1s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("ALTER TABLE token_events RENAME TO elsewhere").await;
    let hidden = Instant::now();
    until("an answer of the database's", || async {
        (app.validate(&secret).await.unwrap().name == "changed").then_some(())
    })
    .await;
    assert!(hidden.elapsed() < Duration::from_secs(3), "{:?}", hidden.elapsed());
}

const STALE_SOON: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];

/// Keeps asking: valid, then UNAVAILABLE once memory is too old, and never anything else.
async fn becomes_unavailable(app: &App, secret: &str) {
    let cut = Instant::now();
    let status = until("UNAVAILABLE", || async {
        match app.try_validate(secret, &[]).await {
            Ok(verdict) => {
                verdict.unwrap();
                None
            }
            Err(status) => Some(status),
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
}

async fn resumes(app: &App, secret: &str) {
    let back = Instant::now();
    until("a valid token", || async { app.try_validate(secret, &[]).await.ok()?.ok() }).await;
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_database_stopped_nothing_is_guessed_and_service_resumes() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &STALE_SOON).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    postgres.stop();
    becomes_unavailable(&app, &secret).await;
    postgres.resume();
    resumes(&app, &secret).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_way_to_the_database_that_hangs_nothing_is_guessed_and_service_resumes() {
    let url = postgres::Postgres::shared().create_database().await;
    let (_, rest) = url.split_once("127.0.0.1:").unwrap();
    let (port, name) = rest.split_once('/').unwrap();
    let proxy = Proxy::to(port.parse().unwrap()).await;
    let url = format!("postgres://postgres@{}/{name}", proxy.addr);
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &STALE_SOON).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    proxy.swallow_requests();
    app.validate(&secret).await.unwrap();
    becomes_unavailable(&app, &secret).await;
    proxy.pass_requests();
    resumes(&app, &secret).await;
    // The connections that hung have left their pools: tokens are issued, and memory is trusted again.
    app.issue("alice", "two").await;
    app.sql("ALTER TABLE tokens RENAME TO elsewhere").await;
    resumes(&app, &secret).await;
}

#[tokio::test]
async fn a_log_that_is_shorter_than_it_was_empties_the_memory() {
    let app = App::start(Postgres).await;
    let (_, secret) = app.issue("alice", "one").await;
    let (id, seen) = app.issue("alice", "two").await;
    app.validate(&secret).await.unwrap();
    app.validate(&seen).await.unwrap();
    revoking(&app, &id).await.execute_unprepared("COMMIT").await.unwrap();
    app.refuses(&seen, Reason::Revoked).await;
    app.sql("UPDATE tokens SET name = 'restored' WHERE name = 'one'").await;
    assert_eq!(app.validate(&secret).await.unwrap().name, "one", "from memory");
    app.sql("TRUNCATE token_events").await;
    until("an answer of the database's", || async {
        (app.validate(&secret).await.unwrap().name == "restored").then_some(())
    })
    .await;
}
