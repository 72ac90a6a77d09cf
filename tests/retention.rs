use std::time::{Duration, Instant};

use chrono::TimeDelta;
use latchkey::{
    config::Config,
    proto::latchkey::{CreateTokenRequest, invalid::Reason},
    registry::{PurgedRows, Purger, Retention},
    server::Server,
};
use prost_types::Timestamp;
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;

use crate::support::{
    App, Client,
    Database::{self, Postgres, Sqlite},
    app::{CHEAP_ARGON2, FREE_PORTS, manual_clock},
    client::create_request,
    database::SOME_TIME,
    on_both_databases, soon,
    statements::Statements,
    status::reason,
    until,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const RETENTION: Retention = Retention { events: DAY.saturating_mul(60), tokens: DAY.saturating_mul(90) };

fn purger(app: &App) -> Purger {
    app.server.registry().purger(RETENTION)
}

/// Purges twice: an event is purged by the second run after it became visible.
async fn purge_twice(mut purger: Purger) -> PurgedRows {
    let first = purger.purge_once().await.unwrap();
    assert_eq!(first.events, 0);
    let second = purger.purge_once().await.unwrap();
    PurgedRows { tokens: first.tokens + second.tokens, events: second.events, ..Default::default() }
}

/// Tokens that have ended in every way.
struct Ended {
    revoked: String,
    expired: String,
    of_deleted_account: String,
}

/// Creates tokens and ends them, in at most a minute; the deleted account is `{when} user`.
async fn end_tokens(app: &App, when: &str) -> Ended {
    let (id, revoked) = app.issue("alice", &format!("{when} revoked")).await;
    app.delete("alice", &id).await.unwrap();
    let (_, of_deleted_account) = app.issue(&format!("{when} user"), "one").await;
    app.delete_user(&format!("{when} user")).await;
    let expire_time = Some(Timestamp { seconds: app.clock.now().timestamp() + 60, nanos: 0 });
    let request = CreateTokenRequest { expire_time, ..create_request("alice", &format!("{when} expired")) };
    let expired = app.create_with(request).await.unwrap().secret;
    app.clock.advance(TimeDelta::seconds(60));
    Ended { revoked, expired, of_deleted_account }
}

/// Inserts `count` rows of each kind that a purge deletes.
async fn give_old_rows(app: &App, count: usize) {
    for sql in Database::of(&app.url).old_rows(count) {
        app.sql(&sql).await;
    }
}

#[apply(on_both_databases)]
#[tokio::test]
async fn what_is_older_than_its_retention_goes_and_the_rest_stays(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let (_, live) = app.issue("alice", "live").await;
    let old = end_tokens(&app, "old").await;
    app.clock.advance(TimeDelta::days(60));
    let young = end_tokens(&app, "young").await;
    app.clock.advance(TimeDelta::days(31));

    // Six events from the first day: four tokens were created, one was deleted, and so was an account.
    let purged = PurgedRows { tokens: 3, events: 6, ..Default::default() };
    assert_eq!(purge_twice(purger(&app)).await, purged);
    assert_eq!((app.count("tokens").await, app.count("token_events").await), (4, 5));
    for secret in [&old.revoked, &old.expired, &old.of_deleted_account] {
        assert_eq!(app.validate(secret).await, Err(Reason::Unknown));
    }
    assert_eq!(app.validate(&young.revoked).await, Err(Reason::Revoked));
    assert_eq!(app.validate(&young.expired).await, Err(Reason::Expired));
    assert_eq!(app.validate(&young.of_deleted_account).await, Err(Reason::UserDeleted));
    app.validate(&live).await.unwrap();
    assert_eq!(app.names("alice").await, ["young expired", "live"]);
    app.issue("alice", "old expired").await;

    // Tombstones stay for good.
    for user in ["old user", "young user"] {
        assert_eq!(reason(&app.create(user, "two").await.unwrap_err()), "USER_DELETED");
    }
    assert_eq!(app.server.registry().purged_rows(), purged);
    assert_eq!(app.metric("latchkey_purged_rows_total{table=\"tokens\"}").await, 3.0);
    assert_eq!(app.metric("latchkey_purged_rows_total{table=\"token_events\"}").await, 6.0);
    assert_eq!(purge_twice(purger(&app)).await, PurgedRows::default());
}

/// A replica that sees the greatest id of the log go down takes it for a restored database, and evicts everything.
#[apply(on_both_databases)]
#[tokio::test]
async fn the_newest_event_stays_and_nothing_is_evicted(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let replica = app.replica().await;
    let (_, one) = app.issue("alice", "one").await;
    let (_, two) = app.issue("alice", "two").await;
    for secret in [&one, &two] {
        app.validate(secret).await.unwrap();
        replica.validate(secret).await.unwrap();
    }
    app.clock.advance(TimeDelta::days(1_000));
    assert_eq!(purge_twice(purger(&app)).await, PurgedRows { tokens: 0, events: 1, ..Default::default() });
    let purged = Instant::now();
    for app in [&app, &replica] {
        let statistics = || app.server.registry().statistics();
        until("a read of the log", || async { (statistics().tail_lag < purged.elapsed()).then_some(()) })
            .await;
        let misses = statistics().misses;
        app.validate(&one).await.unwrap();
        app.validate(&two).await.unwrap();
        assert_eq!(statistics().misses, misses);
    }
}

/// Whatever time it bears: the clock that it was written by may have been wrong.
#[apply(on_both_databases)]
#[tokio::test]
async fn an_event_is_kept_until_every_replica_has_had_time_to_read_it(database: Database) {
    let app = App::start_with_clock(database, manual_clock()).await;
    let mut purger = purger(&app);
    purger.purge_once().await.unwrap();
    give_old_rows(&app, 10).await;
    assert_eq!(purger.purge_once().await.unwrap().events, 0);
    assert_eq!(purger.purge_once().await.unwrap().events, 9);
}

/// On SQLite, transactions do not overlap.
#[tokio::test]
async fn an_event_that_becomes_visible_late_is_kept_as_well() {
    let app = App::start_with_clock(Postgres, manual_clock()).await;
    let open = app.database().await;
    let event = format!(
        "INSERT INTO token_events (at, kind, user_id, actor) VALUES ({SOME_TIME}, 'late', 'old', 'old')"
    );
    for sql in ["BEGIN", &event] {
        open.execute_unprepared(sql).await.unwrap();
    }
    give_old_rows(&app, 10).await;
    let mut purger = purger(&app);
    purger.purge_once().await.unwrap();
    open.execute_unprepared("COMMIT").await.unwrap();
    purger.purge_once().await.unwrap();
    assert_eq!(app.count("token_events WHERE kind = 'late'").await, 1);
    purger.purge_once().await.unwrap();
    assert_eq!(app.count("token_events WHERE kind = 'late'").await, 0);
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_replicas_that_purge_at_once_purge_everything(database: Database) {
    const ROWS: usize = 5_000;
    let app = App::start_with_clock(database, manual_clock()).await;
    let replica = app.replica().await;
    give_old_rows(&app, ROWS).await;
    let (one, two) = (tokio::spawn(purge_twice(purger(&app))), tokio::spawn(purge_twice(purger(&replica))));
    let (one, two) = (soon("a purge", one).await.unwrap(), soon("a purge", two).await.unwrap());
    let purged =
        PurgedRows { tokens: one.tokens + two.tokens, events: one.events + two.events, ..Default::default() };
    assert_eq!(purged, PurgedRows { tokens: 3 * ROWS as u64, events: ROWS as u64 - 1, ..Default::default() });
    assert_eq!((app.count("tokens").await, app.count("token_events").await), (0, 1));
    let unfinished = "users WHERE deleted_at IS NOT NULL AND tokens_purged_at IS NULL";
    assert_eq!(app.count(unfinished).await, 0, "accounts that a purge still looks at");
}

/// PostgreSQL only, and so is the next: SQLite has one writer anyway, and locks no rows.
#[tokio::test]
async fn a_replica_does_not_purge_while_another_one_does() {
    let app = App::start_with_clock(Postgres, manual_clock()).await;
    give_old_rows(&app, 10).await;
    let other = app.database().await;
    for sql in ["BEGIN", "SELECT pg_advisory_xact_lock(7017190432)"] {
        other.execute_unprepared(sql).await.unwrap();
    }
    assert_eq!(purge_twice(purger(&app)).await, PurgedRows::default());
    other.execute_unprepared("ROLLBACK").await.unwrap();
    assert_eq!(purge_twice(purger(&app)).await, PurgedRows { tokens: 30, events: 9, ..Default::default() });
}

#[tokio::test]
async fn a_purge_waits_for_no_lock_and_makes_up_for_it_later() {
    let app = App::start_with_clock(Postgres, manual_clock()).await;
    give_old_rows(&app, 10).await;
    let other = app.database().await;
    for sql in ["BEGIN", "SELECT FROM tokens WHERE name IN ('revoked 1', 'expired 1', 'kept 1') FOR UPDATE"] {
        other.execute_unprepared(sql).await.unwrap();
    }
    assert_eq!(purge_twice(purger(&app)).await.tokens, 27);
    other.execute_unprepared("ROLLBACK").await.unwrap();
    assert_eq!(purge_twice(purger(&app)).await.tokens, 3);
}

#[tokio::test]
async fn rows_are_purged_in_batches_of_500() {
    let (statements, _guard) = Statements::record();
    let app = App::start_with_clock(Sqlite, manual_clock()).await;
    give_old_rows(&app, 1_200).await;
    statements.take();
    assert_eq!(
        purge_twice(purger(&app)).await,
        PurgedRows { tokens: 3_600, events: 1_199, ..Default::default() }
    );
    let statements = statements.take();
    let made = |start: &str| statements.iter().filter(|sql| sql.starts_with(start)).count();
    // Three for each kind of row, and in the second run one for each kind of token. No request has an id.
    assert_eq!((made("DELETE FROM tokens"), made("DELETE FROM token_events")), (12, 3), "{statements:#?}");
    assert_eq!(made("DELETE FROM create_requests"), 2);
    assert_eq!(made("COMMIT"), 17, "each is a transaction of its own");
}

/// No batch holds up a call for as long as a second, which is the timeout.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_very_many_rows_are_purged(database: Database) {
    const ROWS: usize = 20_000;
    let settings = ["--database-timeout", "1s", "--max-creations-per-user", "1000000"];
    let app = App::start_with_clock_and(database, manual_clock(), &settings).await;
    give_old_rows(&app, ROWS).await;
    let purging = tokio::spawn(purge_twice(purger(&app)));
    let mut calls = 0;
    while !purging.is_finished() {
        let (id, secret) = app.issue("alice", "one").await;
        app.validate(&secret).await.unwrap();
        app.delete("alice", &id).await.unwrap();
        assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
        calls += 1;
    }
    assert!(calls > 20, "{calls}");
    let purged = purging.await.unwrap();
    assert_eq!(purged, PurgedRows { tokens: 3 * ROWS as u64, events: ROWS as u64, ..Default::default() });
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_service_purges_at_intervals_and_stops_in_the_middle(database: Database) {
    const ROWS: usize = 50_000;
    let (url, folder) = database.create().await;
    let data = folder.path().join("data");
    let mut arguments = vec!["serve", "--database-url", &url, "--data-dir", data.to_str().unwrap()];
    arguments.extend(FREE_PORTS);
    arguments.extend(CHEAP_ARGON2);
    let mut config = Config::parse_from(arguments).unwrap();
    config.retention.purge_interval = Duration::from_millis(100);
    let clock = manual_clock();
    let server = Server::start(&config, clock.clone()).await.unwrap();
    let client = Client::connect([server.grpc_addr(), server.http_addr(), server.admin_addr()]).await;
    let app = App { server, client, url, folder, clock };
    give_old_rows(&app, ROWS).await;
    until("a purge", || async { (app.server.registry().purged_rows().tokens > 0).then_some(()) }).await;
    app.server.stopper().cancel();
    drop(app.client);
    soon("the stop", app.server.ended()).await.unwrap();
    let app = App::start_on(app.url, app.folder, &[]).await;
    assert!(app.count("tokens").await > 0, "the stop waited for the end of the purge");
}
