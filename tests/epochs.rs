use std::time::Duration;

use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DatabaseConnection, DbBackend, Statement};

use crate::support::{
    App,
    Database::Postgres,
    database::{SOME_TIME, connect},
    latchkey::run,
    postgres::{self, Options},
    proxy::Proxy,
    until,
};

async fn text(database: &DatabaseConnection, sql: &str) -> String {
    let row = database.query_one_raw(Statement::from_string(DbBackend::Postgres, sql)).await.unwrap();
    row.unwrap().try_get_by_index(0).unwrap()
}

/// Uses up ids of transactions: each begins, gets one and aborts, and nothing of it is flushed.
async fn burn_ids(database: &DatabaseConnection, count: usize) {
    for _ in 0..count {
        database.execute_unprepared("BEGIN").await.unwrap();
        database.execute_unprepared("SELECT pg_current_xact_id()").await.unwrap();
        database.execute_unprepared("ROLLBACK").await.unwrap();
    }
}

/// Creates the tables, so that the one of the epoch survives a crash or does not, and returns a connection.
async fn migrated(url: &str, survives: bool) -> DatabaseConnection {
    assert!(run(["migrate", "--database-url", url], "").status.success());
    let database = connect(url).await;
    if survives {
        // Which writes another file, of the same epoch.
        for sql in ["ALTER TABLE epoch SET LOGGED", "UPDATE epoch SET file = pg_relation_filepath('epoch')"] {
            database.execute_unprepared(sql).await.unwrap();
        }
    }
    database
}

/// Some services keep unlogged tables through a crash. The ids of transactions that were not flushed are used again, below
/// those that a replica has read.
#[rstest]
#[case::logged(true)]
#[case::unlogged(false)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_which_ids_are_used_again_hides_no_revocation(#[case] survives: bool) {
    const BURNT: usize = 50;
    let settings = ["wal_writer_delay=10s", "autovacuum=off"];
    let postgres = postgres::Postgres::start_with(&Options { settings: &settings, ..Default::default() });
    let url = postgres.create_database().await;
    let before = migrated(&url, survives).await;
    let proxy = Proxy::to(postgres.port()).await;
    let through = proxy.url_of(&url);
    // It renews so rarely that no renewal of its flushes the ids.
    let app = App::start_on(through, tempfile::tempdir().unwrap(), &["--max-staleness", "60s"]).await;
    let (id, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    let epoch = text(&before, "SELECT id::text FROM epoch").await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    burn_ids(&before, BURNT).await;
    let xmax = text(&before, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text").await;
    // It reads the log, and so the ids.
    tokio::time::sleep(Duration::from_millis(500)).await;
    proxy.cut();
    let process = text(&before, "SELECT pg_backend_pid()::text").await;
    assert!(std::process::Command::new("kill").args(["-s", "KILL", &process]).status().unwrap().success());
    let after = until("the restart", || async {
        let mut options = sea_orm::ConnectOptions::new(&url);
        options.max_connections(1).sqlx_logging(false);
        let database = sea_orm::Database::connect(options).await.ok()?;
        database.execute_unprepared("SELECT FROM tokens LIMIT 1").await.ok().map(|_| database)
    })
    .await;
    for sql in [
        "BEGIN".to_owned(),
        format!("UPDATE tokens SET revoked_at = {SOME_TIME}, revoke_reason = 'deleted' WHERE id = '{id}'"),
        format!(
            "INSERT INTO token_events (at, kind, token_id, user_id, actor) \
             VALUES ({SOME_TIME}, 'token_revoked', '{id}', 'alice', 'alice')"
        ),
        "COMMIT".to_owned(),
    ] {
        after.execute_unprepared(&sql).await.unwrap();
    }
    let xid: u64 =
        text(&after, "SELECT max(xid::text::bigint)::text FROM token_events").await.parse().unwrap();
    assert!(xid < xmax.parse().unwrap(), "an id was used again");
    burn_ids(&after, 2 * BURNT).await;
    if survives {
        assert_eq!(text(&after, "SELECT id::text FROM epoch").await, epoch, "the table survived");
    }
    proxy.pass_requests();
    until("a refusal", || async { app.try_validate(&secret, &[]).await.ok()?.err() }).await;
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
}

/// Also when nothing empties the table: the next start of the server, whichever server it is, has another time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_start_of_the_server_begins_an_epoch_even_if_the_table_survives() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    migrated(&url, true).await;
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--max-staleness", "60s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    let mut epochs = app.server.registry().epochs();
    let epoch = *epochs.borrow_and_update();
    app.sql("UPDATE tokens SET name = 'changed'").await;
    app.sql("CHECKPOINT").await;
    postgres.stop();
    postgres.resume();
    until("another epoch", || async {
        let now = *app.server.registry().epochs().borrow();
        (now.is_some() && now != epoch).then_some(())
    })
    .await;
    until("an answer from the database", || async {
        let token = app.try_validate(&secret, &[]).await.ok()?.unwrap();
        (token.name == "changed").then_some(())
    })
    .await;
}

/// A copy beside the original has a history of its own from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_database_is_of_another_epoch() {
    let postgres = postgres::Postgres::shared();
    let app = App::start(Postgres).await;
    let epoch = *app.server.registry().epochs().borrow();
    let original = app.url.rsplit('/').next().unwrap().to_owned();
    app.server.stopper().cancel();
    app.server.ended().await.unwrap();
    let admin = connect(postgres.url("postgres")).await;
    let copy = format!("copy_of_{original}");
    until("the copy", || async {
        admin.execute_unprepared(&format!("CREATE DATABASE {copy} TEMPLATE {original}")).await.ok()
    })
    .await;
    let [again, copied] = [
        App::start_on(postgres.url(&original), tempfile::tempdir().unwrap(), &[]).await,
        App::start_on(postgres.url(&copy), tempfile::tempdir().unwrap(), &[]).await,
    ]
    .map(|app| *app.server.registry().epochs().borrow());
    assert_eq!(again, epoch);
    assert!(copied.is_some() && copied != epoch);
}
