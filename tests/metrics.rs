use std::{
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
};

use latchkey::proto::latchkey::invalid::Reason;
use rstest_reuse::apply;
use tonic::Code;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    bearer_token::forge,
    metrics::{names, value},
    nats::{Nats, attached},
    on_both_databases, soon, tools, until,
};

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    let nats = Nats::start();
    nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    app.issue("alice", "one").await;
    let text = app.metrics().await;
    let promtool = tools::find("promtool", tools::INSTALL_PROMTOOL);
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

#[apply(on_both_databases)]
#[tokio::test]
async fn calls_and_their_outcomes_are_counted(database: Database) {
    let app = App::start(database).await;
    for zero in [
        "latchkey_validations_total{outcome=\"valid\"}",
        "latchkey_cache_hits_total",
        "latchkey_events_handled_total",
        "latchkey_events_dead_lettered_total",
        "latchkey_rpc_duration_seconds_count{code=\"OK\",method=\"CreateToken\"}",
    ] {
        assert_eq!(app.metric(zero).await, 0.0, "{zero}");
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

    let text = app.metrics().await;
    for (series, expected) in [
        ("latchkey_validations_total{outcome=\"valid\"}", 3.0),
        ("latchkey_validations_total{outcome=\"malformed\"}", 1.0),
        ("latchkey_validations_total{outcome=\"unknown\"}", 1.0),
        ("latchkey_validations_total{outcome=\"missing_scope\"}", 1.0),
        ("latchkey_validations_total{outcome=\"revoked\"}", 1.0),
        ("latchkey_validations_total{outcome=\"user_deleted\"}", 1.0),
        ("latchkey_validations_total{outcome=\"expired\"}", 0.0),
        // The second and third validations, the wrong secret and the missing scope.
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
    assert_eq!(value(&text, "latchkey_argon2_runs_total"), app.argon2_runs() as f64);
    let lag = value(&text, "latchkey_revocation_tail_lag_seconds");
    assert!((0.0..5.0).contains(&lag), "{lag}");
    let pool = if database == Sqlite { "writes" } else { "lookups" };
    let most = value(&text, &format!("latchkey_database_connections_max{{pool=\"{pool}\"}}"));
    let connections =
        |state| value(&text, &format!("latchkey_database_connections{{pool=\"{pool}\",state=\"{state}\"}}"));
    assert_eq!(most, if database == Sqlite { 1.0 } else { 5.0 });
    assert!((1.0..=most).contains(&(connections("idle") + connections("used"))), "{text}");
}

#[tokio::test]
async fn events_and_their_outcomes_are_counted() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    // The first event waits for the lock. The service asks the broker for the lag as soon as it is attached.
    let before = App::start(Postgres).await;
    before.issue("alice", "one").await;
    let lock = before.lock_user("alice").await;
    identity.delete_user("alice").await;
    let settings = ["--nats-url", &nats.url(), "--nats-ack-wait", "1s"];
    let app = App::start_on(before.url.clone(), tempfile::tempdir().unwrap(), &settings).await;
    app.metric_becomes("latchkey_subscriber_attached", 1.0).await;
    app.metric_becomes("latchkey_consumer_lag_messages", 1.0).await;
    until("a redelivery", || async {
        (app.metric("latchkey_events_redelivered_total").await > 0.0).then_some(())
    })
    .await;
    lock.release().await;
    app.metric_becomes("latchkey_events_handled_total", 1.0).await;
    identity.publish(&[], "no protobuf").await;
    app.metric_becomes("latchkey_events_dead_lettered_total", 1.0).await;
    drop(nats);
    app.metric_becomes("latchkey_subscriber_attached", 0.0).await;
    // A lag that cannot be known is not shown.
    assert!(!names(&app.metrics().await).contains("latchkey_consumer_lag_messages"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_argon2_are_counted() {
    // A run takes so long that the others can be seen to wait.
    let heavy = ["--argon2-memory-kib", "131072", "--argon2-concurrency", "1"];
    let app = Arc::new(App::start_with(Sqlite, &heavy).await);
    let calls: Vec<_> = ["one", "two", "three"]
        .into_iter()
        .map(|name| {
            let app = Arc::clone(&app);
            tokio::spawn(async move { app.create("alice", name).await })
        })
        .collect();
    let waiting = "latchkey_argon2_waiting";
    // One of three calls runs argon2.
    app.metric_becomes(waiting, 2.0).await;
    for call in calls {
        soon("a creation", call).await.unwrap().unwrap();
    }
    assert_eq!(app.metric(waiting).await, 0.0);
}

#[tokio::test]
async fn no_label_has_a_value_that_callers_choose() {
    let app = App::start(Sqlite).await;
    let (id, secret) = app.issue("user-of-the-test", "name-of-the-test").await;
    app.validate(&secret).await.unwrap();
    let _ = app.delete("user-of-the-test", "id-of-the-test").await;
    let mut grpc = tonic::client::Grpc::new(app.channel.clone());
    grpc.ready().await.unwrap();
    let path = "/latchkey.v1.TokenService/MadeUpByTheTest".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.unary(tonic::Request::new(()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
    let text = app.metrics().await;
    assert_eq!(
        value(&text, "latchkey_rpc_duration_seconds_count{code=\"UNIMPLEMENTED\",method=\"_OTHER\"}"),
        1.0
    );
    for chosen in [&id, &secret, "user-of", "name-of", "id-of", "MadeUp"] {
        assert!(!text.contains(chosen), "{chosen}: {text}");
    }
}
