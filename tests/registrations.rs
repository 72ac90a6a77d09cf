use std::time::{Duration, Instant};

use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use rstest_reuse::apply;
use sea_orm::ConnectionTrait as _;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres},
    latchkey::{Process, command, refuses},
    on_both_databases, postgres,
    proxy::Proxy,
    until,
};

/// The lease of these tests.
const LEASE: Duration = Duration::from_secs(1);
const SETTINGS: [&str; 4] = ["--max-staleness", "1s", "--database-timeout", "500ms"];
/// Less than a lease: nobody has waited for the end of one.
const PROMPTLY: Duration = Duration::from_millis(600);

fn start(folder: &tempfile::TempDir, app: &App) -> Process {
    Process::start(folder.path(), &[&SETTINGS[..], &["--database-url", &app.url]].concat())
}

/// Pauses a replica that has just started until the others have removed it.
async fn pause_until_removed(app: &App, replica: &Process) {
    // After the first renewal and before the second: when it registers anew, it will be as far again.
    let has_renewed = || async { (app.count("replica_states WHERE renewals > 0").await == 2).then_some(()) };
    until("the first renewal", has_renewed).await;
    replica.signal("STOP");
    rows(app, 1).await;
    replica.signal("CONT");
    rows(app, 2).await;
}

async fn rows(app: &App, count: i64) {
    until("the rows of the replicas", || async { (app.count("replicas").await == count).then_some(()) })
        .await;
}

async fn deletion_takes(app: &App, name: &str) -> Duration {
    let (id, _) = app.issue("alice", name).await;
    let began = Instant::now();
    app.delete("alice", &id).await.unwrap();
    began.elapsed()
}

/// What was noted of an earlier registration says nothing of the new one.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_registers_anew_is_not_removed_while_it_is_alive(database: Database) {
    let app = App::start_with(database, &SETTINGS).await;
    let folder = tempfile::tempdir().unwrap();
    let paused = start(&folder, &app);
    pause_until_removed(&app, &paused).await;
    let registered = Instant::now();
    while registered.elapsed() < LEASE * 2 {
        assert_eq!(app.count("replicas").await, 2, "{:?} after it registered anew", registered.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The attack that the rule above is for: the removed replica would go on answering.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_is_complete_after_a_replica_registered_anew() {
    let app = App::start_with(Postgres, &SETTINGS).await;
    let folder = tempfile::tempdir().unwrap();
    let paused = start(&folder, &app);
    pause_until_removed(&app, &paused).await;
    let client = paused.client().await;
    let registered = Instant::now();
    for round in 0.. {
        let (id, secret) = app.issue(&format!("user {round}"), "one").await;
        until("an answer", || async { client.try_validate(&secret, &[]).await.ok() }).await.unwrap();
        app.delete(&format!("user {round}"), &id).await.unwrap();
        match client.try_validate(&secret, &[]).await {
            Ok(verdict) => assert_eq!(verdict, Err(Reason::Revoked), "{:?}", registered.elapsed()),
            Err(status) => assert_eq!(status.code(), Code::Unavailable),
        }
        if registered.elapsed() > LEASE * 2 {
            break;
        }
    }
}

/// A link that breaks again and again makes a replica register anew, or lose its lease, and nothing worse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_breaks_again_and_again_removes_no_live_replica() {
    let app = App::start_with(Postgres, &SETTINGS).await;
    let (proxy, flapping) = Proxy::before(&app, &SETTINGS).await;
    for millis in [1_250, 1_150, 1_300, 1_200] {
        proxy.cut();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        proxy.pass_requests();
        flapping.readiness_becomes(true).await;
        let (id, secret) = app.issue("alice", &format!("token {millis}")).await;
        until("an answer", || async { flapping.try_validate(&secret, &[]).await.ok() }).await.unwrap();
        app.delete("alice", &id).await.unwrap();
        if let Ok(verdict) = flapping.try_validate(&secret, &[]).await {
            assert_eq!(verdict, Err(Reason::Revoked));
        }
    }
}

/// Also if somebody deletes the rows by hand.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_registration_has_an_id_of_its_own(database: Database) {
    let app = App::start_with(database, &SETTINGS).await;
    let mut ids = vec![app.server.registry().replica_id()];
    for _ in 0..3 {
        app.sql("DELETE FROM replicas").await;
        let id = until("another registration", || async {
            let id = app.server.registry().replica_id();
            (app.count("replicas").await == 1 && !ids.contains(&id)).then_some(id)
        })
        .await;
        ids.push(id);
    }
}

/// A replica is registered when nothing can fail any more, and leaves in order however it ends.
#[rstest]
#[case::logo(&["--page-logo", "/nowhere/logo.svg"], "logo")]
#[case::nats_credentials(&["--nats-url", "nats://127.0.0.1:9", "--nats-credentials", "/nowhere/nats.creds"], "nats")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_delays_no_deletion(#[case] settings: &[&str], #[case] named: &str) {
    let app = App::start_with(Postgres, &SETTINGS).await;
    let folder = tempfile::tempdir().unwrap();
    let url = app.url.clone();
    let arguments = [&["serve", "--database-url", &url], &SETTINGS[..], settings].concat();
    let said = tokio::task::block_in_place(|| refuses(folder.path(), &arguments));
    assert!(said.contains(named), "{said}");
    assert_eq!(app.count("replicas").await, 1);
    assert!(deletion_takes(&app, "one").await < PROMPTLY);
}

/// SIGTERM at any moment of the start leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_stopped_delays_no_deletion() {
    let app = App::start_with(Postgres, &SETTINGS).await;
    let folder = tempfile::tempdir().unwrap();
    for millis in (20..200).step_by(4) {
        let mut starting = command();
        starting.args(["serve", "--database-url", &app.url]).args(SETTINGS).current_dir(folder.path());
        starting.args(["--argon2-memory-kib", "8", "--argon2-iterations", "1", "--log", "off"]);
        starting.args(crate::support::app::FREE_PORTS).stdout(std::process::Stdio::null());
        let mut starting = crate::support::latchkey::Killed(starting.spawn().unwrap());
        tokio::time::sleep(Duration::from_millis(millis)).await;
        starting.signal("TERM");
        starting.ended().await;
        assert_eq!(app.count("replicas").await, 1, "stopped after {millis} ms");
    }
    assert!(deletion_takes(&app, "one").await < PROMPTLY);
}

/// A replica that stands still is waited for from when that was first seen, not anew by each call.
#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_delays_later_deletions_less(database: Database) {
    const SETTINGS: [&str; 2] = ["--max-staleness", "3s"];
    let app = App::start_with(database, &SETTINGS).await;
    let folder = tempfile::tempdir().unwrap();
    let crashed = Process::start(folder.path(), &[&SETTINGS[..], &["--database-url", &app.url]].concat());
    // It has renewed at least once, so the others have seen it.
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    crashed.kill();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let took = deletion_takes(&app, "one").await;
    assert!(took < Duration::from_millis(1_800), "{took:?}");
}

/// Copies of a running machine share a registration. The first renewal by the second of them shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_registration_another_one_renews_registers_anew() {
    let app = App::start_with(Postgres, &SETTINGS).await;
    let id = app.server.registry().replica_id();
    // As its copy does.
    app.sql("UPDATE replica_states SET renewals = renewals + 1").await;
    until("another registration", || async {
        (app.server.registry().replica_id() != id && app.is_ready().await).then_some(())
    })
    .await;
}

/// A replica that cannot keep up with the log lets nobody wait for the rest of its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_falls_behind_leaves_before_its_lease_is_over() {
    const LEASE: Duration = Duration::from_secs(6);
    let app = App::start_with(Postgres, &["--max-staleness", "6s"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
    let unreadable = app.database().await;
    unreadable.execute_unprepared("BEGIN").await.unwrap();
    unreadable.execute_unprepared("LOCK TABLE token_events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let began = Instant::now();
    rows(&app, 0).await;
    assert!(began.elapsed() < LEASE, "{:?}", began.elapsed());
    assert_eq!(app.try_validate(&secret, &[]).await.unwrap_err().code(), Code::Unavailable);
    unreadable.execute_unprepared("ROLLBACK").await.unwrap();
    until("an answer", || async { app.try_validate(&secret, &[]).await.ok()?.ok() }).await;
}

/// After a failover revocations wait for replicas whose rows it may have lost, for the longest lease that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_for_lost_rows_has_the_longest_lease() {
    let mut postgres = postgres::Postgres::start();
    let url = postgres.create_database().await;
    let short = App::start_on(url.clone(), tempfile::tempdir().unwrap(), &["--max-staleness", "4s"]).await;
    let _long = App::start_on(url, tempfile::tempdir().unwrap(), &["--max-staleness", "9s"]).await;
    postgres.stop();
    postgres.resume();
    // Nobody is registered in this epoch.
    let placeholder = "replicas WHERE epoch = id AND lease_millis = 9000";
    until("the placeholder", || async { (short.count(placeholder).await == 1).then_some(()) }).await;
}
