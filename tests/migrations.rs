use std::process::{Command, Stdio};

use rstest::rstest;
use sea_orm::ConnectionTrait as _;

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

/// An older version that starts while a newer one runs leaves the newer schema alone.
#[rstest]
#[tokio::test]
async fn a_database_that_is_ahead_is_served(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    app.issue("alice", "one").await;
    app.sql("INSERT INTO seaql_migrations (version, applied_at) VALUES ('m29990101_000001_later', 0)").await;
    let app = app.restart(&[]).await;
    assert_eq!(app.names("alice").await, ["one"]);
    assert_eq!(app.count("seaql_migrations").await, 2);
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
