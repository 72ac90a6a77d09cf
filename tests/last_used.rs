use chrono::TimeDelta;
use prost_types::Timestamp;
use rstest_reuse::apply;

use crate::support::{
    App, Client,
    Database::{self, Sqlite},
    app::{START_SECONDS, manual_clock},
    latchkey::Process,
    on_both_databases, until,
};

const SOON: [&str; 2] = ["--last-used-interval", "1s"];
const AT_THE_STOP: [&str; 2] = ["--last-used-interval", "1h"];

/// The time that a service with a manual clock shows after so many seconds.
fn after(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds: START_SECONDS + seconds, nanos: 0 })
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_use_is_written_within_the_interval_and_at_the_stop(database: Database) {
    let app = App::start_with_clock_and(database, manual_clock(), &SOON).await;
    let (_, used) = app.issue("alice", "used").await;
    app.issue("alice", "unused").await;
    app.clock.advance(TimeDelta::seconds(1));
    app.validate(&used).await.unwrap();
    let written = until("a write of the use", || async {
        let tokens = app.list("alice").await;
        assert_eq!(tokens[0].last_used_time, None);
        tokens[1].last_used_time
    })
    .await;
    assert_eq!(Some(written), after(1));

    let app = app.restart(&AT_THE_STOP).await;
    app.clock.advance(TimeDelta::seconds(1));
    app.validate(&used).await.unwrap();
    let app = app.restart(&[]).await;
    assert_eq!(app.list("alice").await[1].last_used_time, after(2), "the stop wrote it");
}

/// The clocks of replicas differ.
#[apply(on_both_databases)]
#[tokio::test]
async fn the_last_use_never_goes_back(database: Database) {
    let app = App::start_with_clock_and(database, manual_clock(), &AT_THE_STOP).await;
    let (_, bearer) = app.issue("alice", "one").await;
    app.clock.advance(TimeDelta::seconds(2));
    app.validate(&bearer).await.unwrap();
    let app = app.restart(&AT_THE_STOP).await;
    app.clock.advance(TimeDelta::seconds(-1));
    app.validate(&bearer).await.unwrap();
    let app = app.restart(&[]).await;
    assert_eq!(app.list("alice").await[0].last_used_time, after(2));
}

#[tokio::test]
async fn a_crash_loses_the_uses_that_were_not_written_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &SOON);
    let client = process.client().await;
    let (_, bearer) = client.issue("alice", "one").await;
    client.validate(&bearer).await.unwrap();
    let written = until("a write of the use", || last_used(&client)).await;
    client.validate(&bearer).await.unwrap();
    process.kill();

    let process = Process::start(folder.path(), &[]);
    let client = process.client().await;
    let kept = last_used(&client).await.unwrap();
    assert!((kept.seconds, kept.nanos) >= (written.seconds, written.nanos), "{kept:?}, after {written:?}");
    client.validate(&bearer).await.unwrap();
}

async fn last_used(client: &Client) -> Option<Timestamp> {
    client.list("alice").await[0].last_used_time
}

#[tokio::test]
async fn a_validation_that_fails_is_not_a_use() {
    let app = App::start(Sqlite).await;
    let (_, bearer) = app.issue("alice", "one").await;
    app.validate_for(&bearer, &["admin"]).await.unwrap_err();
    let app = app.restart(&[]).await;
    assert_eq!(app.list("alice").await[0].last_used_time, None);
}
