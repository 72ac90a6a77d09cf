use std::time::Duration;

use async_nats::jetstream::consumer::AckPolicy;
use latchkey::{
    grpc::TOKEN_SERVICE,
    proto::{identity, latchkey::invalid::Reason},
};
use prost::Message as _;
use rstest_reuse::apply;

use crate::support::{
    App,
    Database::{self, Postgres, Sqlite},
    health::USER_EVENTS,
    latchkey::Process,
    nats::{DEAD_LETTERS, Identity, Nats, attached, protobuf, structured},
    on_both_databases,
    status::reason,
    until,
};

#[apply(on_both_databases)]
#[tokio::test]
async fn every_form_of_the_message_deletes(database: Database) {
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
    let structured = structured("identity.v1.UserDeleted", "event-5", "/identity/eu", "structured");
    identity.publish(&[("Content-Type", "application/cloudevents+json")], structured).await;

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
        assert_eq!(app.count(&events).await, 1, "{events}");
    }
    assert!(identity.dead_letters().await.is_empty());
}

/// There is no broker, then no stream, then a stream with a message from before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_serves_without_a_broker_and_attaches_when_there_is_one() {
    let mut nats = Nats::start();
    nats.stop();
    let app = App::start_with(Sqlite, &["--nats-url", &nats.url()]).await;
    let (_, secret) = app.issue("alice", "one").await;
    assert!(app.is_serving("").await && app.is_serving(TOKEN_SERVICE).await);
    assert!(!app.is_serving(USER_EVENTS).await);

    nats.resume();
    let identity = Identity(nats.jetstream().await);
    // An attempt to attach begins with the stream of the dead letters.
    until("an attempt", || async { identity.0.get_stream(DEAD_LETTERS).await.ok() }).await;
    assert!(!app.is_serving(USER_EVENTS).await);
    assert!(
        identity.0.get_stream("IDENTITY").await.is_err(),
        "the service does not create the identity stream"
    );

    identity.create_stream().await;
    identity.delete_user("alice").await;
    app.attached().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_stops_at_once_without_its_broker() {
    let mut nats = Nats::start();
    nats.with_identity_stream().await;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--nats-url", &nats.url(), "--shutdown-grace", "10m"]);
    let client = process.client().await;
    let mut health = client.watch_health(USER_EVENTS).await;
    while !health.next().await {}
    nats.stop();
    while health.next().await {}
    // The open watch does not delay the stop either.
    process.stop().await;
    assert!(health.ended().await.is_ok());
}

#[tokio::test]
async fn the_stream_is_created_if_a_setting_says_so() {
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
    until("the deletion", || async { app.validate(&secret).await.err() }).await;
    let consumer = jetstream.get_stream("S").await.unwrap().consumer_info("d").await.unwrap();
    assert_eq!(consumer.config.filter_subject, "s.deleted");
    assert_eq!((consumer.config.max_deliver, consumer.config.ack_policy), (-1, AckPolicy::Explicit));
    assert_eq!(consumer.config.ack_wait, Duration::from_secs(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_attaches_again_to_a_broker_that_restarts() {
    let mut nats = Nats::start();
    nats.with_identity_stream().await;
    let app = attached(Sqlite, &nats, &[]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let mut health = app.watch_health(USER_EVENTS).await;
    assert!(health.next().await);
    nats.stop();
    assert!(!health.next().await);
    assert!(app.is_serving(TOKEN_SERVICE).await);
    nats.resume();
    assert!(health.next().await);
    let identity = Identity(nats.jetstream().await);
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
}

/// A deletion does not depend on its time: that may be unreadable, or out of the database's range.
#[apply(on_both_databases)]
#[tokio::test]
async fn a_wrong_delete_time_still_deletes(database: Database) {
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
    // The field is not a Timestamp.
    secrets.push(app.issue("bytes", "one").await.1);
    identity.publish(&[], b"\x0a\x05bytes\x12\x03now".to_vec()).await;
    identity.all_answered().await;
    for secret in &secrets {
        assert_eq!(app.validate(secret).await, Err(Reason::UserDeleted));
    }
    assert!(identity.dead_letters().await.is_empty());
    assert_eq!(app.count("users WHERE deleted_at > '2020-01-01 00:00:00+00:00'").await, 11, "as of now");
}

#[apply(on_both_databases)]
#[tokio::test]
async fn a_repeated_message_changes_nothing(database: Database) {
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

#[apply(on_both_databases)]
#[tokio::test]
async fn a_message_before_the_first_token_prevents_it(database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &[]).await;
    identity.delete_user("alice").await;
    identity.all_answered().await;
    assert_eq!(reason(&app.create("alice", "one").await.unwrap_err()), "USER_DELETED");
}

#[apply(on_both_databases)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_redelivered_until_a_temporary_error_has_passed(database: Database) {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let app = attached(database, &nats, &["--database-timeout", "100ms"]).await;
    let (_, secret) = app.issue("alice", "one").await;
    let lock = app.lock_user("alice").await;
    identity.delete_user("alice").await;
    identity.redelivered(3).await;
    assert_eq!(identity.consumer().await.num_ack_pending, 1);
    assert!(app.validate(&secret).await.is_ok());
    lock.release().await;
    identity.all_answered().await;
    assert_eq!(app.validate(&secret).await, Err(Reason::UserDeleted));
    assert!(identity.dead_letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_consumer() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    let one = attached(Postgres, &nats, &[]).await;
    let url = nats.url();
    let two = App::start_on(one.url.clone(), tempfile::tempdir().unwrap(), &["--nats-url", &url]).await;
    two.attached().await;
    let (_, secret) = one.issue("user 7", "one").await;
    const USERS: u64 = 40;
    for n in 0..USERS {
        identity.delete_user(&format!("user {n}")).await;
    }
    identity.all_answered().await;
    let consumer = identity.consumer().await;
    assert_eq!(
        (consumer.delivered.consumer_sequence, consumer.num_redelivered),
        (USERS, 0),
        "each message was delivered once"
    );
    assert_eq!(one.count("users WHERE deleted_at IS NOT NULL").await, USERS as i64);
    assert_eq!(two.validate(&secret).await, Err(Reason::UserDeleted));
}

/// The number of statements does not depend on the number of tokens, no row of a token is written, and the messages of
/// other users are not held up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_with_ten_thousand_tokens_is_deleted_by_a_few_statements() {
    let nats = Nats::start();
    let identity = nats.with_identity_stream().await;
    // Longer than the test runs: the other user must not have to wait for a timeout.
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
    assert_eq!(app.count(writes).await, 0, "a statement was made for each token, or wrote their rows");
}
