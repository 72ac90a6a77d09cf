use std::process::{Command, Stdio};

use ::latchkey::proto::latchkey::invalid::Reason;
use latchkey_migrations::{Migrator, MigratorTrait as _};
use rstest::rstest;
use sea_orm::ConnectionTrait as _;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    latchkey, postgres,
};

fn migrate(url: &str) -> Command {
    let mut command = latchkey::command();
    command.args(["migrate", "--database-url", url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[rstest]
#[tokio::test]
async fn many_that_migrate_at_once_do_no_harm(#[values(Sqlite, Postgres)] database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let url = match database {
        Sqlite => format!("sqlite://{}", folder.path().join("test.db").display()),
        Postgres => postgres::Postgres::shared().create_database().await,
    };
    let processes: Vec<_> = (0..6).map(|_| migrate(&url).spawn().unwrap()).collect();
    for process in processes {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let app = App::start_on(url, folder, &[]).await;
    app.issue("alice", "one").await;
    assert_eq!(app.count("seaql_migrations").await, 1);
}

/// Makes a token, uses it, ends it; and ends an account.
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

/// What the next step may do: see docs/decisions/0011.
const LATER_STEP: [&str; 7] = [
    "ALTER TABLE users ADD COLUMN later text",
    "ALTER TABLE tokens ADD COLUMN later text",
    "ALTER TABLE tokens ADD COLUMN counted bigint NOT NULL DEFAULT 0",
    "ALTER TABLE token_events ADD COLUMN later text",
    "CREATE TABLE later (id bigint PRIMARY KEY)",
    "CREATE INDEX later_index ON tokens (created_at)",
    "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000001_later', 0)",
];

/// Old replicas run beside new ones, and are restarted beside them.
#[rstest]
#[tokio::test]
async fn a_database_that_is_ahead_is_served(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let kept = app.issue("alice", "one").await.1;
    // With statements that the database knows already, from before the step.
    everything_works(&app, "bob").await;
    for sql in LATER_STEP {
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

/// With one step so far, the only state before the newest is the empty database.
#[rstest]
#[tokio::test]
async fn from_every_earlier_state_a_start_brings_it_up_to_date(
    #[values(Sqlite, Postgres)] database: Database,
) {
    for steps in 0..Migrator::migrations().len() {
        let folder = tempfile::tempdir().unwrap();
        let url = match database {
            Sqlite => format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display()),
            Postgres => postgres::Postgres::shared().create_database().await,
        };
        let connection = sea_orm::Database::connect(&url).await.unwrap();
        Migrator::up(&connection, Some(u32::try_from(steps).unwrap())).await.unwrap();
        connection.close().await.unwrap();
        let app = App::start_on(url, folder, &[]).await;
        everything_works(&app, "alice").await;
    }
}

#[rstest]
#[tokio::test]
async fn a_step_that_fails_changes_nothing(#[values(Sqlite, Postgres)] database: Database) {
    let folder = tempfile::tempdir().unwrap();
    let url = match database {
        Sqlite => format!("sqlite://{}?mode=rwc", folder.path().join("test.db").display()),
        Postgres => postgres::Postgres::shared().create_database().await,
    };
    let connection = sea_orm::Database::connect(&url).await.unwrap();
    connection.execute_unprepared("CREATE TABLE token_events (id int)").await.unwrap();
    let output = migrate(&url).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("token_events"), "{said}");
    connection.execute_unprepared("DROP TABLE token_events").await.unwrap();
    for table in ["users", "tokens", "seaql_migrations"] {
        connection.execute_unprepared(&format!("CREATE TABLE {table} (id int)")).await.unwrap();
    }
}
