use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::latchkey::proto::latchkey::{
    CreateTokenRequest, DeleteTokenRequest, ListTokensRequest, ValidateTokenRequest,
    token_service_client::TokenServiceClient,
};
use rstest::rstest;
use sea_orm::{ConnectionTrait as _, DbBackend, Statement};
use tonic::{Code, transport::Channel};

use crate::support::{
    App, Database, http,
    latchkey::{self, Process},
    postgres::{Options, Postgres},
    proxy::Proxy,
    until,
};

/// A database behind a proxy: the proxy, and the URL through it.
async fn behind_a_proxy() -> (Proxy, String) {
    let url = Postgres::shared().create_database().await;
    let (_, rest) = url.split_once("127.0.0.1:").unwrap();
    let (port, name) = rest.split_once('/').unwrap();
    let proxy = Proxy::to(port.parse().unwrap()).await;
    let url = format!("postgres://postgres@{}/{name}", proxy.addr);
    (proxy, url)
}

async fn is_ready(app: &App) -> bool {
    http::send(app.server.http_addr(), "GET /readyz", &[], b"").await.0 == 200
}

/// A caller that hangs up while a transaction begins or commits leaves no transaction open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_calls_leave_no_transaction_behind() {
    const CALLS: u64 = 3_000;
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &[]).await);
    let (_, kept) = app.issue("alice", "kept").await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..CALLS {
        let app = Arc::clone(&app);
        calls.spawn(async move {
            // From at once to four milliseconds: before, in and after each statement.
            let patience = Duration::from_micros(n * 4_000 / CALLS);
            let id = uuid::Uuid::now_v7().to_string();
            let _ = tokio::time::timeout(patience, app.delete("alice", &id)).await;
        });
        if calls.len() >= 8 {
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

/// A database that is known to be away costs a call no time, and is used again at once when it is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_at_once_while_the_database_is_known_to_be_away() {
    let (proxy, url) = behind_a_proxy().await;
    let app = Arc::new(App::start_on(url, tempfile::tempdir().unwrap(), &["--max-staleness", "0s"]).await);
    let (id, secret) = app.issue("alice", "one").await;
    // Several connections, all of which will hang.
    let open: Vec<_> = (0..8)
        .map(|_| {
            let (app, secret) = (Arc::clone(&app), secret.clone());
            tokio::spawn(async move { app.validate(&secret).await })
        })
        .collect();
    for call in open {
        call.await.unwrap().unwrap();
    }
    proxy.swallow_requests();
    until("an outage", || async { (!is_ready(&app).await).then_some(()) }).await;
    let began = Instant::now();
    for failure in [
        app.try_validate(&secret, &[]).await.map(drop),
        app.create("alice", "two").await.map(drop),
        app.page("alice", 0, "").await.map(drop),
        app.delete("alice", &id).await,
    ] {
        assert_eq!(failure.unwrap_err().code(), Code::Unavailable);
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    proxy.pass_requests();
    until("the end of the outage", || async { is_ready(&app).await.then_some(()) }).await;
    let began = Instant::now();
    app.validate(&secret).await.unwrap();
    app.issue("alice", "two").await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

/// One hang must neither end the writing of last uses, nor hold up the shutdown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_uses_are_written_after_the_database_hung() {
    let (proxy, url) = behind_a_proxy().await;
    let settings = ["--last-used-interval", "1s", "--database-timeout", "500ms"];
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    let last_use = async || {
        app.page("alice", 0, "").await.ok()?.tokens[0].last_used_time.map(|at| (at.seconds, at.nanos))
    };
    app.validate(&secret).await.unwrap();
    let before = until("a last use", &last_use).await;
    // Half an interval before the next write, so that its connection was in use a moment ago and is not pinged first.
    tokio::time::sleep(Duration::from_millis(500)).await;
    last_use().await.unwrap();
    proxy.swallow_requests();
    // From memory; the write of it hangs.
    app.validate(&secret).await.unwrap();
    until("an outage", || async { (!is_ready(&app).await).then_some(()) }).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    proxy.pass_requests();
    until("the end of the outage", || async { is_ready(&app).await.then_some(()) }).await;
    until("a later use", || async { last_use().await.filter(|at| *at > before) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_does_not_hold_up_the_shutdown() {
    let (proxy, url) = behind_a_proxy().await;
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
    let mut client = crate::support::app::connect(&process.url()).await;
    let create = CreateTokenRequest { user_id: "alice".into(), name: "one".into(), ..Default::default() };
    let secret = client.create_token(create).await.unwrap().into_inner().secret;
    let validate = ValidateTokenRequest { secret: secret.into(), ..Default::default() };
    client.validate_token(validate.clone()).await.unwrap();
    proxy.swallow_requests();
    // From memory: a use that is not written when the service is told to stop.
    client.validate_token(validate).await.unwrap();
    // The write of last uses begins, and hangs.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let told = Instant::now();
    process.signal("TERM");
    let (status, output) = process.ended().await;
    assert!(status.success(), "{output}");
    // The grace, and one timeout each for the last uses and for closing.
    assert!(told.elapsed() < Duration::from_secs(6), "{:?}: {output}", told.elapsed());
}

/// It serves UNAVAILABLE, is alive and not ready, and is there when the database is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_starts_before_its_database_waits_for_it() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database().await;
    postgres.stop();
    let app = App::start_on(url, tempfile::tempdir().unwrap(), &["--database-timeout", "500ms"]).await;
    assert!(!is_ready(&app).await);
    assert_eq!(http::send(app.server.http_addr(), "GET /livez", &[], b"").await.0, 200);
    assert_eq!(app.create("alice", "one").await.unwrap_err().code(), Code::Unavailable);
    postgres.resume();
    until("readiness", || async { is_ready(&app).await.then_some(()) }).await;
    let (_, secret) = app.issue("alice", "one").await;
    app.validate(&secret).await.unwrap();
}

/// What waiting does not mend ends the start, and the message names the place.
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

/// A second service on the same address touches nothing.
#[rstest]
#[tokio::test]
async fn the_addresses_are_taken_before_anything_is_made(
    #[values("--grpc-addr", "--http-addr")] listener: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let first = App::start(Database::Sqlite).await;
    let taken = match listener {
        "--grpc-addr" => first.server.grpc_addr(),
        _ => first.server.http_addr(),
    };
    let mut arguments = vec!["serve", "--grpc-addr", "127.0.0.1:0", "--http-addr", "127.0.0.1:0"];
    let taken = taken.to_string();
    let index = arguments.iter().position(|argument| *argument == listener).unwrap();
    arguments[index + 1] = &taken;
    let said = latchkey::refuses(folder.path(), &arguments);
    assert!(said.contains(listener) && said.contains(&taken), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing was made");
}

/// A cluster whose COMMIT waits for a standby that is absent, until it is told otherwise.
async fn hold_commits(postgres: &Postgres, hold: bool) {
    let admin = sea_orm::Database::connect(postgres.url("postgres")).await.unwrap();
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

/// The log tells that a token is revoked when that is known, also if nobody waits for the answer any more; and that it is
/// not known when the COMMIT was not answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_logged_of_a_revocation_is_what_is_known() {
    let postgres = Postgres::start();
    let url = postgres.create_database().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = ["--database-url", &url, "--database-timeout", "2s", "--log-format", "json"];
    let process = Process::start(folder.path(), &settings);
    let mut client = crate::support::app::connect(&process.url()).await;
    let mut ids = Vec::new();
    for name in ["answered late", "never answered"] {
        let create = CreateTokenRequest { user_id: "alice".into(), name: name.into(), ..Default::default() };
        ids.push(client.create_token(create).await.unwrap().into_inner().token.unwrap().id);
    }
    let delete = |id: &str| {
        let mut client = client.clone();
        let mut request =
            tonic::Request::new(DeleteTokenRequest { user_id: "alice".into(), token_id: id.into() });
        request.set_timeout(Duration::from_millis(300));
        async move { client.delete_token(request).await.unwrap_err() }
    };
    let waiting = async || {
        let admin = sea_orm::Database::connect(postgres.url("postgres")).await.unwrap();
        until("a COMMIT that waits", || async {
            let count = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            let row = admin.query_one_raw(Statement::from_string(DbBackend::Postgres, count)).await.unwrap();
            (row.unwrap().try_get_by_index::<i64>(0).unwrap() == 1).then_some(())
        })
        .await;
    };

    hold_commits(&postgres, true).await;
    delete(&ids[0]).await;
    waiting().await;
    hold_commits(&postgres, false).await;
    until("the revocation", || async { is_gone(&client, "answered late").await }).await;

    hold_commits(&postgres, true).await;
    delete(&ids[1]).await;
    waiting().await;
    // Longer than the COMMIT is waited for.
    tokio::time::sleep(Duration::from_secs(3)).await;
    hold_commits(&postgres, false).await;
    let log = process.stop().await;
    let says = |message: &str, id: &str| log.lines().any(|line| line.contains(message) && line.contains(id));
    assert!(says("\"token revoked\"", &ids[0]), "{log}");
    assert!(!says("\"token revoked\"", &ids[1]), "{log}");
    assert!(says("not known whether the token is revoked", &ids[1]), "{log}");
}

/// Whether alice has no token of this name any more.
async fn is_gone(client: &TokenServiceClient<Channel>, name: &str) -> Option<()> {
    let request = ListTokensRequest { user_id: "alice".into(), ..Default::default() };
    let page = client.clone().list_tokens(request).await.ok()?.into_inner();
    page.tokens.iter().all(|token| token.name != name).then_some(())
}
