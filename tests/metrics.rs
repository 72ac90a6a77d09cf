use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use latchkey::proto::latchkey::invalid::Reason;
use rstest::rstest;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    forge::forge,
    http,
    nats::{Nats, attached},
    soon, tools, until,
};

/// What the service says at `/metrics`.
pub async fn scrape(app: &App) -> String {
    let (status, head, text) = http::send(app.server.http_addr(), "GET /metrics", &[], b"").await;
    assert_eq!(status, 200, "{text}");
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    text
}

/// The value of a series, given as it is written.
pub fn value(text: &str, series: &str) -> f64 {
    find(text, series).unwrap_or_else(|| panic!("no {series}: {text}"))
}

fn find(text: &str, series: &str) -> Option<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?;
    Some(value.parse().unwrap())
}

/// The names of the metrics.
pub fn names(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn promtool_finds_nothing() {
    let nats = Nats::start();
    nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    app.issue("alice", "one").await;
    let text = scrape(&app).await;
    let promtool = tools::find("promtool", "install it: it is in Debian's package prometheus");
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    check.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let said = check.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    assert_eq!(String::from_utf8_lossy(&[said.stdout, said.stderr].concat()), "");
}

#[rstest]
#[tokio::test]
async fn what_happens_is_counted(#[values(Sqlite, Postgres)] database: Database) {
    let app = App::start(database).await;
    for zero in [
        "latchkey_validations_total{outcome=\"valid\"}",
        "latchkey_cache_hits_total",
        "latchkey_events_handled_total",
        "latchkey_events_dead_lettered_total",
        "latchkey_rpc_duration_seconds_count{code=\"OK\",method=\"CreateToken\"}",
    ] {
        assert_eq!(value(&scrape(&app).await, zero), 0.0, "{zero}");
    }

    let (id, secret) = app.issue("alice", "one").await;
    let (_, other) = app.issue("bob", "one").await;
    assert_eq!(app.create("alice", "one").await.unwrap_err().code(), Code::AlreadyExists);
    for _ in 0..3 {
        app.validate(&secret).await.unwrap();
    }
    assert_eq!(app.validate("nonsense").await, Err(Reason::Malformed));
    assert_eq!(app.validate(&forge(&secret, &other)).await, Err(Reason::Unknown));
    assert_eq!(app.validate_for(&secret, &["admin"]).await, Err(Reason::MissingScope));
    app.delete("alice", &id).await.unwrap();
    assert_eq!(app.validate(&secret).await, Err(Reason::Revoked));
    app.delete_user("bob").await;
    assert_eq!(app.validate(&other).await, Err(Reason::UserDeleted));

    let text = scrape(&app).await;
    for (series, expected) in [
        ("latchkey_validations_total{outcome=\"valid\"}", 3.0),
        ("latchkey_validations_total{outcome=\"malformed\"}", 1.0),
        ("latchkey_validations_total{outcome=\"unknown\"}", 1.0),
        ("latchkey_validations_total{outcome=\"missing_scope\"}", 1.0),
        ("latchkey_validations_total{outcome=\"revoked\"}", 1.0),
        ("latchkey_validations_total{outcome=\"user_deleted\"}", 1.0),
        ("latchkey_validations_total{outcome=\"expired\"}", 0.0),
        // The second and third validation, the wrong secret and the missing scope.
        ("latchkey_cache_hits_total", 4.0),
        ("latchkey_cache_misses_total", 3.0),
        ("latchkey_cache_entries", 0.0),
        ("latchkey_argon2_waiting", 0.0),
        ("latchkey_events_handled_total", 1.0),
        ("latchkey_rpc_duration_seconds_count{code=\"OK\",method=\"CreateToken\"}", 2.0),
        ("latchkey_rpc_duration_seconds_count{code=\"ALREADY_EXISTS\",method=\"CreateToken\"}", 1.0),
        ("latchkey_rpc_duration_seconds_count{code=\"OK\",method=\"ValidateToken\"}", 8.0),
        ("latchkey_rpc_duration_seconds_count{code=\"OK\",method=\"DeleteToken\"}", 1.0),
        (
            concat!("latchkey_build_info{revision=\"unknown\",version=\"", env!("CARGO_PKG_VERSION"), "\"}"),
            1.0,
        ),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert_eq!(value(&text, "latchkey_argon2_runs_total"), app.server.registry().argon2_runs() as f64);
    let lag = value(&text, "latchkey_revocation_tail_lag_seconds");
    assert!((0.0..5.0).contains(&lag), "{lag}");
    let pool = if database == Sqlite { "writes" } else { "main" };
    let most = value(&text, &format!("latchkey_database_connections_max{{pool=\"{pool}\"}}"));
    let connections =
        |state| value(&text, &format!("latchkey_database_connections{{pool=\"{pool}\",state=\"{state}\"}}"));
    assert_eq!(most, if database == Sqlite { 1.0 } else { 10.0 });
    assert!((1.0..=most).contains(&(connections("idle") + connections("used"))), "{text}");
}

#[tokio::test]
async fn what_becomes_of_events_is_counted() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    // One that waits for the lock; the broker is asked for the lag as soon as the service is attached.
    let before = App::start(Postgres).await;
    before.issue("alice", "one").await;
    let lock = before.lock_user("alice").await;
    identity.delete_user("alice").await;
    let settings = ["--nats-url", &nats.url(), "--nats-ack-wait", "1s"];
    let app = App::start_on(before.url.clone(), tempfile::tempdir().unwrap(), &settings).await;
    let shows = async |series: &str, expected: f64| {
        until(series, || async { (find(&scrape(&app).await, series) == Some(expected)).then_some(()) }).await;
    };
    shows("latchkey_subscriber_attached", 1.0).await;
    shows("latchkey_consumer_lag_messages", 1.0).await;
    until("a redelivery", || async {
        (value(&scrape(&app).await, "latchkey_events_redelivered_total") > 0.0).then_some(())
    })
    .await;
    lock.release().await;
    shows("latchkey_events_handled_total", 1.0).await;
    identity.publish(&[], "no protobuf").await;
    shows("latchkey_events_dead_lettered_total", 1.0).await;
    drop(nats);
    shows("latchkey_subscriber_attached", 0.0).await;
    // What the broker said last is not true for ever.
    assert!(!names(&scrape(&app).await).contains("latchkey_consumer_lag_messages"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_argon2_is_counted() {
    let heavy = ["--argon2-memory-kib", "131072", "--argon2-concurrency", "1"];
    let app = Arc::new(App::start_with(Sqlite, &heavy).await);
    let calls: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|name| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.create("alice", name).await })
        })
        .collect();
    let waiting = async || value(&scrape(&app).await, "latchkey_argon2_waiting");
    until("two that wait", || async { (waiting().await == 2.0).then_some(()) }).await;
    for call in calls {
        soon("a creation", call).await.unwrap().unwrap();
    }
    assert_eq!(waiting().await, 0.0);
}

#[tokio::test]
async fn no_label_holds_what_callers_choose() {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue("user-of-the-test", "name-of-the-test").await;
    app.validate(&secret).await.unwrap();
    let _ = app.delete("user-of-the-test", "id-of-the-test").await;
    let channel = crate::support::health::channel(&app).await;
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/latchkey.v1.TokenService/MadeUpByTheTest".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.unary(tonic::Request::new(()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    let text = scrape(&app).await;
    assert_eq!(
        value(&text, "latchkey_rpc_duration_seconds_count{code=\"UNIMPLEMENTED\",method=\"_OTHER\"}"),
        1.0
    );
    for chosen in [&id, &secret, "user-of", "name-of", "id-of", "MadeUp"] {
        assert!(!text.contains(chosen), "{chosen}: {text}");
    }
}
