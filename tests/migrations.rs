use std::process::{Command, Stdio};

use ::latchkey::proto::latchkey::invalid::Reason;
use latchkey_migrations::{Migrator, MigratorTrait as _};
use rstest_reuse::apply;
use sea_orm::{ConnectionTrait as _, DatabaseConnection};
use tonic::Code;

use crate::support::{
    App, Database, database,
    latchkey::{self, FAILURE},
    on_both_databases,
};

fn migrate(url: &str) -> Command {
    let mut command = latchkey::command();
    command.args(["migrate", "--database-url", url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[apply(on_both_databases)]
#[tokio::test]
async fn many_processes_can_migrate_one_database_at_once(database: Database) {
    let (url, folder) = database.create().await;
    const PROCESSES: usize = 6;
    let processes: Vec<_> = (0..PROCESSES).map(|_| migrate(&url).spawn().unwrap()).collect();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let app = App::start_on(url, folder, &[]).await;
    app.issue("alice", "one").await;
    assert_eq!(app.count("seaql_migrations").await, 1);
}

/// Connects to a database, and creates its file if there is none.
async fn connect(url: &str) -> DatabaseConnection {
    let url = match Database::of(url) {
        Database::Sqlite => format!("{url}?mode=rwc"),
        Database::Postgres => url.to_owned(),
    };
    database::connect(url).await
}

/// Creates, uses and deletes a token, and deletes an account.
async fn everything_works(app: &App, user: &str) {
    let (id, one) = app.issue(user, "one").await;
    let (_, two) = app.issue(user, "two").await;
    assert_eq!(app.names(user).await, ["two", "one"]);
    app.validate(&one).await.unwrap();
    app.validate(&two).await.unwrap();
    app.server.registry().flush_last_used().await.unwrap();
    assert!(app.page(user, 0, "").await.unwrap().tokens.iter().all(|token| token.last_used_time.is_some()));
    app.delete(user, &id).await.unwrap();
    assert_eq!(app.validate(&one).await, Err(Reason::Revoked));
    app.delete_user(user).await;
    assert_eq!(app.validate(&two).await, Err(Reason::UserDeleted));
    assert_eq!(app.create(user, "three").await.unwrap_err().code(), Code::FailedPrecondition);
}

/// What a later migration may do: see docs/decisions/0011.
const LATER_MIGRATION: [&str; 7] = [
    "ALTER TABLE users ADD COLUMN later text",
    "ALTER TABLE tokens ADD COLUMN later text",
    "ALTER TABLE tokens ADD COLUMN counted bigint NOT NULL DEFAULT 0",
    "ALTER TABLE token_events ADD COLUMN later text",
    "CREATE TABLE later (id bigint PRIMARY KEY)",
    "CREATE INDEX later_index ON tokens (created_at)",
    "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000001_later', 0)",
];

/// During an upgrade old replicas run, and are restarted, next to new ones.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_database_with_later_migrations_is_served(database: Database) {
    let app = App::start(database).await;
    let kept = app.issue("alice", "one").await.1;
    // The database has prepared every statement before the migration.
    everything_works(&app, "bob").await;
    for sql in LATER_MIGRATION {
        app.sql(sql).await;
    }
    everything_works(&app, "carol").await;
    let app = app.restart(&[]).await;
    everything_works(&app, "dave").await;
    app.validate(&kept).await.unwrap();
    let output = migrate(&app.url).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(app.names("alice").await, ["one"]);
    assert_eq!(app.count("seaql_migrations").await, Migrator::migrations().len() as i64 + 1);
}

/// There is one migration so far: the only earlier state is the empty database.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_start_migrates_from_every_earlier_state(database: Database) {
    for steps in 0..Migrator::migrations().len() {
        let (url, folder) = database.create().await;
        let connection = connect(&url).await;
        Migrator::up(&connection, Some(u32::try_from(steps).unwrap())).await.unwrap();
        connection.close().await.unwrap();
        let app = App::start_on(url, folder, &[]).await;
        everything_works(&app, "alice").await;
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_migration_that_fails_changes_nothing(database: Database) {
    let (url, _folder) = database.create().await;
    let connection = connect(&url).await;
    connection.execute_unprepared("CREATE TABLE token_events (id int)").await.unwrap();
    let output = migrate(&url).output().unwrap();
    assert_eq!(output.status.code(), Some(FAILURE));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("token_events"), "{said}");
    connection.execute_unprepared("DROP TABLE token_events").await.unwrap();
    for table in ["users", "tokens", "seaql_migrations"] {
        connection.execute_unprepared(&format!("CREATE TABLE {table} (id int)")).await.unwrap();
    }
}
