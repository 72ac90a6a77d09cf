use std::time::SystemTime;

use rstest::rstest;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    until,
};

#[rstest]
#[tokio::test]
async fn it_is_noted_in_time_and_at_the_stop(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start_with(database, &["--last-used-interval", "1s"]).await;
    let (_, used) = app.issue("alice", "used").await;
    app.issue("alice", "unused").await;
    let before = SystemTime::now();
    app.validate(&used).await.unwrap();
    let noted = until("a note of the use", || async {
        let page = app.page("alice", 0, "").await.unwrap();
        assert_eq!(page.tokens[0].last_used_time, None);
        page.tokens[1].last_used_time
    })
    .await;
    let noted_at = SystemTime::try_from(noted).unwrap();
    assert!(noted_at + std::time::Duration::from_micros(1) > before && noted_at <= SystemTime::now());

    let app = app.restart(&["--last-used-interval", "1h"]).await;
    app.validate(&used).await.unwrap();
    let app = app.restart(&[]).await;
    let again = app.page("alice", 0, "").await.unwrap().tokens[1].last_used_time.unwrap();
    assert!((again.seconds, again.nanos) > (noted.seconds, noted.nanos), "the stop wrote it down");
}

#[rstest]
#[tokio::test]
async fn it_never_goes_back(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.sql("UPDATE tokens SET last_used_at = '2999-01-01 00:00:00+00:00'").await;
    app.validate(&secret).await.unwrap();
    let app = app.restart(&[]).await;
    let noted = app.page("alice", 0, "").await.unwrap().tokens[0].last_used_time.unwrap();
    assert_eq!(noted.seconds, 32_472_144_000);
}

#[tokio::test]
async fn an_invalid_token_is_not_used() {
    let app = App::start(Sqlite).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate_for(&secret, &["admin"]).await.unwrap_err();
    let app = app.restart(&[]).await;
    assert_eq!(app.page("alice", 0, "").await.unwrap().tokens[0].last_used_time, None);
}
