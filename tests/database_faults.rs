use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tonic::Code;

use crate::support::{
    App, Client, Database,
    app::FREE_PORTS,
    database,
    latchkey::{self, Process},
    postgres::{Options, Postgres},
    proxy::Proxy,
    until,
};

/// Between two writes of last uses, with `--last-used-interval 1s`.
const INTERVAL: Duration = Duration::from_secs(1);
const OVER_AN_INTERVAL: Duration = Duration::from_millis(1_100);

/// What a call may take that does not wait for the database.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A caller that hangs up while a transaction begins or commits leaves no transaction open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_leave_no_transaction_behind() {
    const CALLS: u64 = 3_000;
    const IN_FLIGHT: usize = 8;
    /// What a call takes: some are cut off before, some in, and some after each of its statements.
    const WHOLE_CALL: Duration = Duration::from_millis(4);
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &[]).await);
    let (_, kept) = app.issue("alice", "kept").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..CALLS {
        let app = Arc::clone(&app);
        calls.spawn(async move {
            let patience = WHOLE_CALL.mul_f64(n as f64 / CALLS as f64);
            let id = uuid::Uuid::now_v7().to_string();
            let _ = tokio::time::timeout(patience, app.delete("alice", &id)).await;
        });
        if calls.len() >= IN_FLIGHT {
            calls.join_next().await.unwrap().unwrap();
        }
    }
    calls.join_all().await;
    let open = "pg_stat_activity WHERE state LIKE 'idle in transaction%' AND application_name = 'latchkey'";
    until("the end of all transactions", || async { (app.count(open).await == 0).then_some(()) }).await;
    app.validate(&kept).await.unwrap();
    let log = postgres.log();
    assert!(!log.contains("already a transaction in progress"), "{log}");
}

/// A database that is known to be away costs a call no time, and is used again as soon as it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_at_once_while_the_database_is_known_to_be_away() {
    let (proxy, url) = Proxy::to_new_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &[]).await);
    let (id, secret) = app.issue("alice", "one").await;
    // Opens several connections, all of which will hang.
    const CONNECTIONS: usize = 8;
    let open: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.page("alice", 0, "").await })
        })
        .collect();
    for call in open {
        call.await.unwrap().unwrap();
    }
    proxy.swallow_requests();
    app.readiness_becomes(false).await;
    let began = Instant::now();
    for failure in [
        app.try_validate(&secret, &[]).await.map(drop),
        app.create("alice", "two").await.map(drop),
        app.page("alice", 0, "").await.map(drop),
        app.delete("alice", &id).await,
    ] {
        assert_eq!(failure.unwrap_err().code(), Code::Unavailable);
    }
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());

    proxy.pass_requests();
    app.readiness_becomes(true).await;
    let began = Instant::now();
    app.validate(&secret).await.unwrap();
    app.issue("alice", "two").await;
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
}

/// One write that hangs does not end the writing of last uses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_uses_are_written_after_the_database_hung() {
    let (proxy, url) = Proxy::to_new_database().await;
    let settings = ["--last-used-interval", "1s", "--database-timeout", "2s"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    let last_use = async || {
        app.page("alice", 0, "").await.ok()?.tokens[0].last_used_time.map(|at| (at.seconds, at.nanos))
    };
    app.validate(&secret).await.unwrap();
    let before = until("a last use", &last_use).await;
    // The connection must have been in use a moment before the next write: the pool does not ping it then.
    tokio::time::sleep(INTERVAL / 2).await;
    last_use().await.unwrap();
    proxy.swallow_requests();
    // It is answered from memory, and the write of its use hangs.
    app.validate(&secret).await.unwrap();
    app.readiness_becomes(false).await;
    tokio::time::sleep(OVER_AN_INTERVAL).await;
    proxy.pass_requests();
    app.readiness_becomes(true).await;
    until("a later use", || async { last_use().await.filter(|at| *at > before) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_does_not_hold_up_the_shutdown() {
    let (proxy, url) = Proxy::to_new_database().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        "--database-url",
        &url,
        "--last-used-interval",
        "1s",
        "--database-timeout",
        "1s",
        "--shutdown-grace",
        "1s",
    ];
    let process = Process::start(folder.path(), &settings);
    let client = process.client().await;
    let (_, secret) = client.issue("alice", "one").await;
    client.validate(&secret).await.unwrap();
    proxy.swallow_requests();
    // It is answered from memory, and its use is not written when the service is stopped: the write hangs.
    client.validate(&secret).await.unwrap();
    tokio::time::sleep(OVER_AN_INTERVAL).await;
    let signalled = Instant::now();
    process.signal("TERM");
    let (status, output) = process.ended().await;
    assert!(status.success(), "{output}");
    // The grace, one timeout each for the last uses and for closing, and a margin.
    assert!(signalled.elapsed() < Duration::from_secs(6), "{:?}: {output}", signalled.elapsed());
}

/// Until then it is alive and not ready, and its calls fail with UNAVAILABLE.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_starts_before_its_database_waits_for_it() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    postgres.stop();
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--database-timeout", "500ms"]).await;
    assert!(!app.is_ready().await);
    assert_eq!(app.get("/livez").await.0, 200);
    assert_eq!(app.create("alice", "one").await.unwrap_err().code(), Code::Unavailable);
    postgres.resume();
    app.readiness_becomes(true).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
}

/// An error that does not pass ends the start, and the message names the database.
#[tokio::test]
async fn a_database_that_cannot_be_used_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(&Options { initdb: &["--encoding=SQL_ASCII"], ..Default::default() });
    let url = postgres.url("postgres");
    let address = url.strip_prefix("postgres://postgres@").unwrap();
    let nowhere = postgres.url("nowhere");
    for (url, said) in [
        (&url, &["SQL_ASCII", "ENCODING 'UTF8'", address][..]),
        (&nowhere, &["\"nowhere\" does not exist", &address.replace("/postgres", "/nowhere")]),
        (&"sqlite:///proc/nowhere/latchkey.db".to_owned(), &["/proc/nowhere/latchkey.db"]),
    ] {
        for command in ["serve", "migrate"] {
            let output = latchkey::refuses(folder.path(), &[command, "--database-url", url]);
            assert!(said.iter().all(|part| output.contains(part)), "{output}");
        }
    }
}

/// A second service on the same address changes nothing.
#[rstest]
#[tokio::test]
async fn the_addresses_are_bound_before_anything_is_created(
    #[values("--grpc-addr", "--http-addr")] listener: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let first = App::start(Database::Sqlite).await;
    let taken = match listener {
        "--grpc-addr" => first.grpc_addr,
        _ => first.http_addr,
    };
    let mut arguments = [&["serve"], &FREE_PORTS[..]].concat();
    let taken = taken.to_string();
    let index = arguments.iter().position(|argument| *argument == listener).unwrap();
    arguments[index + 1] = &taken;
    let said = latchkey::refuses(folder.path(), &arguments);
    assert!(said.contains(listener) && said.contains(&taken), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was created");
}

/// Makes each COMMIT wait for a standby that does not exist, or lets it go on.
async fn hold_commits(postgres: &Postgres, hold: bool) {
    let admin = database::connect(postgres.url("postgres")).await;
    let standbys = if hold { "absent" } else { "" };
    for sql in [
        "SET synchronous_commit = local".to_owned(),
        format!("ALTER SYSTEM SET synchronous_standby_names = '{standbys}'"),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        admin.execute_unprepared(&sql).await.unwrap();
    }
    until("the setting", || async {
        let row = admin
            .query_one_raw(Statement::from_string(DbBackend::Postgres, "SHOW synchronous_standby_names"));
        let now: String = row.await.unwrap().unwrap().try_get_by_index(0).unwrap();
        (now == standbys).then_some(())
    })
    .await;
    admin.close().await.unwrap();
}

/// The log says that a token is revoked when that is known, also after the caller has given up; and that it is not
/// known when the COMMIT was not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_of_a_revocation_what_is_known() {
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--database-url", &url, "--database-timeout", "2s", "--log-format", "json"];
    let process = Process::start(folder.path(), &settings);
    let client = process.client().await;
    let mut ids = Vec::new();
    for name in ["answered late", "never answered"] {
        ids.push(client.issue("alice", name).await.0);
    }
    let give_up = async |id: &str| {
        client.delete_within(Duration::from_millis(300), "alice", id).await.unwrap_err();
    };
    let waiting = async || {
        let admin = database::connect(postgres.url("postgres")).await;
        until("a COMMIT that waits", || async {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let row = admin.query_one_raw(Statement::from_string(DbBackend::Postgres, count)).await.unwrap();
            (row.unwrap().try_get_by_index::<i64>(0).unwrap() == 1).then_some(())
        })
        .await;
    };

    hold_commits(&postgres, true).await;
    give_up(&ids[0]).await;
    waiting().await;
    hold_commits(&postgres, false).await;
    until("the revocation", || async { is_gone(&client, "answered late").await }).await;

    hold_commits(&postgres, true).await;
    give_up(&ids[1]).await;
    waiting().await;
    // Longer than the service waits for the COMMIT: the timeout, and half a second.
    tokio::time::sleep(Duration::from_secs(3)).await;
    hold_commits(&postgres, false).await;
    let log = process.stop().await;
    let says = |message: &str, id: &str| log.lines().any(|line| line.contains(message) && line.contains(id));
    assert!(says("\"token revoked\"", &ids[0]), "{log}");
    assert!(!says("\"token revoked\"", &ids[1]), "{log}");
    assert!(says("not known whether the token is revoked", &ids[1]), "{log}");
}

/// Whether alice has no token of this name.
async fn is_gone(client: &Client, name: &str) -> Option<()> {
    let page = client.page("alice", 0, "").await.ok()?;
    page.tokens.iter().all(|token| token.name != name).then_some(())
}
