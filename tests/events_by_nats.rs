use std::{sync::Arc, time::Duration};

use async_nats::jetstream::consumer::{self, AckPolicy};
use futures_util::StreamExt as _;
use latchkey::proto::{identity, latchkey::invalid::Reason};
use prost::Message as _;
use rstest::rstest;
use serde_json::json;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    app::reason,
    health::{is_serving, watch},
    latchkey::Process,
    nats::{Identity, Nats, attached, wait_until_attached},
    soon, until,
};

const USER_EVENTS: &str = "latchkey.v1.UserEvents";

fn protobuf(user: &str) -> Vec<u8> {
    identity::UserDeleted { user_id: user.into(), delete_time: None }.encode_to_vec()
}

#[rstest]
#[tokio::test]
async fn every_form_of_the_message_revokes(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    let users = ["plain", "protobuf", "json", "binary", "structured"];
    let mut secrets = Vec::new();
    for user in users {
        secrets.push(app.issue(user, "one").await.1);
    }
    let (_, other) = app.issue("other", "one").await;

    let first = identity.publish(&[], protobuf("plain")).await;
    identity.publish(&[("content-type", "application/protobuf")], protobuf("protobuf")).await;
    identity.delete_user("json").await;
    let attributes = [
        ("ce-specversion", "1.0"),
        ("ce-type", "identity.v1.UserDeleted"),
        ("ce-id", "event-4"),
        ("ce-source", "/identity/eu"),
    ];
    identity.publish(&attributes, protobuf("binary")).await;
    let structured = json!({
        "specversion": "1.0", "type": "identity.v1.UserDeleted", "id": "event-5", "source": "/identity/eu",
        "data": { "userId": "structured" },
    });
    identity.publish(&[("Content-Type", "application/cloudevents+json")], structured.to_string()).await;

    identity.all_answered().await;
    for secret in &secrets {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(app.validate(&other).await.is_ok());
    for (user, actor, reason) in [
        ("plain", "identity", format!("IDENTITY:{first}")),
        ("binary", "/identity/eu", "event-4".into()),
        ("structured", "/identity/eu", "event-5".into()),
    ] {
        let events =
            format!("token_events WHERE user_id = '{user}' AND actor = '{actor}' AND reason = '{reason}'");
        assert_eq!(app.count(&events).await, 2, "{events}");
    }
    assert!(identity.dead_letters().await.is_empty());
}

/// No broker, then no stream, then a stream with a message that had been waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_serves_without_a_broker_and_attaches_when_there_is_one() {
    let mut nats = Nats::start();
    nats.stop();
    let app = App::start_with(Sqlite, &["--nats-url", &nats.url()]).await;
    let (_, secret) = app.issue("alice", "one").await;
    assert!(is_serving(&app, "").await && is_serving(&app, "latchkey.v1.TokenService").await);
    assert!(!is_serving(&app, USER_EVENTS).await);

    nats.resume();
    let identity = Identity(nats.jetstream().await);
    // It has tried when it has made its own stream.
    until("an attempt", || async { identity.0.get_stream("LATCHKEY_DEAD_LETTERS").await.ok() }).await;
    assert!(!is_serving(&app, USER_EVENTS).await);
    assert!(identity.0.get_stream("IDENTITY").await.is_err(), "the stream is not ours to make");

    identity.create_stream().await;
    identity.delete_user("alice").await;
    wait_until_attached(&app).await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_stops_at_once_with_the_broker_away() {
    let mut nats = Nats::start();
    nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--nats-url", &nats.url(), "--shutdown-grace", "10m"]);
    let health = HealthCheckRequest { service: USER_EVENTS.into() };
    let channel = tonic::transport::Channel::from_shared(process.url()).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel).watch(health).await.unwrap().into_inner();
    while soon("attached", health.message()).await.unwrap().unwrap().status() != ServingStatus::Serving {}
    nats.stop();
    while soon("detached", health.message()).await.unwrap().unwrap().status() == ServingStatus::Serving {}
    // Nor is it held up by the open watch.
    process.stop().await;
    assert!(soon("the end of the watch", health.message()).await.is_ok());
}

#[tokio::test]
async fn the_stream_is_made_when_asked_for() {
    let nats = Nats::start();
    let _app = attached(Sqlite, &nats, &["--nats-create-stream", "--nats-subject", "identity.>"]).await;
    let stream = nats.jetstream().await.get_stream("IDENTITY").await.unwrap();
    assert_eq!(stream.cached_info().config.subjects, ["identity.>"]);
}

#[tokio::test]
async fn stream_subject_and_consumer_are_settings() {
    let nats = Nats::start();
    let settings =
        ["--nats-stream", "S", "--nats-subject", "s.deleted", "--nats-durable", "d", "--nats-create-stream"];
    let app = attached(Sqlite, &nats, &settings).await;
    let (_, secret) = app.issue("alice", "one").await;
    let jetstream = nats.jetstream().await;
    jetstream.publish("s.deleted", protobuf("alice").into()).await.unwrap().await.unwrap();
    until("the revocation", || async { app.validate(&secret).await.err() }).await;
    let consumer = jetstream.get_stream("S").await.unwrap().consumer_info("d").await.unwrap();
    assert_eq!(consumer.config.filter_subject, "s.deleted");
    assert_eq!((consumer.config.max_deliver, consumer.config.ack_policy), (-1, AckPolicy::Explicit));
    assert_eq!(consumer.config.ack_wait, Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_is_found_again() {
    let mut nats = Nats::start();
    nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut health = watch(&app, USER_EVENTS).await;
    assert!(health.next().await);
    nats.stop();
    assert!(!soon("NOT_SERVING", health.next()).await);
    assert!(is_serving(&app, "latchkey.v1.TokenService").await);
    nats.resume();
    assert!(soon("SERVING", health.next()).await);
    let identity = Identity(nats.jetstream().await);
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

/// A consumer that would lose messages, or get the wrong ones, is not used, and the log says what is wrong with it.
#[rstest]
#[case::empty_filter("filter_subject is \"\", must be \"identity.v1.user_deleted\"", json!({ "filter_subject": "" }))]
#[case::wider_filter("filter_subject is \"identity.>\"", json!({ "filter_subject": "identity.>" }))]
#[case::more_filters(
    "filter_subjects is [\"identity.v1.user_deleted\", \"identity.v1.x\"]",
    json!({ "filter_subject": "", "filter_subjects": ["identity.v1.user_deleted", "identity.v1.x"] }),
)]
#[case::new("deliver_policy is \"new\", must be \"all\"", json!({ "deliver_policy": "new" }))]
#[case::later(
    "deliver_policy is \"by_start_sequence\"",
    json!({ "deliver_policy": "by_start_sequence", "opt_start_seq": 7 }),
)]
#[case::deliveries("max_deliver is 3, must be -1", json!({ "max_deliver": 3 }))]
#[case::headers_only("headers_only is true, must be false", json!({ "headers_only": true }))]
#[case::no_ack("ack_policy is \"none\", must be \"explicit\"", json!({ "ack_policy": "none" }))]
#[case::push("deliver_subject is \"target\"", json!({ "deliver_subject": "target" }))]
#[case::all_that_differs(
    "max_deliver is 3, must be -1; headers_only is true",
    json!({ "max_deliver": 3, "headers_only": true }),
)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_with_other_settings_is_refused(#[case] said: &str, #[case] change: serde_json::Value) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let mut config = json!({
        "durable_name": "latchkey", "deliver_policy": "all", "ack_policy": "explicit",
        "filter_subject": "identity.v1.user_deleted",
    });
    config.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: consumer::Config = serde_json::from_value(config).unwrap();
    let stream = identity.0.get_stream("IDENTITY").await.unwrap();
    stream.create_consumer(config).await.unwrap();
    let looks = identity.0.client().subscribe("$JS.API.CONSUMER.INFO.IDENTITY.latchkey").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--nats-url", &nats.url(), "--log-format", "text"]);
    // At its second attempt it has refused the consumer.
    soon("two attempts", looks.take(2).count()).await;
    // It tries again, and finds the one that it makes itself.
    stream.delete_consumer("latchkey").await.unwrap();
    identity.consumer_shows("the new consumer", |it| it.num_waiting > 0).await;
    let log = process.stop().await;
    for part in [
        "consumer \"latchkey\" of stream \"IDENTITY\"",
        said,
        "nats consumer rm IDENTITY latchkey",
        "LATCHKEY_NATS_DURABLE",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

/// What another event says of a user is not a deletion, even if its bytes look like one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_another_subject_is_never_applied() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    // Somebody changes the filter of the consumer that is in use.
    let stream = identity.0.get_stream("IDENTITY").await.unwrap();
    let mut config = stream.consumer_info("latchkey").await.unwrap().config;
    config.filter_subject = "identity.>".into();
    let mut health = watch(&app, USER_EVENTS).await;
    assert!(health.next().await);
    stream.update_consumer(config).await.unwrap();
    identity.0.publish("identity.v1.user_created", protobuf("alice").into()).await.unwrap().await.unwrap();
    identity.all_answered().await;
    assert!(app.validate(&secret).await.is_ok());
    let (headers, _) = identity.dead_letters().await.remove(0);
    let reason = headers.get("Latchkey-Reason").unwrap().to_string();
    assert!(reason.contains("subject: is \"identity.v1.user_created\""), "{reason}");
    assert!(!soon("the refusal of the consumer", health.next()).await);
}

/// With wildcards the subject does not tell what a message is.
#[tokio::test]
async fn of_a_subject_with_wildcards_only_cloud_events_of_the_type_are_applied() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &["--nats-subject", "identity.>"]).await;
    let (_, kept) = app.issue("kept", "one").await;
    let (_, deleted) = app.issue("deleted", "one").await;
    let with_type = |kind: &'static str| {
        [("ce-specversion", "1.0"), ("ce-type", kind), ("ce-id", "event-8"), ("ce-source", "/identity")]
    };
    identity.publish(&[], protobuf("kept")).await;
    identity.delete_user("kept").await;
    identity.publish(&with_type("identity.v1.UserCreated"), protobuf("kept")).await;
    identity.publish(&[("ce-type", "identity.v1.UserDeleted")], protobuf("kept")).await;
    identity.publish(&with_type("identity.v1.UserDeleted"), protobuf("deleted")).await;
    identity.all_answered().await;
    assert!(app.validate(&kept).await.is_ok());
    assert_eq!(app.validate(&deleted).await, Err(Reason::UserDeleted));
    assert_eq!(identity.dead_letters().await.len(), 4);
}

/// A deletion does not depend on a time that cannot be read, or that a database cannot hold.
#[rstest]
#[tokio::test]
async fn a_wrong_delete_time_still_deletes(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    let times = ["\"now\"", "5", "\"-5000-01-01T00:00:00Z\"", "\"0000-01-01T00:00:00Z\"", "{\"seconds\": 1}"];
    let seconds = [-62_135_596_801, -210_866_803_201, -300_000_000_000, i64::MIN, i64::MAX];
    let mut secrets = Vec::new();
    for n in 0..5 {
        let (json, proto) = (format!("json {n}"), format!("protobuf {n}"));
        secrets.push(app.issue(&json, "one").await.1);
        secrets.push(app.issue(&proto, "one").await.1);
        let body = format!("{{\"userId\": \"{json}\", \"deleteTime\": {}}}", times[n]);
        identity.publish(&[("Content-Type", "application/json")], body).await;
        let delete_time = Some(prost_types::Timestamp { seconds: seconds[n], nanos: 0 });
        identity.publish(&[], identity::UserDeleted { user_id: proto, delete_time }.encode_to_vec()).await;
    }
    // Bytes that are no Timestamp.
    secrets.push(app.issue("bytes", "one").await.1);
    identity.publish(&[], b"\x0a\x05bytes\x12\x03now".to_vec()).await;
    identity.all_answered().await;
    for secret in &secrets {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(identity.dead_letters().await.is_empty());
    assert_eq!(app.count("users WHERE deleted_at > '2020-01-01 00:00:00+00:00'").await, 11, "as of now");
}

/// Broken messages in thousands are kept one by one, and hold nobody up for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_dead_letters() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut sent = Vec::new();
    for n in 0..3_000 {
        let body = format!("broken {n}");
        sent.push(identity.0.publish("identity.v1.user_deleted", body.into()).await.unwrap());
    }
    for answer in sent {
        soon("publish", answer.into_future()).await.unwrap();
    }
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    let stream = identity.0.get_stream("LATCHKEY_DEAD_LETTERS").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 3_000);
}

#[rstest]
#[tokio::test]
async fn handling_a_message_again_changes_nothing(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    for _ in 0..3 {
        identity.delete_user("alice").await;
    }
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert_eq!(app.count("token_events WHERE kind = 'user_deleted'").await, 1);
}

#[rstest]
#[tokio::test]
async fn a_message_before_the_first_token_blocks_it(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(reason(&app.create("alice", "one").await.unwrap_err()), "USER_DELETED");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passing_fault_brings_the_message_back_until_it_passes(
    #[values(Sqlite, Postgres)] database: Database,
) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &["--database-timeout", "100ms"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    identity.delete_user("alice").await;
    // Sequence numbers of a consumer count deliveries.
    identity.redelivered(3).await;
    assert_eq!(identity.consumer().await.num_ack_pending, 1);
    assert!(app.validate(&secret).await.is_ok());
    lock.release().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert!(identity.dead_letters().await.is_empty());
}

#[rstest]
#[tokio::test]
async fn what_can_never_be_read_goes_to_the_dead_letters(#[values(Sqlite, Postgres)] database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    type Poison = (&'static [(&'static str, &'static str)], Vec<u8>, &'static str);
    let poison: [Poison; 5] = [
        (&[("Traceparent", "00-trace"), ("Nats-Msg-Id", "m-1")], b"\xff\xff".to_vec(), "in protobuf"),
        (&[("Content-Type", "application/json")], b"{\n!".to_vec(), "in JSON"),
        (&[("Content-Type", "text/plain")], b"alice".to_vec(), "text/plain"),
        (&[], protobuf(&"u".repeat(129)), "user_id has 129 bytes; at most 128 are allowed"),
        (&[], protobuf("a\0"), "user_id has the character U+0000, a control or invisible"),
    ];
    let mut sequences = Vec::new();
    for (headers, body, _) in &poison {
        sequences.push(identity.publish(headers, body.clone()).await);
    }
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted), "others are not held up");

    let mut letters = identity.dead_letters().await;
    assert_eq!(letters.len(), poison.len());
    letters.sort_by_key(|(headers, _)| {
        headers.get("Latchkey-Stream-Sequence").unwrap().to_string().parse::<u64>().unwrap()
    });
    for (((sent, body, said), sequence), (headers, kept)) in poison.iter().zip(sequences).zip(&letters) {
        let header = |name: &str| headers.get(name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(kept, body);
        assert!(header("Latchkey-Reason").contains(said), "{headers:?}");
        assert_eq!(header("Latchkey-Subject"), "identity.v1.user_deleted");
        assert_eq!(
            (header("Latchkey-Stream"), header("Latchkey-Stream-Sequence")),
            ("IDENTITY".into(), sequence.to_string())
        );
        for (name, value) in *sent {
            let kept = if name.starts_with("Nats-") {
                format!("Latchkey-Original-{name}")
            } else {
                (*name).to_owned()
            };
            assert_eq!(header(&kept), *value);
        }
    }
    assert_eq!(identity.consumer().await.num_redelivered, 0);
}

#[tokio::test]
async fn a_dead_letter_too_large_to_copy_is_cut() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let _app = attached(Sqlite, &nats, &[]).await;
    let body = vec![0xff; 1024 * 1024 - 100];
    identity.publish(&[], body.clone()).await;
    identity.all_answered().await;
    let (headers, kept) = identity.dead_letters().await.remove(0);
    assert_eq!(headers.get("Latchkey-Truncated-From").unwrap().to_string(), body.len().to_string());
    assert!(kept.len() > 1_000_000 && body.starts_with(&kept));
}

/// Without the copy the original is not given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_terminated_only_after_its_copy_is_kept() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let _app = attached(Sqlite, &nats, &[]).await;
    identity.0.delete_stream("LATCHKEY_DEAD_LETTERS").await.unwrap();
    identity.publish(&[], b"\xff".to_vec()).await;
    identity.redelivered(2).await;
    assert_eq!(identity.consumer().await.num_ack_pending, 1);
    let config = async_nats::jetstream::stream::Config {
        name: "LATCHKEY_DEAD_LETTERS".into(),
        subjects: vec!["latchkey.v1.dead_letter".into()],
        ..Default::default()
    };
    identity.0.create_stream(config).await.unwrap();
    identity.all_answered().await;
    assert_eq!(identity.dead_letters().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_consumer() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let one = attached(Postgres, &nats, &[]).await;
    let url = nats.url();
    let two = App::start_on(one.url.clone(), tempfile::tempdir().unwrap(), &["--nats-url", &url]).await;
    wait_until_attached(&two).await;
    let (_, secret) = one.issue("user 7", "one").await;
    for n in 0..40 {
        identity.delete_user(&format!("user {n}")).await;
    }
    identity.all_answered().await;
    let consumer = identity.consumer().await;
    assert_eq!(
        (consumer.delivered.consumer_sequence, consumer.num_redelivered),
        (40, 0),
        "each was delivered once"
    );
    assert_eq!(one.count("users WHERE deleted_at IS NOT NULL").await, 40);
    assert_eq!(two.validate(&secret).await, Err(Reason::UserDeleted));
}

/// Both orders are forced by the lock: who asks for it first gets it first.
#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_issued_at_the_same_moment_is_refused_or_revoked(
    #[values(Sqlite, Postgres)] database: Database,
    #[values(true, false)] token_first: bool,
) {
    let app = Arc::new(App::start_with(database, &["--database-timeout", "20s"]).await);
    let lock = app.lock_user("alice").await;
    let create = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.create("alice", "one").await })
    };
    let delete = || {
        let app = Arc::clone(&app);
        tokio::spawn(async move { app.delete_user("alice").await })
    };
    let (mut created, mut deleted);
    if token_first {
        created = create();
        still_waits(&mut created).await;
        deleted = delete();
        still_waits(&mut deleted).await;
    } else {
        deleted = delete();
        still_waits(&mut deleted).await;
        created = create();
        still_waits(&mut created).await;
    }
    lock.release().await;
    soon("the deletion", deleted).await.unwrap();
    match soon("the creation", created).await.unwrap() {
        Ok(token) => {
            assert!(token_first);
            assert_eq!(app.validate(&token.secret).await, Err(Reason::UserDeleted));
        }
        Err(refused) => {
            assert!(!token_first);
            assert_eq!(reason(&refused), "USER_DELETED");
        }
    }
    let good = "tokens JOIN users USING (user_id) WHERE revoked_at IS NULL AND deleted_at IS NULL";
    assert_eq!(app.count(good).await, 0);
}

/// What waits for a lock for so long has asked for it.
async fn still_waits<T>(call: &mut tokio::task::JoinHandle<T>) {
    assert!(tokio::time::timeout(Duration::from_millis(300), call).await.is_err());
}

/// In one message, by a number of statements that does not depend on the tokens, without touching one of their rows, and
/// without holding others up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_tokens_of_one_user_are_revoked_at_once() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    // Longer than the test waits: nobody gets their turn because the heavy user gave up.
    let patient = ["--database-timeout", "1m", "--nats-ack-wait", "10m"];
    let app = attached(Postgres, &nats, &patient).await;
    app.sql("CREATE EXTENSION pg_stat_statements").await;
    app.sql("INSERT INTO users (user_id) VALUES ('heavy')").await;
    app.sql(
        "INSERT INTO tokens (id, user_id, name, secret_hash, scopes, created_at) \
         SELECT gen_random_uuid(), 'heavy', 'token ' || n, 'x', '', now() FROM generate_series(1, 10000) AS n",
    )
    .await;
    let (_, secret) = app.issue("light", "one").await;
    let (_, heavy) = app.issue("heavier", "one").await;
    app.sql("UPDATE tokens SET user_id = 'heavy' WHERE user_id = 'heavier'").await;
    app.sql("SELECT pg_stat_statements_reset()").await;

    let lock = app.lock_user("heavy").await;
    identity.delete_user("heavy").await;
    identity.delete_user("light").await;
    until("the light user's turn", || async { app.validate(&secret).await.err() }).await;
    app.validate(&heavy).await.unwrap();
    lock.release().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&heavy).await, Err(Reason::UserDeleted));
    assert!(app.names("heavy").await.is_empty());
    assert_eq!(app.count("token_events WHERE user_id = 'heavy' AND kind = 'user_deleted'").await, 1);
    assert_eq!(app.count("token_events WHERE user_id = 'heavy'").await, 1);
    let writes = "pg_stat_statements s JOIN pg_database d ON s.dbid = d.oid AND d.datname = current_database() \
                  WHERE (s.calls > 4 OR query LIKE 'UPDATE%tokens%') \
                  AND (query LIKE 'INSERT%' OR query LIKE 'UPDATE%')";
    assert_eq!(app.count(writes).await, 0, "a statement was run once for each token, or wrote their rows");
}
